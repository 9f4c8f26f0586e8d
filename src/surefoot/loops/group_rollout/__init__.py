"""The loop of methods on groups of completions of language models."""

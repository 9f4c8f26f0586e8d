"""Claims of methods on language models."""

"""Causal language models from transformers as policies.

`sequences` holds the padding, `head` the log-probabilities in tiles, `critic` the values, `model` the wrapper,
`generation` the engines, `nano` a small model made here. transformers is imported only when a model is loaded.
"""

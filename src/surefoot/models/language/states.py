"""The hidden states from which the written tokens are predicted, with no more work than they need.

The completions of a group have their prompt in common. It is read once: its keys and values, and their gradients, are
shared by all of them. The result is that of reading every row as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from surefoot.errors import UsageError
from surefoot.models.language.sequences import left_padded

SHARED = 2  # rows that must share a prompt on average before it is read apart


def written_states(
    network: Any, tokens: Int[Tensor, "batch length"], valid: Bool[Tensor, "batch length"]
) -> Float[Tensor, "written width"]:
    """The last hidden state before every valid token, row by row. `tokens` are padded on the right; the first token of
    a row is never valid."""
    found = _prefixes(network, tokens, valid)
    if found is None:
        hidden = network.base_model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
        return hidden[valid[:, 1:]]
    prefixes, owner, rows, first = found
    padded, seen = (x.to(tokens.device) for x in left_padded(prefixes))
    position = (seen.cumsum(-1) - 1).clamp(min=0)
    read = network.base_model(input_ids=padded, attention_mask=seen.long(), position_ids=position, use_cache=True)
    cache = read[cache_name(network)]
    cache.batch_select_indices(owner)
    tokens, valid = tokens[rows], valid[rows]
    width = int((valid.shape[1] - valid.flip(1).int().argmax(1) - 1 - first).max())
    place = first[:, None] + torch.arange(width, device=tokens.device)
    inside = place + 1 < tokens.shape[1]
    place = place.clamp(max=tokens.shape[1] - 1)
    mask = torch.cat([seen[owner].long(), torch.ones_like(place)], 1)
    hidden = network.base_model(
        input_ids=tokens.gather(1, place),
        attention_mask=mask,
        position_ids=place,
        use_cache=True,
        **{cache_name(network): cache},
    ).last_hidden_state
    following = (place + 1).clamp(max=tokens.shape[1] - 1)
    return hidden[inside & valid.gather(1, following)]


def _prefixes(network: Any, tokens: Tensor, valid: Tensor) -> tuple[list[list[int]], Tensor, Tensor, Tensor] | None:
    """The different beginnings, which of them each row has, the rows with something to predict, and where each goes on
    (its last token before the first valid one); None where reading them apart saves nothing."""
    if any(map(_checkpointed, network.modules())) or _sharded(network):
        return None  # the one keeps no keys and values; the other is read by all processes equally often
    rows = valid.any(1).nonzero().squeeze(-1)
    first = valid[rows].int().argmax(1) - 1
    if not len(rows) or int(first.min()) < 1:
        return None
    numbers: dict[tuple[int, ...], int] = {}
    beginnings = (tuple(row[:n]) for row, n in zip(tokens[rows].tolist(), first.tolist(), strict=True))
    owner = [numbers.setdefault(beginning, len(numbers)) for beginning in beginnings]
    if len(rows) < SHARED * len(numbers):
        return None
    return [list(one) for one in numbers], torch.tensor(owner, device=tokens.device), rows, first


def checkpoint_activations(network: Any) -> None:
    """Let the activations of every block be computed again in the backward pass instead of being held in memory.

    What transformers does for this works in training mode only, in which blocks drop out, skip or route at random.

    Raises:
        UsageError: the network has no blocks that are made for it.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise UsageError(f"gradient_checkpointing=True is not allowed: {type(network).__name__} does not support it.")
    for block in blocks:
        if not _checkpointed(block):
            block.forward = partial(_recomputed, block, block.forward)


def _recomputed(block: nn.Module, forward: Any, *given: Any, **named: Any) -> Any:
    """A forward pass whose activations are computed again in the backward pass, if there will be one."""
    if not torch.is_grad_enabled():
        return forward(*given, **named)

    def read(*given: Any, **named: Any) -> Any:
        with evaluating(block):  # in the backward pass too, whatever the mode of the network then is
            return forward(*given, **named)

    return checkpoint(read, *given, use_reentrant=False, preserve_rng_state=False, **named)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """A network in evaluation mode, without dropout or random routing; afterwards it is as it was before."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def checkpoints_activations(network: Any) -> bool:
    """Whether activations are computed again in the backward pass, or whoever made the network asked for it."""
    return any(
        _checkpointed(module) or getattr(module, "gradient_checkpointing", False) for module in network.modules()
    )


def _checkpointed(module: nn.Module) -> bool:
    return getattr(vars(module).get("forward"), "func", None) is _recomputed


def _sharded(network: Any) -> bool:
    """Whether its weights lie in parts, one in each process."""
    return hasattr(network, "unshard")


def cache_name(network: Any) -> str:
    """What transformers calls the keys and values, as an argument and as a result."""
    return "cache" if "cache" in signature(network.base_model.forward).parameters else "past_key_values"


@contextmanager
def split_weight(network: Any, weight: Tensor) -> Iterator[Tensor]:
    """The weight of the output layer, with a gradient that takes less memory where the embedding has the same weight.

    The gradient of the embedding is then of the rows that were read only, and is added in place; otherwise there would
    be two of the size of the weight. Inside, the network reads with its share.
    """
    embedding = network.get_input_embeddings()
    tied = isinstance(embedding, nn.Embedding) and embedding.weight is weight and weight.requires_grad
    addable = weight.dtype != torch.float16 or weight.device.type != "cpu"  # where torch adds up sparse gradients
    if not tied or not addable or _sharded(network):
        yield weight
        return
    own, sparse = embedding._parameters.pop("weight"), embedding.sparse
    embedding.weight, head = _Split.apply(weight)
    embedding.sparse = True
    try:
        yield head
    finally:
        del embedding.weight
        embedding._parameters["weight"], embedding.sparse = own, sparse


class _Split(torch.autograd.Function):
    """A tensor twice; the gradient of the second belongs to nobody else."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight.view_as(weight), weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_first: Tensor, by_second: Tensor) -> Tensor:
        return by_second.add_(by_first)

"""The hidden states from which completions' tokens are predicted, without redundant work.

The completions of a group share their prompt. It is read once: its keys and values, and their gradients, are shared by
all of them; short rows are also read without padding, where the network allows it. The result is the same as from
reading every row as a whole.
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
from surefoot.models.language.packing import LONGEST, packed_states, packs, trees
from surefoot.models.language.sequences import left_padded

SHARED = 2  # mean number of rows per prompt from which prompts are read separately


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
    if packs(network):
        forest = trees(tokens, valid, first.tolist(), rows.tolist())
        if max(map(len, forest)) <= LONGEST:
            return packed_states(network, forest, tokens.device)
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
    """The distinct prefixes, the index of each row's prefix, the rows with something to predict, and where each of them
    continues (its last token before the first valid one); None if reading prefixes separately saves nothing."""
    if any(map(_checkpointed, network.modules())) or _sharded(network):
        return None  # the first has no keys and values; the second must run equally often in all processes
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
    """Recompute the activations of every block in the backward pass instead of storing them.

    The implementation in transformers works only in training mode, in which blocks use dropout, skipping or random
    routing.

    Raises:
        UsageError: the network has no blocks that support it.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise UsageError(f"gradient_checkpointing=True is not allowed: {type(network).__name__} does not support it.")
    for block in blocks:
        if not _checkpointed(block):
            block.forward = partial(_recomputed, block, block.forward)


def _recomputed(block: nn.Module, forward: Any, *given: Any, **named: Any) -> Any:
    """A forward pass whose activations are recomputed in the backward pass, if there will be one."""
    if not torch.is_grad_enabled():
        return forward(*given, **named)

    def read(*given: Any, **named: Any) -> Any:
        with evaluating(block):  # also in the backward pass, whatever the network's mode is then
            return forward(*given, **named)

    return checkpoint(read, *given, use_reentrant=False, preserve_rng_state=False, **named)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """A network in evaluation mode, without dropout or random routing; its mode is restored afterwards."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def checkpoints_activations(network: Any) -> bool:
    """Whether activations are recomputed in the backward pass, here or by the network's own setting."""
    return any(
        _checkpointed(module) or getattr(module, "gradient_checkpointing", False) for module in network.modules()
    )


def _checkpointed(module: nn.Module) -> bool:
    return getattr(vars(module).get("forward"), "func", None) is _recomputed


def _sharded(network: Any) -> bool:
    """Whether the network's weights are sharded over processes."""
    return hasattr(network, "unshard")


def cache_name(network: Any) -> str:
    """The name in transformers of the keys and values, as an argument and as a result."""
    return "cache" if "cache" in signature(network.base_model.forward).parameters else "past_key_values"


@contextmanager
def split_weight(network: Any, weight: Tensor) -> Iterator[Tensor]:
    """The weight of the output layer, with a gradient that takes less memory if the weight is tied to the embedding.

    The embedding's gradient then covers only the rows that were read, and is added in place; otherwise there would be
    two gradients of the size of the weight. Inside the context, the network uses its own view of the weight.
    """
    embedding = network.get_input_embeddings()
    tied = isinstance(embedding, nn.Embedding) and embedding.weight is weight and weight.requires_grad
    addable = weight.dtype != torch.float16 or weight.device.type != "cpu"  # where torch can add sparse gradients
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
    """A tensor twice; the gradient of the second is not shared with anything else."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> tuple[Tensor, Tensor]:
        return weight.view_as(weight), weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_first: Tensor, by_second: Tensor) -> Tensor:
        return by_second.add_(by_first)

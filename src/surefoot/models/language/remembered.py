"""Keys and values of conversations from one turn to the next, so that only what is new is read.

A row goes on where its earlier turn ended. All rows read equally many last tokens, so that keys and values of a batch
stay adjacent whatever the lengths of the turns: where one row has more to read than another, the other reads some of
its tokens again. The result is that of reading everything, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from surefoot.models.language.sequences import left_padded
from surefoot.models.language.states import cache_name

Layers = list[tuple[Tensor, Tensor]]  # keys and values [heads, length, width] of every layer


class Read(NamedTuple):
    """Prompts that were read: what is needed to write their next tokens."""

    tokens: Int[Tensor, "rows length"]  # padded on the left
    seen: Bool[Tensor, "rows length"]
    position: Int[Tensor, "rows 1"]
    hidden: Float[Tensor, "rows width"]  # the last state
    cache: Any


@dataclass
class Memory:
    """The keys and values of the rows of the last generation, by their tokens."""

    known: dict[tuple[int, ...], Layers] = field(default_factory=dict)
    leaving: dict[tuple[int, ...], Layers] = field(default_factory=dict)  # of the generation that goes on

    def recalled(self, prompt: Sequence[int]) -> Layers | None:
        """What is known of the longest beginning of a prompt, which is shorter than it."""
        lengths = sorted({len(key) for key in self.known if len(key) < len(prompt)}, reverse=True)
        return next((found for n in lengths if (found := self.known.get(tuple(prompt[:n])))), None)

    def keep(self, cache: Any, rows: Tensor, seen: Tensor, tokens: Sequence[Sequence[int]]) -> None:
        """Keep some rows of a cache, which hold these tokens."""
        if not _plain(cache):
            return
        for i, row in zip(rows.tolist(), tokens, strict=True):
            places = seen[i].nonzero().squeeze(-1)
            self.leaving[tuple(row)] = [(x.keys[i][:, places], x.values[i][:, places]) for x in cache.layers]

    def turn(self) -> None:
        """The end of a generation: what left it is known in the next one."""
        self.known, self.leaving = self.leaving, {}


def read(base: Any, prompts: Sequence[Sequence[int]], device: torch.device, memory: Memory | None = None) -> Read:
    """Read prompts, or what a memory does not know of them."""
    tokens, seen = (x.to(device) for x in left_padded(prompts))
    positions = (seen.cumsum(-1) - 1).clamp(min=0)
    found = [None if memory is None else memory.recalled(prompt) for prompt in prompts]
    new = max(len(p) - (known[0][0].shape[1] if known else 0) for p, known in zip(prompts, found, strict=True))
    old, name, given = tokens.shape[1] - new, cache_name(base), {}
    if old:
        given = {name: _together([known or [] for known in found], [max(0, len(p) - new) for p in prompts], old)}
    out = base.base_model(
        input_ids=tokens[:, old:],
        attention_mask=seen.long(),
        position_ids=positions[:, old:],
        use_cache=True,
        **given,
    )
    return Read(tokens, seen, positions[:, -1:], out.last_hidden_state[:, -1], out[name])


def _together(rows: Sequence[Layers], lengths: Sequence[int], width: int) -> Any:
    """A cache of the beginnings of rows, so many of each, padded on the left."""
    from transformers.cache_utils import DynamicCache

    cache, some = DynamicCache(), next(row for row in rows if row)
    for layer, both in enumerate(some):
        padded = [x.new_zeros(len(rows), len(x), width, x.shape[2]) for x in both]
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            for whole, x in zip(padded, row[layer] if length else (), strict=False):
                whole[i, :, width - length :] = x[:, :length]
        cache.update(padded[0], padded[1], layer)
    return cache


def _plain(cache: Any) -> bool:
    """Whether every layer keeps the keys and values of all tokens: no window, no state in their place."""
    from surefoot.models.language.roomy import RoomyLayer  # it loads transformers

    return all(type(layer) is RoomyLayer for layer in getattr(cache, "layers", [None]))

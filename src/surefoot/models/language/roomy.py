"""Keys and values with room for the tokens to come: a token that is added does not copy those before it, and rows that
leave copy only those that take their places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

LEAST, SHARE = 16, 8  # there is room for so many more tokens, and one more for every eighth token


class RoomyLayer(DynamicLayer):
    """Keys and values `[rows, heads, length, width]` at the beginning of larger tensors; without gradients."""

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        assert layer.keys is not None and layer.values is not None, "only a layer that was read has keys and values"
        self.lazy_initialization(layer.keys, layer.values)
        self._whole = [layer.keys, layer.values]
        self._enlarge(layer.keys.shape[-2], 0)

    def _enlarge(self, length: int, new: int) -> None:
        spare = new + LEAST + length // SHARE
        self._whole = [torch.nn.functional.pad(x[..., :length, :], (0, 0, 0, spare)) for x in self._whole]
        self._show(length)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        keys, values = (x[..., :length, :] for x in self._whole)
        self.keys, self.values = keys, values
        return keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        begin, new = self.get_seq_length(), key_states.shape[-2]
        if begin + new > self._whole[0].shape[-2]:
            self._enlarge(begin, new)
        for whole, x in zip(self._whole, (key_states, value_states), strict=True):
            whole[..., begin : begin + new, :] = x
        return self._show(begin + new)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order."""
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero().squeeze(-1)
        for whole in self._whole:
            whole[moved] = whole[indices[moved]]
        self._whole = [whole[: len(indices)] for whole in self._whole]
        self._show(self.get_seq_length())


def make_roomy(cache: Any) -> None:
    """Give the layers that keep all tokens room for more."""
    layers = getattr(cache, "layers", [])
    layers[:] = [RoomyLayer(x) if type(x) is DynamicLayer and x.get_seq_length() else x for x in layers]

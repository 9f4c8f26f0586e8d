"""The baseline of sampled returns: their running mean in every epoch and state."""

from __future__ import annotations

import torch
from torch import Tensor

Gains = tuple[Tensor, Tensor, Tensor]
"""Epochs, states and returns to go of samples, all of one shape."""
FORGETS = 0.1  # least weight of an update's returns in the running mean


def tracked(mean: Tensor, seen: Tensor, time: Tensor, states: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
    """Means of returns `[H, S]`, and on how many each rests: averages that forget old policies at last."""
    place, shape = (time * mean.shape[1] + states).flatten(), mean.shape
    count = torch.bincount(place, minlength=mean.numel()).view(shape)
    total = torch.bincount(place, weights=gains.flatten(), minlength=mean.numel()).view(shape)
    seen = seen + count
    weight = torch.maximum(count / seen.clamp(min=1), FORGETS * (count > 0))
    return mean + weight * (total / count.clamp(min=1) - mean), seen

"""Fronts of several objectives, all maximised, and the volume that they dominate."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def hypervolume(points: Float[Tensor, "points objectives"], reference: Float[Tensor, " objectives"]) -> float:
    """The volume of all that is at least as good as the reference and no better than one of the points; what a point is
    worse in than the reference counts as equal. Exact, by slices along the last objective."""
    return _volume((points - reference).clamp(min=0))


def extended(
    front: Float[Tensor, "front objectives"],
    point: Float[Tensor, " objectives"],
    reference: Float[Tensor, " objectives"],
) -> tuple[Float[Tensor, "front objectives"], float]:
    """The front with one more point, and the volume that it adds; the front as it was if that is none."""
    both = nondominated(torch.cat([front, point[None]]))
    gain = hypervolume(both, reference) - hypervolume(front, reference)
    return (both, gain) if gain > 0 else (front, 0.0)


def growth(gain: float) -> float:
    """ρ = ½ + 3/2·tanh(ΔHV): between a half and two."""
    return 0.5 + 1.5 * math.tanh(gain)


def nondominated(points: Float[Tensor, "points objectives"]) -> Float[Tensor, "front objectives"]:
    """The points that no other one equals or exceeds in every objective; of equal ones the first."""
    at_least = (points[:, None] >= points).all(2)  # [i, j]: i is at least as good as j
    equal = (points[:, None] == points).all(2)
    better = at_least & ~(equal & ~torch.ones_like(equal).triu(1))
    return points[~better.any(0)]


def _volume(gains: Float[Tensor, "points objectives"]) -> float:
    if not len(gains) or gains.shape[1] == 1:
        return float(gains.max()) if len(gains) else 0.0
    ordered = gains[gains[:, -1].argsort(descending=True)]
    last = ordered[:, -1]
    heights = last - torch.cat([last[1:], last.new_zeros(1)])
    if gains.shape[1] == 2:
        return float((heights * ordered[:, 0].cummax(0).values).sum())
    return sum(height * _volume(ordered[: i + 1, :-1]) for i, height in enumerate(heights.tolist()) if height > 0)

"""The Polyak step: the gap to the optimal value over the squared norm of the gradient, capped (SPS-max).

    γ = min{ (V* − V) / (c‖g‖²), γ_b }

It needs no learning rate: scaling the objective by λ scales the gap by λ and ‖g‖² by λ², so the update γg is unchanged.
It needs V*: a known number, the best return seen so far, or the value of a second policy (`twin_step`). The
step works with any objective that is maximised, provided that V and g are those of the same one, and that g is neither
normalised nor clipped. Leading axes are seeds.

Nicolas Loizou et al., *Stochastic Polyak Step-size for SGD: An Adaptive Learning Rate for Fast Convergence* (2020),
arXiv:2002.10542; the twin estimate is after arXiv:2404.07525.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def step_size(
    gap: Float[Tensor, "..."], gradient: Float[Tensor, "... size"], c: float = 1.0, cap: float = torch.inf
) -> Float[Tensor, "..."]:
    """γ for a gap V* − V, never negative: 0 where the gap is not positive, or where the gradient is 0."""
    square = (gradient * gradient).sum(-1)
    return torch.where((gap > 0) & (square > 0), (gap / (c * square)).clamp(max=cap), torch.zeros_like(gap))


def step(
    weights: Float[Tensor, "... size"],
    gradient: Float[Tensor, "... size"],
    gap: Float[Tensor, "..."],
    c: float = 1.0,
    cap: float = torch.inf,
) -> tuple[Float[Tensor, "... size"], Float[Tensor, "..."]]:
    """The weights after one step of ascent, and the step's γ."""
    size = step_size(gap, gradient, c, cap)
    return weights + size.unsqueeze(-1) * gradient, size


class Point(NamedTuple):
    """Weights, and a batch's estimate of the objective and its gradient there."""

    weights: Float[Tensor, "... size"]
    value: Float[Tensor, "..."]
    gradient: Float[Tensor, "... size"]


class TwinStep(NamedTuple):
    """Two points after a step: the better one is unchanged, the worse one has moved."""

    better: Float[Tensor, "... size"]
    worse: Float[Tensor, "... size"]
    gap: Float[Tensor, "..."]
    size: Float[Tensor, "..."]  # γ
    swapped: Bool[Tensor, "..."]  # whether the second point is the better one


def twin_step(first: Point, second: Point, c: float = 1.0, cap: float = torch.inf) -> TwinStep:
    """One step of the point of lower value, with the other's value for V*; at a tie the first is better, none moves."""
    swapped = second.value > first.value
    choose = swapped.unsqueeze(-1)
    gap = (first.value - second.value).abs()
    lower = torch.where(choose, first.weights, second.weights)
    gradient = torch.where(choose, first.gradient, second.gradient)
    worse, size = step(lower, gradient, gap, c, cap)
    return TwinStep(torch.where(choose, second.weights, first.weights), worse, gap, size, swapped)

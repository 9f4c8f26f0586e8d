"""Budgeted uncertainty: every entry of a vector may go wrong, by 1 at most, and all together by Γ.

    Ξ = {ξ ∈ [0, 1]^n : Σ ξ_i ≤ Γ}

Γ = 0 is the nominal point, Γ = n the whole box. What is uncertain here is a vector, not a distribution, so the worst
case is that of a function: in closed form for a linear one, by projected ascent for one with gradients. A concave one
is maximised by cutting planes, each a linear function above it.

Bertsimas & Sim, *The Price of Robustness* (Operations Research 2004).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from torch import Tensor

Array = NDArray[np.float64]


def worst_linear(slope: Tensor, budget: float) -> tuple[Tensor, Tensor]:
    """The greatest slope·ξ over the set `[...]`, and the ξ that attains it `[..., n]`, for slopes `[..., n]`."""
    order = slope.argsort(-1, descending=True)
    share = (budget - torch.arange(slope.shape[-1], dtype=slope.dtype)).clamp(0, 1)
    ranked = slope.gather(-1, order)
    taken = torch.where(ranked > 0, share, 0.0)
    return (taken * ranked).sum(-1), torch.zeros_like(slope).scatter(-1, order, taken)


def project(points: Tensor, budget: float) -> Tensor:
    """The nearest points of the set to given ones `[..., n]`.

    It is clip(x − τ, 0, 1) for the least τ ≥ 0 within the budget. Their sum is piecewise linear in τ, with kinks at the
    entries of x and of x − 1.
    """
    kinks = torch.cat([points, points - 1, torch.zeros_like(points[..., :1])], -1).clamp(min=0).sort(-1).values
    sums = (points.unsqueeze(-2) - kinks.unsqueeze(-1)).clamp(0, 1).sum(-1)  # falls along the kinks, to 0
    after = (sums > budget).sum(-1, keepdim=True).clamp(max=kinks.shape[-1] - 1)
    before = (after - 1).clamp(min=0)
    high, low = sums.gather(-1, before), sums.gather(-1, after)
    start, end = kinks.gather(-1, before), kinks.gather(-1, after)
    share = torch.where(high > low, (high - budget) / (high - low).clamp(min=1e-300), 1.0).clamp(0, 1)
    tau = torch.where(after > 0, start + share * (end - start), 0.0)
    return (points - tau).clamp(0, 1)


def ascend(
    function: Callable[[Tensor], Tensor], starts: Tensor, budget: float, *, steps: int, length: float
) -> tuple[Tensor, Tensor]:
    """The greatest value `[...]` and its point `[..., n]` on paths of projected ascent, a path for each start.

    function: values `[...]` of points `[..., n]`. starts: `[..., n]`, projected first. Every step goes `length` along
    the normalised gradient. It is a lower bound of the maximum over the set.
    """
    points = project(starts, budget)
    best, value = points, torch.full(points.shape[:-1], -torch.inf, dtype=points.dtype)
    for step in range(steps + 1):
        leaf = points.detach().requires_grad_()
        with torch.enable_grad():
            found = function(leaf)
            (gradient,) = torch.autograd.grad(found.sum(), leaf)
        better = found.detach() > value
        value, best = torch.where(better, found.detach(), value), torch.where(better.unsqueeze(-1), points, best)
        if step < steps:
            size = gradient.norm(dim=-1, keepdim=True).clamp(min=1e-300)
            points = project(points + length * gradient / size, budget)
    return value, best


class Worst(NamedTuple):
    """The maximum of a function over the set, a point that attains it, and the bounds that came down to it."""

    value: float
    point: Array
    bounds: list[float]


def worst_concave(
    above: Callable[[Array], tuple[float, Array]], size: int, budget: float, *, tolerance: float = 1e-6
) -> Worst:
    """The greatest value over the set of a concave function, by Kelley's cutting planes.

    above: from ξ `[n]` to the function's value there and a slope `[n]` of a linear function that touches it there and
    lies above it elsewhere. It ends when the linear functions leave no more than `tolerance` (relative to the value)
    above the best point; a minimum of finitely many linear functions is found exactly.
    """
    point, best, cuts, bounds = np.zeros(size), -np.inf, list[tuple[float, Array]](), list[float]()
    found = point
    while True:
        value, slope = above(point)
        if value > best:
            best, found = value, point
        if bounds and bounds[-1] - best <= tolerance * max(1.0, abs(best)):
            return Worst(best, found, bounds)
        cuts.append((value - float(slope @ point), slope))
        point, bound = _highest(cuts, budget)
        bounds.append(bound)


def _highest(cuts: list[tuple[float, Array]], budget: float) -> tuple[Array, float]:
    """Where the least of some linear functions is greatest, and its value."""
    slopes = np.array([slope for _, slope in cuts])
    rows = np.hstack([-slopes, np.ones((len(cuts), 1))])  # z ≤ offset + slope·ξ
    rows = np.vstack([rows, np.append(np.ones(slopes.shape[1]), 0.0)])
    limits = np.append([offset for offset, _ in cuts], budget)
    aim = np.append(np.zeros(slopes.shape[1]), -1.0)
    answer = linprog(aim, rows, limits, bounds=[(0.0, 1.0)] * slopes.shape[1] + [(None, None)]).x
    return answer[:-1].clip(0.0, 1.0), float(answer[-1])

"""Helpers of the sets: the root of an increasing function in a bracket, the sorted order of a row, and its moments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def increasing_root(
    function: Callable[[Tensor], tuple[Tensor, Tensor]],
    low: Tensor,
    high: Tensor,
    start: Tensor,
    tolerance: float | Tensor = 1e-14,
    steps: int = 200,
) -> Tensor:
    """The root of an increasing `function: t -> (f, slope)`, for a batch, given f(low) ≤ 0 ≤ f(high).

    Newton steps from `start`; bisection wherever a step would leave the bracket or does not at least halve the step
    before last, so that it ends after a few hundred steps in the worst case. If f has no root in the bracket, the
    result is the end nearest to one.
    """
    t = torch.minimum(torch.maximum(start, low), high)
    before = high - low
    done = torch.zeros_like(t, dtype=torch.bool)
    for _ in range(steps):
        f, slope = function(t)
        newton = t - f / slope
        # Converged entries stay: rounding alone would soon send them back to the middle of their brackets.
        done |= ((newton - t).abs() <= tolerance * (1 + t.abs())) | (before <= tolerance * (1 + t.abs()))
        if bool(done.all()):
            break
        low, high = torch.where(f <= 0, t, low), torch.where(f >= 0, t, high)
        trusted = (newton > low) & (newton < high) & ((newton - t).abs() <= 0.5 * before)
        following = torch.where(done, t, torch.where(trusted, newton, 0.5 * (low + high)))
        before, t = (following - t).abs(), following
    return t


def take(x: Tensor, order: Tensor) -> Tensor:
    """`x` along the last axis in the given order; the leading axes broadcast."""
    if order.numel() == order.shape[-1]:
        return x.index_select(-1, order.flatten())
    return torch.take_along_dim(x, order, -1)


def untake(x: Tensor, order: Tensor) -> Tensor:
    """The inverse of `take`, from the given order back to the original."""
    return take(x, order.argsort(-1))


def lowest(values: Tensor, allowed: Tensor) -> Tensor:
    """The minimum of the allowed values, the axis kept with length 1."""
    return torch.where(allowed, values, torch.inf).amin(-1, keepdim=True)


def moments(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sum of the weights, and under them mean, deviations from it and variance of x; the axis summed over is kept.

    The mean is corrected by the mean deviation. So a deviation far smaller than the mean keeps its digits, and the
    weighted deviations sum to zero, even if nearly all weight lies on equal x.
    """
    mass = weights.sum(-1, keepdim=True)
    mean = (weights * x).sum(-1, keepdim=True) / mass
    centred = x - mean
    left = (weights * centred).sum(-1, keepdim=True) / mass
    centred = centred.sub_(left)
    return mass, mean + left, centred, (weights * centred**2).sum(-1, keepdim=True) / mass

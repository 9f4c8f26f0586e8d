"""Closed-form improvement of a policy: the best step of a linear value in a region where a Gaussian mixture is dense.

    maximise  g·u   subject to  −log π(u) ≤ δ,    π = Σ_i w_i N(μ_i, Σ_i), Σ_i diagonal

Two lower bounds of log π make the region an ellipsoid, in which the best point is known: the largest term of the sum,
and Jensen's Σ_i w_i log N_i. A point that satisfies a bound satisfies the constraint. Jiachen Li et al., *Offline
Reinforcement Learning with Closed-Form Policy Improvement Operators* (2023), arXiv:2211.15956.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Mixture(NamedTuple):
    """A mixture of diagonal Gaussians: log weights `[..., n]`, means and variances `[..., n, dim]`."""

    log_weights: Tensor
    means: Tensor
    variances: Tensor

    def peaks(self) -> Float[Tensor, "... n"]:
        """log w_i − ½ log det(2πΣ_i): the log density of each weighted component at its mean."""
        return self.log_weights - 0.5 * (2 * math.pi * self.variances).log().sum(-1)


def step(
    mean: Float[Tensor, "... dim"],
    variance: Float[Tensor, "... dim"],
    slope: Float[Tensor, "... dim"],
    squared_radius: Float[Tensor, "..."] | float,
) -> Float[Tensor, "... dim"]:
    """The point of the ellipsoid (u − μ)ᵀΣ⁻¹(u − μ) ≤ r² with the largest g·u: μ + r·Σg/√(gᵀΣg); μ where g = 0."""
    slope = slope / slope.abs().amax(-1, keepdim=True).clamp(min=1e-30)  # only its direction counts
    size = (variance * slope**2).sum(-1, keepdim=True)
    square = torch.as_tensor(squared_radius, dtype=mean.dtype).unsqueeze(-1)
    moves = (size > 0) & (square > 0)
    ratio = torch.where(moves, square, 1.0) / torch.where(moves, size, 1.0)
    return mean + torch.where(moves, ratio.sqrt() * variance * slope, 0.0)


def radii(mixture: Mixture, log_tau: Float[Tensor, "..."] | float) -> Float[Tensor, "... n"]:
    """r² of every component, 2·max(0, log τ + log peak − largest log peak): where it alone is as dense as 1/τ of the
    highest peak. `log_tau` broadcasts against `[..., n]`; 0 leaves the highest peak's own mean."""
    peaks = mixture.peaks()
    return 2 * (log_tau + peaks - peaks.amax(-1, keepdim=True)).clamp(min=0)


def center(mixture: Mixture) -> tuple[Float[Tensor, "... dim"], Float[Tensor, "... dim"], Float[Tensor, "..."]]:
    """Of Jensen's bound: ū = A⁻¹ Σ_i w_i Σ_i⁻¹ μ_i and A⁻¹, A = Σ_i w_i Σ_i⁻¹, and the spread
    Σ_i w_i (μ_i − ū)ᵀΣ_i⁻¹(μ_i − ū), which 2δ must exceed."""
    weights = mixture.log_weights.exp().unsqueeze(-1)
    precision = weights / mixture.variances
    inverse = 1 / precision.sum(-2)
    middle = inverse * (precision * mixture.means).sum(-2)
    spread = (precision * (mixture.means - middle.unsqueeze(-2)) ** 2).sum((-2, -1))
    return middle, inverse, spread


def jensen(
    mixture: Mixture, slope: Float[Tensor, "... dim"], delta: Float[Tensor, "..."] | float
) -> tuple[Float[Tensor, "... dim"], Bool[Tensor, "..."]]:
    """The best point with Σ_i w_i (u − μ_i)ᵀΣ_i⁻¹(u − μ_i) ≤ 2δ, and whether there is any; `slope` is g at `center`."""
    middle, inverse, spread = center(mixture)
    left = 2 * delta - spread
    return step(middle, inverse, slope, left), left >= 0


def pessimistic(values: Float[Tensor, "critics *axes"], beta: float) -> Float[Tensor, "*axes"]:
    """mean_k Q_k − β·std_k Q_k, the deviation unbiased: `MeanDeviation(β√(K/(K − 1)))` of equally likely critics
    (`surefoot.ambiguity`), written out for its gradient."""
    if len(values) == 1:
        return values[0]
    return values.mean(0) - beta * values.var(0).clamp(min=1e-12).sqrt()

"""The worst case of a half-space over a Gelbrich ball: all distributions whose mean and covariance are near given ones.

The ball of radius ρ holds every distribution of θ whose mean m and covariance S satisfy

    ‖m − m̂‖² + tr[S + Ŝ − 2(Ŝ^½ S Ŝ^½)^½] ≤ ρ²

which for normal distributions is the squared Wasserstein distance. Seen along x, it is the disc of radius ρ‖x‖ around
(m̂ᵀx, √(xᵀŜx)) in the plane of mean and standard deviation, so that the worst probability of θᵀx < 0 has a closed form.
Even at ρ = 0 the ball holds every distribution with those two moments.

Nguyen, Bui, Nguyen, *Distributionally Robust Recourse Action* (ICLR 2023), arXiv:2302.11211.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-24  # under roots, whose slope at 0 is infinite


def worst_probability(mean: Tensor, deviation: Tensor, radius: Tensor, *, normal: bool = False) -> Tensor:
    """The greatest probability of a negative score, `[...]`.

    mean, deviation: of the score θᵀx `[...]`; radius: of the disc around them, ρ‖x‖ `[...]`. With `normal` the
    ball holds normal distributions only. Where the mean can become negative the value is 1, of normal ones as well
    (they are at least ½ there), and it has no gradient.
    """
    inside = mean > radius
    a = torch.where(inside, mean, 1.0)  # so that no gradient is lost in a branch that is not taken
    b, c = torch.where(inside, deviation, 1.0), torch.where(inside, radius, 0.0)
    tangent = (a**2 + b**2 - c**2).clamp_min(TINY).sqrt()
    if normal:
        value = torch.special.ndtr(-(a**2 - c**2) / (a * b + c * tangent).clamp_min(TINY))
    else:
        value = ((a * c + b * tangent) / (a**2 + b**2)) ** 2
    return torch.where(inside, value, 1.0)


def half_space(x: Tensor, means: Tensor, covariances: Tensor, radii: Tensor | float, *, normal: bool = False) -> Tensor:
    """The greatest probability of θᵀx < 0 for every x and every ball, `[n, k]`.

    x: `[n, d]`; means: `[k, d]`; covariances: `[k, d, d]`; radii: `[k]`, in the units of θ, or one for all.
    """
    variance = torch.einsum("nd,kde,ne->nk", x, covariances, x)
    reach = torch.as_tensor(radii, dtype=x.dtype) * x.norm(dim=-1, keepdim=True)
    mean = x @ means.T
    return worst_probability(mean, variance.clamp_min(TINY).sqrt(), reach.expand_as(mean), normal=normal)

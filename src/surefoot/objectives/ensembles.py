"""Several rewards of the same answers: in a common gauge, how far they disagree, and a price for leaving the reference.

Rewards learned from comparisons are defined up to a constant each, so before they are averaged, compared or minimised
over, each is measured from its mean over answers of the reference.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def aligned(
    scores: Float[Tensor, "*answers rewards"],
    mean: Float[Tensor, " rewards"],
    scale: Float[Tensor, " rewards"] | float = 1.0,
) -> Float[Tensor, "*answers rewards"]:
    """Rewards less their means over answers of the reference, maybe in units of their standard deviations there."""
    return (scores - mean) / scale


def disagreement(scores: Float[Tensor, "*answers rewards"]) -> Float[Tensor, "*answers"]:
    """The unbiased variance of the aligned rewards of every answer over the members of an ensemble."""
    return scores.var(-1)


def relative(
    variance: Float[Tensor, "*answers"], usual: Float[Tensor, ""] | float, floor: float
) -> Float[Tensor, "*answers"]:
    """Variances in units of the usual one, with a floor in the same units, so that their mean over answers of the
    reference is 1: (σ² + floor·usual)/((1 + floor)·usual)."""
    return (variance / usual + floor) / (1 + floor)


def penalized(
    reward: Float[Tensor, "*answers"],
    weight: Float[Tensor, "*answers"] | float,
    log_ratio: Float[Tensor, "*answers"],
    beta: float,
) -> Float[Tensor, "*answers"]:
    """r − β·w·log(π/π_ref) of whole answers, a constant for the gradient. Its score-function gradient is that of

        Σ_y π·r − β·Σ_y w(y)·[π·log(π/π_ref) − π + π_ref]

    whose maximum is π_ref·exp((r − ν)/(βw)). Differentiating Σ π·w·log(π/π_ref) instead would add −β·Σ π·w·∇log π,
    which is not 0 where w varies, and pull towards answers of small w however large β is."""
    return reward - beta * weight * log_ratio

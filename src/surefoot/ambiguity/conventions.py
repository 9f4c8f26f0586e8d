"""Sizes of sets as papers write them, in the convention of this package: χ² = Σ (q − p)²/p, without a factor ½.

This is the one place where they are converted.
"""

from __future__ import annotations


def price_of_shift(nu: float) -> float:
    """The price of a unit of χ² that is written (ν·n/2)·‖q − 1/n‖² for n samples (Prospect, arXiv:2310.13863)."""
    return nu / 2


def radius_of_samples(rho: float, n: int) -> float:
    """The radius in χ² of the ball (1/2n)·Σ (n·q_i − 1)² ≤ ρ/n around n samples (DRRho, arXiv:2505.06699)."""
    return 2 * rho / n


def penalty_of_half(gamma: float) -> float:
    """The price γ/2·‖x' − x‖² of a transport surrogate whose own γ has no ½, as in dro and the dual of the ball."""
    return 2 * gamma

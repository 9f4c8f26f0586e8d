"""What several noisy answers certify about every attack on one observation.

A smoothed policy acts on s + η_i, η_i ~ N(0, σ²I), i = 1 … m: by votes for the best action, or by the median of every
coordinate of the action. An attack of ‖δ‖₂ ≤ ε moves a probability p of an event of η by at most Φ⁻¹(p) ± ε/σ. From
Sun, Gao and Weng (2024), arXiv:2406.18062, with the widths of Hoeffding for finite m.

All functions are pure. `confidence` is that of a single bound; where several must hold, share α out among them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from surefoot.evaluate.statistics import Array, fraction, numbers


def hoeffding_width(samples: int, confidence: float = 0.95) -> float:
    """Δ = √(ln(1/α) / (2m)): how far the mean of m numbers in [0, 1] can lie on one side of its expectation."""
    return math.sqrt(math.log(1 / (1 - fraction("confidence", confidence))) / (2 * samples))


def vote_radius(shares: ArrayLike, sigma: float, draws: int, confidence: float = 0.95) -> Array:
    """The radius `[...]` of ε within which the winner of the votes cannot change, from shares `[..., actions]` of so
    many votes: (σ/2)·(Φ⁻¹(q₁ − Δ) − Φ⁻¹(q₂ + Δ)), 0 where the two best cannot be told apart.

    It is about the winner of infinitely many votes. Every share is within Δ with this confidence, on the side that
    counts, so all are with 1 − actions·α.
    """
    q, width = np.sort(numbers("shares", shares), axis=-1), hoeffding_width(draws, confidence)
    first, second = q[..., -1] - width, (q[..., -2] if q.shape[-1] > 1 else np.zeros(q.shape[:-1])) + width
    with np.errstate(invalid="ignore"):
        radius = sigma / 2 * (ndtri(np.clip(first, 0, 1)) - ndtri(np.clip(second, 0, 1)))
    return np.where(first > second, np.nan_to_num(radius), 0.0)


def quantile_levels(budget: float, sigma: float, draws: int, confidence: float = 0.95) -> tuple[float, float]:
    """The levels of the quantiles of one noisy coordinate between which its median stays under an attack:
    Φ(Φ⁻¹(½ ∓ Δ) ∓ ε/σ)."""
    width = hoeffding_width(draws, confidence)
    if width >= 0.5:
        return 0.0, 1.0
    return float(ndtr(ndtri(0.5 - width) - budget / sigma)), float(ndtr(ndtri(0.5 + width) + budget / sigma))


def return_level(budget: float, sigma: float, steps: int, episodes: int, confidence: float = 0.95) -> float:
    """The level of the quantile of `episodes` returns, each with one noisy draw a step, that is below the median return
    under attacks of `budget` at each of so many steps: Φ(Φ⁻¹(½ − Δ) − ε√T/σ)."""
    width = hoeffding_width(episodes, confidence)
    return float(ndtr(ndtri(0.5 - width) - budget * math.sqrt(steps) / sigma)) if width < 0.5 else 0.0


def median_bounds(
    samples: ArrayLike, budget: float, sigma: float, draws: int, confidence: float = 0.95
) -> tuple[Array, Array]:
    """Bounds `[..., dim]` of the median of `draws` noisy answers under every attack of this budget, from fresh noisy
    answers `[samples, ..., dim]` without one.

    The levels of `quantile_levels` are those of the true distribution; the order statistics are so far out that they
    lie beyond them. One bound needs two such events, and has `confidence` if each has half of α; the paper takes the
    quantiles of the samples themselves. Infinite where the samples are too few.
    """
    x = np.sort(np.asarray(samples, dtype=float), axis=0)
    half = 1 - (1 - fraction("confidence", confidence)) / 2
    low, high = quantile_levels(budget, sigma, draws, half)
    count = len(x)
    below = int(binom.ppf(1 - half, count, low)) - 1  # P[fewer than k of the samples lie below the quantile] ≤ α/2
    while below >= 0 and binom.cdf(below, count, low) > 1 - half:
        below -= 1
    above = int(binom.ppf(half, count, high))
    while above < count and binom.sf(above, count, high) > 1 - half:
        above += 1
    unbounded = np.full(x.shape[1:], np.inf)
    return (x[below] if below >= 0 else -unbounded), (x[above] if above < count else unbounded)


def action_divergence(low: ArrayLike, high: ArrayLike, budget: float) -> Array:
    """‖high − low‖₂ / (2ε) over the last axis: ADIV, of which the paper reports the mean over states and budgets."""
    return np.linalg.norm(np.asarray(high, float) - np.asarray(low, float), axis=-1) / (2 * budget)

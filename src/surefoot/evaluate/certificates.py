"""What returns without an attack certify about every attack on the observations of a smoothed policy.

A smoothed policy adds fresh N(0, σ²I) noise to every observation before it acts. An attacker adds ε_t to that of step
t, may know all that has happened, and spends at most ε over the episode: Σ_t ‖ε_t‖₂² ≤ ε². For any event of the
episode, of probability p without an attack,

    P_attack ≥ Φ(Φ⁻¹(p) − ε/σ)

(adaptive Neyman–Pearson: Kumar, Levine and Feizi, *Policy Smoothing for Provably Robust Reinforcement Learning*, 2022,
arXiv:2106.11420, theorem 1), and no better bound holds for all environments. With lower confidence bounds S(v) of
P[R ≥ v] at thresholds v_1 < … < v_k, and returns never below v_0,

    E_attack[R] ≥ v_0 + Σ_i (v_i − v_{i−1})·Φ(Φ⁻¹(S(v_i)) − ε/σ).

All functions are pure; `shift` is ε/σ.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, erf, ndtr, ndtri

from surefoot.errors import UsageError
from surefoot.evaluate.statistics import Array, fraction, numbers

BOUNDS = ("clopper-pearson", "dkw")


class Survival(NamedTuple):
    """Lower confidence bounds, valid together, of the probability that the return reaches each of some thresholds."""

    values: Array  # [k] thresholds, ascending
    low: Array  # [k] bounds of P[R ≥ value], not increasing


def attacked(probability: ArrayLike, shift: float) -> Array:
    """The least probability under attack of an event of this `probability` without one: Φ(Φ⁻¹(p) − shift)."""
    p = numbers("probability", probability)
    if p.min() < 0 or p.max() > 1:
        raise UsageError(f"probability={probability!r} is not allowed; it must lie in [0, 1].")
    return ndtr(ndtri(p) - _shift(shift))


def per_step_shift(budget: float, sigma: float, observations: int) -> float:
    """The shift of an attacker with `budget` for every observation, after so many of them: √observations · budget/σ."""
    return math.sqrt(observations) * budget / sigma


def total_variation(shift: float) -> float:
    """The most by which an attack changes the probability of any event: erf(shift / (2√2))."""
    return float(erf(_shift(shift) / (2 * math.sqrt(2))))


def dkw_width(episodes: int, confidence: float = 0.95) -> float:
    """Half the width of the band of Dvoretzky, Kiefer and Wolfowitz (Massart 1990): √(ln(2/α) / (2n))."""
    return math.sqrt(math.log(2 / (1 - fraction("confidence", confidence))) / (2 * episodes))


def lower_clopper_pearson(successes: ArrayLike, trials: int, confidence: float = 0.95) -> Array:
    """Exact one-sided lower bounds of success rates: BetaInv(α; k, n − k + 1), 0 without a success."""
    k = numbers("successes", successes)
    if k.min() < 0 or k.max() > trials:
        raise UsageError(f"successes={successes!r} is not allowed with trials={trials}; give 0 <= successes <= trials.")
    some = np.maximum(k, 1)
    return np.where(k > 0, betaincinv(some, trials - some + 1, 1 - fraction("confidence", confidence)), 0.0)


def survival(
    returns: ArrayLike,
    confidence: float = 0.95,
    bound: str = "clopper-pearson",
    thresholds: ArrayLike | None = None,
) -> Survival:
    """Bounds that hold together with probability `confidence`, from the returns `[n]` of independent episodes.

    "dkw" subtracts the width of the band everywhere, which is good in the middle. "clopper-pearson" shares α out
    equally among n exact bounds, those of the order statistics, which is good near 1; with fewer `thresholds`, chosen
    before the episodes were seen (1 to 200 for an environment that counts up to 200 steps), among these.

    Raises:
        UsageError: returns or thresholds are not finite numbers, thresholds do not ascend, or there are too few
            episodes for any statement about the median (`fewest`).
    """
    scores = np.sort(numbers("returns", returns), axis=None)
    n, values = len(scores), np.unique(scores) if thresholds is None else numbers("thresholds", thresholds)
    if values.ndim != 1 or (np.diff(values) <= 0).any():
        raise UsageError(f"thresholds={thresholds!r} is not allowed; give one ascending list of numbers.")
    check_episodes(n, confidence, bound, thresholds)
    reached = n - np.searchsorted(scores, values, "left")
    return Survival(values, _low(reached, n, confidence, bound, None if thresholds is None else len(values)))


def _low(reached: ArrayLike, n: int, confidence: float, bound: str, thresholds: int | None) -> Array:
    if bound == "dkw":
        return np.maximum(np.asarray(reached) / n - dkw_width(n, confidence), 0.0)
    return lower_clopper_pearson(reached, n, 1 - (1 - confidence) / min(n, thresholds or n))


def check_episodes(n: int, confidence: float, bound: str, thresholds: ArrayLike | None = None) -> None:
    """Raise `UsageError` if so few episodes, whatever their returns, cannot certify a probability of a half."""
    if bound not in BOUNDS:
        raise UsageError(f"bound={bound!r} is not allowed; it must be one of {', '.join(BOUNDS)}.")
    fraction("confidence", confidence)
    count = None if thresholds is None else np.size(thresholds)

    def enough(n: int) -> bool:
        return float(_low(n, n, confidence, bound, count)) >= 0.5

    if n < 1 or not enough(n):
        low, high = 1, 2
        while not enough(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        raise UsageError(
            f"episodes={n} is too few for confidence={confidence:g}: even if every return were the highest, no "
            f"probability above 1/2 could be certified. The least are {high}; 1000 or more give useful bounds."
        )


def certified_mean(found: Survival, shift: float, lowest: float = 0.0) -> float:
    """A lower bound of the mean return under attack. `lowest`: a value below which no return lies, attacked or not."""
    if found.values[0] < lowest:
        raise UsageError(
            f"lowest={lowest:g} is not allowed: there is a return or threshold of {found.values[0]:g}. It must be a "
            "bound that no return can fall below, also under attack: the least reward times the longest episode."
        )
    return float(lowest + np.diff(found.values, prepend=lowest) @ attacked(found.low, shift))


def certified_quantile(found: Survival, shift: float, share: float = 0.5, lowest: float = 0.0) -> float:
    """A lower bound of a quantile of the return under attack, by default of its median: the highest threshold that an
    attacked episode reaches with probability at least 1 − share."""
    reached = found.values[attacked(found.low, shift) >= 1 - fraction("share", share)]
    return float(reached[-1]) if len(reached) else float(lowest)


def certified_probability(found: Survival, shift: float, value: float) -> float:
    """A lower bound of the probability that a return under attack is at least `value`."""
    place = int(np.searchsorted(found.values, value, "left"))
    return float(attacked(found.low[place], shift)) if place < len(found.values) else 0.0


def _shift(shift: float) -> float:
    if not math.isfinite(shift) or shift < 0:
        raise UsageError(f"shift={shift!r} is not allowed; budget/sigma must be a finite number of at least 0.")
    return float(shift)

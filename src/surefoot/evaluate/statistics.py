"""Honest figures from few runs: robust aggregates, bootstrap intervals, tail means, exact proportions.

Scores are arrays `[runs, tasks]`; a flat array `[runs]` is one task. A *statistic* maps `[..., runs, tasks]` to
`[...]`, so that a whole bootstrap is one call. The aggregates and the stratified bootstrap are those of Agarwal et al.,
"Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv:2108.13264).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta

from surefoot.errors import UsageError
from surefoot.seeding import check_seed, numpy_stream

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]

_CHUNK = 2**22  # numbers held by one piece of a bootstrap: 32 MiB


class ConfidenceInterval(NamedTuple):
    """The two ends of an interval: floats, or arrays where the estimate is an array."""

    low: Any
    high: Any


def numbers(name: str, values: ArrayLike) -> Array:
    """`values` as float64, refused when empty or not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise UsageError(f"{name} is empty (shape {array.shape}); give at least one score.")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise UsageError(
            f"{name} holds {bad} value(s) that are NaN or infinite, of {array.size}; a figure over them would hide a"
            " failed run. Remove or impute them knowingly."
        )
    return array


def _matrix(name: str, values: ArrayLike) -> Array:
    array = numbers(name, values)
    if array.ndim == 0:
        raise UsageError(f"{name} is a single number; give an array [runs, tasks] or [runs].")
    return array[:, None] if array.ndim == 1 else array


def fraction(name: str, value: float) -> float:
    """The value, if it is a number between 0 and 1; a `UsageError` otherwise."""
    if not 0 < value < 1:
        raise UsageError(f"{name}={value!r} is not allowed; it must be a number in (0, 1), for example 0.95.")
    return value


def _quantiles(samples: Array, level: float) -> ConfidenceInterval:
    tail = (1 - level) / 2
    low, high = np.quantile(samples, [tail, 1 - tail], axis=0)
    return ConfidenceInterval(low if np.ndim(low) else float(low), high if np.ndim(high) else float(high))


def interquartile_mean(scores: ArrayLike) -> Array:
    """Mean of the middle half of all runs and tasks: `floor(n/4)` scores are cut at either end.

    Maps `[..., runs, tasks]` to `[...]`. Less noisy than the median, and deaf to outliers unlike the mean.
    """
    matrix = _matrix("scores", scores)
    flat = matrix.reshape(*matrix.shape[:-2], -1)
    count, cut = flat.shape[-1], flat.shape[-1] // 4
    return np.partition(flat, (cut, count - cut - 1), axis=-1)[..., cut : count - cut].mean(axis=-1)


def mean(scores: ArrayLike) -> Array:
    """Mean over all runs and tasks, `[..., runs, tasks] -> [...]`."""
    return _matrix("scores", scores).mean(axis=(-2, -1))


def median(scores: ArrayLike) -> Array:
    """Median over the tasks of the mean over runs, `[..., runs, tasks] -> [...]`."""
    return np.median(_matrix("scores", scores).mean(axis=-2), axis=-1)


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> Array:
    """How far the scores fall short of `target` on average, surplus not counted: `[..., runs, tasks] -> [...]`."""
    return target - np.minimum(_matrix("scores", scores), target).mean(axis=(-2, -1))


def bootstrap_interval(
    scores: ArrayLike,
    statistic: Statistic = interquartile_mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> ConfidenceInterval:
    """Percentile bootstrap interval of a statistic of `scores [runs, tasks]`; runs are resampled within each task.

    Tasks are fixed, not resampled: the interval answers what other runs would have shown on these tasks. `statistic`
    maps `[..., runs, tasks]` to `[...]`. The same seed gives the same interval.
    """
    matrix = _matrix("scores", scores)
    if matrix.ndim != 2:
        raise UsageError(f"scores has shape {matrix.shape}; it must be [runs, tasks] or [runs].")
    fraction("level", level)
    rng = _stream(resamples, seed)
    runs, tasks = matrix.shape
    task = np.arange(tasks)
    pieces = []
    for count in _chunks(resamples, matrix.size):
        drawn = statistic(matrix[rng.integers(runs, size=(count, runs, tasks)), task])
        if np.shape(drawn) != (count,):
            raise UsageError(
                f"statistic={statistic!r} returned shape {np.shape(drawn)} for input {(count, runs, tasks)}; it must"
                " reduce the last two axes and keep the first, as statistics.mean does."
            )
        pieces.append(drawn)
    return _quantiles(np.concatenate(pieces), level)


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """P(X > Y) + P(X = Y)/2 for a random run of each, averaged over tasks; `x [runs_x, tasks]`, `y [runs_y, tasks]`."""
    return float(_wins(x, y).mean())


def improvement_interval(
    x: ArrayLike, y: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> ConfidenceInterval:
    """Stratified bootstrap interval of `probability_of_improvement`; the runs of both are resampled independently."""
    wins = _wins(x, y)
    fraction("level", level)
    rng = _stream(resamples, seed)
    tasks, runs_x, runs_y = wins.shape
    pieces = []
    for count in _chunks(resamples, wins.size):
        drawn_x = rng.multinomial(runs_x, np.full(runs_x, 1 / runs_x), size=(count, tasks))
        drawn_y = rng.multinomial(runs_y, np.full(runs_y, 1 / runs_y), size=(count, tasks))
        won = (np.einsum("bti,tij->btj", drawn_x, wins) * drawn_y).sum(axis=(1, 2))
        pieces.append(won / wins.size)
    return _quantiles(np.concatenate(pieces), level)


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """Share of runs and tasks with a score above each threshold: `[runs, tasks], [k] -> [k]`."""
    return _above(scores, thresholds).mean(axis=(0, 1))


def profile_interval(
    scores: ArrayLike, thresholds: ArrayLike, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> ConfidenceInterval:
    """Pointwise stratified bootstrap band of `performance_profile`: arrays `[k]`."""
    above = _above(scores, thresholds)
    fraction("level", level)
    rng = _stream(resamples, seed)
    runs, tasks, _ = above.shape
    pieces = []
    for count in _chunks(resamples, above.size):
        drawn = rng.multinomial(runs, np.full(runs, 1 / runs), size=(count, tasks)).astype(np.float64)
        pieces.append(np.einsum("btr,rtk->bk", drawn, above, optimize=True) / (runs * tasks))
    return _quantiles(np.concatenate(pieces), level)


def cvar(values: ArrayLike, level: float) -> float:
    """Mean of the worst (smallest) share `level` of `values`, any shape, flattened; `level` in (0, 1].

    When `level * n` is not whole, the next smallest value enters with the fraction that is missing, so the result is
    continuous in `level`; level 1 is the mean, and a level up to 1/n is the minimum.
    """
    array = np.sort(numbers("values", values), axis=None)
    if not 0 < level <= 1:
        raise UsageError(
            f"level={level!r} is not allowed; it must be a number in (0, 1], the share of worst values to average."
        )
    return float(tail_weights(array.size, level) @ array)


def tail_weights(count: int, level: float) -> Array:
    """The weights `[count]`, summing to 1, that `cvar` gives to values sorted upwards."""
    weight = np.clip(level * count - np.arange(count), 0, 1)
    return weight / weight.sum()


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> ConfidenceInterval:
    """Exact binomial interval of a success rate: covers the true rate with probability at least `level`."""
    if trials < 1 or not 0 <= successes <= trials:
        raise UsageError(
            f"successes={successes!r}, trials={trials!r} is not allowed; 0 <= successes <= trials, trials >= 1."
        )
    tail = (1 - fraction("level", level)) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    return ConfidenceInterval(low, high)


def _wins(x: ArrayLike, y: ArrayLike) -> Array:
    """Who wins which pair of runs, 1, 1/2 or 0: `[tasks, runs_x, runs_y]`."""
    left, right = _matrix("x", x), _matrix("y", y)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise UsageError(
            f"x has shape {left.shape} and y {right.shape}; both must be [runs, tasks] over the same tasks."
        )
    difference = left.T[:, :, None] - right.T[:, None, :]
    return (np.sign(difference) + 1) / 2


def _above(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    matrix = _matrix("scores", scores)
    cuts = numbers("thresholds", thresholds)
    if matrix.ndim != 2 or cuts.ndim != 1:
        raise UsageError(
            f"scores has shape {matrix.shape}, thresholds {cuts.shape}; they must be [runs, tasks] and [k]."
        )
    return (matrix[:, :, None] > cuts).astype(np.float64)


def _stream(resamples: int, seed: int) -> np.random.Generator:
    if isinstance(resamples, bool) or not isinstance(resamples, (int, np.integer)) or resamples < 1:
        raise UsageError(
            f"resamples={resamples!r} is not allowed; it must be a whole number of at least 1 (2000 is usual)."
        )
    return numpy_stream(check_seed(seed), "bootstrap")


def _chunks(resamples: int, size: int) -> list[int]:
    step = max(1, _CHUNK // size)
    return [min(step, resamples - start) for start in range(0, resamples, step)]

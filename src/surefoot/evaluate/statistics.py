"""Statistics of few runs: robust aggregates, intervals with their stated coverage, tail means, exact proportions.

Scores are arrays `[runs, tasks]`; a flat array `[runs]` is one task. Tasks are different environments, not the episodes
of one run. A *statistic* maps `[..., runs, tasks]` to `[...]`. The aggregates are those of Agarwal et al., "Deep
Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv:2108.13264). Their percentile bootstrap is not
used: with 2, 3, 5 and 10 runs its "95 %" interval covers the true mean in 50, 75, 84 and 90 % of cases.

A 95 % interval over independent runs is here

- for a **mean**: Student's t over runs (each run's mean over tasks is one value), exact under normality;
- for an **interquartile mean**: that of a trimmed mean with its winsorised variance (Tukey and McLaughlin 1963, Yuen
  1974), or the ordinary one below 6 scores, with a critical value simulated for normal scores of that many runs and
  tasks;
- for **any other statistic**: Student's t with the standard error of a jackknife that leaves out one run at a time;
- for a **share** and for **P(better)**: exact binomial (Clopper and Pearson 1934), hence conservative, never [0, 0] or
  [1, 1].

On normal scores each covers at least 94 % with 2 to 30 runs. On exponential ones, which are more skewed than most
returns, that of the mean covers 88 % with 3 to 6 runs, 90 % with 10 and 93 % with 30, that of the interquartile mean
93 to 94 % from 4 runs on; docs/statistics.md has the table.

There is no interval (`None`) for one run or for values that do not differ.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv
from scipy.stats import norm
from scipy.stats import t as student

from surefoot.errors import UsageError
from surefoot.seeding import numpy_stream

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]

_SIMULATED = 1_000_000  # normal numbers drawn for one critical value
_APART = 1e3  # distance of tasks that do not overlap, in standard deviations
_ROUNDING = 1e-12  # relative to the largest score: smaller differences are rounding


class ConfidenceInterval(NamedTuple):
    """The two ends of an interval: floats, or arrays where the estimate is an array."""

    low: Any
    high: Any


def numbers(name: str, values: ArrayLike) -> Array:
    """`values` as float64; refused when they are not numbers, ragged, empty or not finite."""
    try:
        given = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"{name} is not an array of numbers ({error}); rows must have equal lengths.") from error
    if given.dtype.kind not in "biuf":
        raise UsageError(
            f"{name} is not an array of numbers: {type(values).__name__} became {given.dtype} of shape {given.shape}."
            " Give numbers in an array or in nested lists of equal lengths."
        )
    array = given.astype(np.float64)
    if array.size == 0:
        raise UsageError(f"{name} is empty (shape {array.shape}); give at least one score.")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise UsageError(
            f"{name} holds {bad} value(s) that are NaN or infinite, of {array.size}; a statistic of them would hide a"
            " failed run. Remove or impute them explicitly."
        )
    return array


def _matrix(name: str, values: ArrayLike) -> Array:
    array = numbers(name, values)
    if array.ndim == 0:
        raise UsageError(f"{name} is a single number; give an array [runs, tasks] or [runs].")
    return array[:, None] if array.ndim == 1 else array


def fraction(name: str, value: float) -> float:
    """The value, if it is a number between 0 and 1; a `UsageError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < 1:
        raise UsageError(f"{name}={value!r} is not allowed; it must be a number in (0, 1), for example 0.95.")
    return float(value)


# --- aggregates --------------------------------------------------------------------------------------------------


def interquartile_mean(scores: ArrayLike) -> Array:
    """Mean of the middle half of all runs and tasks: `floor(n/4)` scores are cut at either end.

    Maps `[..., runs, tasks]` to `[...]`. Less noisy than the median and, unlike the mean, robust to outliers.
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
    """The mean shortfall of the scores from `target`, ignoring any surplus: `[..., runs, tasks] -> [...]`."""
    return target - np.minimum(_matrix("scores", scores), target).mean(axis=(-2, -1))


# --- intervals ---------------------------------------------------------------------------------------------------


def confidence_interval(
    scores: ArrayLike, statistic: Statistic = interquartile_mean, *, level: float = 0.95
) -> ConfidenceInterval | None:
    """The interval of a statistic of `scores [runs, tasks]` over runs; tasks are fixed.

    For the kind of interval, its coverage, and when there is none (`None`), see the module. `statistic` maps
    `[..., runs, tasks]` to `[...]`. If all scores are 0 or 1 and both occur, their mean is a share.
    """
    matrix = _matrix("scores", scores)
    if matrix.ndim != 2:
        raise UsageError(f"scores has shape {matrix.shape}; it must be [runs, tasks] or [runs].")
    fraction("level", level)
    if len(matrix) > 1 and statistic is mean and matrix.shape[1] == 1 and set(matrix.flat) == {0.0, 1.0}:
        return share_interval(matrix[:, 0], level=level)
    low, high = _ends(matrix, statistic, level)
    return ConfidenceInterval(float(low), float(high)) if low < high else None


def confidence_band(scores: ArrayLike, statistic: Statistic = mean, *, level: float = 0.95) -> ConfidenceInterval:
    """A separate interval for every place of `scores [runs, places]`: arrays `[places]`, NaN for none."""
    matrix = _matrix("scores", scores)
    if matrix.ndim != 2:
        raise UsageError(f"scores has shape {matrix.shape}; it must be [runs, places].")
    low, high = _ends(matrix.T[:, :, None], statistic, fraction("level", level))
    none = ~(low < high)
    return ConfidenceInterval(np.where(none, np.nan, low), np.where(none, np.nan, high))


def _ends(scores: Array, statistic: Statistic, level: float) -> tuple[Array, Array]:
    """The bounds for `scores [..., runs, tasks]`; where there is no interval, NaN or both equal."""
    runs, tasks = scores.shape[-2:]
    value = statistic(scores)
    if np.shape(value) != scores.shape[:-2]:
        raise UsageError(
            f"statistic={statistic!r} returned shape {np.shape(value)} for input {scores.shape}; it must reduce the"
            " last two axes and keep the others, as statistics.mean does."
        )
    if runs < 2:
        none = np.full(np.shape(value), np.nan)
        return none, none
    trimmed = statistic is interquartile_mean
    if trimmed:
        error = _trimmed_error(scores)
    else:
        error = standard_error(scores) if statistic is mean else _jackknife_error(scores, statistic)
    half = error * _critical(runs, tasks if trimmed else 1, level, trimmed)
    half = np.where(half > _ROUNDING * np.abs(scores).max(axis=(-2, -1)), half, 0.0)
    return value - half, value + half


def standard_error(scores: Array) -> Array:
    """The standard error over runs of the mean of `scores [..., runs, tasks]`."""
    return scores.mean(-1).std(-1, ddof=1) / np.sqrt(scores.shape[-2])


def _trimmed_error(scores: Array) -> Array:
    """The standard error of the interquartile mean: scores outside the middle half are winsorised, run by run; they are
    used unchanged if the middle half is too small to estimate the spread."""
    count = scores.shape[-2] * scores.shape[-1]
    cut = count // 4
    if count - 2 * cut < 4:
        return standard_error(scores)
    flat = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    low, high = (flat[..., place, None, None] for place in (cut, count - cut - 1))
    return standard_error(np.clip(scores, low, high)) * count / (count - 2 * cut)


def _jackknife_error(scores: Array, statistic: Statistic) -> Array:
    runs = scores.shape[-2]
    without = np.stack([statistic(np.delete(scores, i, axis=-2)) for i in range(runs)], axis=-1)
    return without.std(-1) * np.sqrt(runs - 1)


@cache
def _critical(runs: int, tasks: int, level: float, trimmed: bool) -> float:
    """The critical value in standard errors: Student's t or, for the interquartile mean, the value that normal scores
    need, whether the tasks lie together or far apart."""
    if not trimmed or runs * tasks < 4:  # no scores are trimmed
        return float(student.ppf((1 + level) / 2, runs - 1))
    needed = []
    for index, apart in enumerate((0.0, _APART)[: min(tasks, 2)]):
        rng = numpy_stream(0, f"critical value {tasks}", 2 * runs + index)
        drawn = rng.standard_normal((max(2000, min(20_000, _SIMULATED // (runs * tasks))), runs, tasks))
        drawn += apart * (np.arange(tasks) - (tasks - 1) / 2)
        needed.append(np.quantile(np.abs(interquartile_mean(drawn)) / _trimmed_error(drawn), level))
    return float(max(needed))


def clopper_pearson(successes: float, trials: float, level: float = 0.95) -> ConfidenceInterval:
    """Exact binomial interval of a success rate: covers the true rate with probability at least `level`.

    It is continuous between whole numbers, as needed for effective numbers of trials.
    """
    numeric = all(isinstance(x, (int, float, np.number)) and not isinstance(x, bool) for x in (successes, trials))
    if not numeric or trials < 1 or not 0 <= successes <= trials:
        raise UsageError(
            f"successes={successes!r}, trials={trials!r} is not allowed; 0 <= successes <= trials, trials >= 1."
        )
    tail = (1 - fraction("level", level)) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(betaincinv(successes + 1, trials - successes, 1 - tail))
    return ConfidenceInterval(low, high)


def share_interval(shares: ArrayLike, *, level: float = 0.95) -> ConfidenceInterval:
    """Interval of the mean of `shares [n]`, each in [0, 1]: exact where they are 0 or 1.

    Shares in between (the probability that one of k samples solves an example) vary less, and count as more trials: the
    number that gives a mean of that variance, adjusted because the variance is estimated (Korn and Graubard 1998).
    """
    values = numbers("shares", shares)
    if values.ndim != 1 or values.min() < 0 or values.max() > 1:
        raise UsageError(f"shares has shape {values.shape} in [{values.min()}, {values.max()}]; give [n] in [0, 1].")
    fraction("level", level)
    count, middle, spread = len(values), float(values.mean()), float(values.var(ddof=min(1, len(values) - 1)))
    trials = float(count)
    if count > 1 and spread > 0:
        discount = norm.ppf((1 + level) / 2) / student.ppf((1 + level) / 2, count - 1)
        trials = max(trials, count * middle * (1 - middle) / spread * float(discount) ** 2)
    return clopper_pearson(min(middle * trials, trials), trials, level)


# --- one learner against another ---------------------------------------------------------------------------------


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """P(X > Y) + P(X = Y)/2 for a random run of each, averaged over tasks; `x [runs_x, tasks]`, `y [runs_y, tasks]`."""
    return float(_wins(x, y).mean())


def improvement_interval(x: ArrayLike, y: ArrayLike, *, level: float = 0.95) -> ConfidenceInterval | None:
    """Interval of `probability_of_improvement`; `None` where a side has one run.

    The exact interval of a share with as many independent pairs as the smaller side has runs, in every task. No pair of
    distributions gives the estimate a larger variance than that share (van Dantzig 1951), so it is conservative: its
    measured coverage is 97 % or more. Three runs that all beat three others give [0.29, 1].
    """
    wins = _wins(x, y)
    fraction("level", level)
    tasks, fewest = len(wins), min(wins.shape[1:])
    if fewest < 2:
        return None
    trials = tasks * fewest
    return clopper_pearson(float(wins.mean()) * trials, trials, level)


def _wins(x: ArrayLike, y: ArrayLike) -> Array:
    """The result of every pair of runs, 1, 1/2 or 0: `[tasks, runs_x, runs_y]`."""
    left, right = _matrix("x", x), _matrix("y", y)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise UsageError(
            f"x has shape {left.shape} and y {right.shape}; both must be [runs, tasks] over the same tasks."
        )
    difference = left.T[:, :, None] - right.T[:, None, :]
    return (np.sign(difference) + 1) / 2


# --- profiles and tails ------------------------------------------------------------------------------------------


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    """Share of runs and tasks with a score above each threshold: `[runs, tasks], [k] -> [k]`."""
    return _above(scores, thresholds).mean(axis=(0, 1))


def profile_interval(scores: ArrayLike, thresholds: ArrayLike, *, level: float = 0.95) -> ConfidenceInterval:
    """Pointwise exact band of `performance_profile`, with one trial per run and task: arrays `[k]`."""
    above = _above(scores, thresholds)
    trials = above.shape[0] * above.shape[1]
    bounds = [clopper_pearson(float(count), trials, level) for count in above.sum(axis=(0, 1))]
    return ConfidenceInterval(*(np.array(end) for end in zip(*bounds, strict=True)))


def _above(scores: ArrayLike, thresholds: ArrayLike) -> Array:
    matrix = _matrix("scores", scores)
    cuts = numbers("thresholds", thresholds)
    if matrix.ndim != 2 or cuts.ndim != 1:
        raise UsageError(
            f"scores has shape {matrix.shape}, thresholds {cuts.shape}; they must be [runs, tasks] and [k]."
        )
    return (matrix[:, :, None] > cuts).astype(np.float64)


def cvar(values: ArrayLike, level: float) -> float:
    """Mean of the worst (smallest) share `level` of `values`, any shape, flattened; `level` in (0, 1].

    If `level * n` is not whole, the next smallest value enters with the missing fraction, so the result is continuous
    in `level`; level 1 is the mean, and a level up to 1/n is the minimum.
    """
    array = np.sort(numbers("values", values), axis=None)
    if isinstance(level, bool) or not isinstance(level, (int, float, np.number)) or not 0 < level <= 1:
        raise UsageError(
            f"level={level!r} is not allowed; it must be a number in (0, 1], the share of worst values to average."
        )
    weight = np.clip(level * array.size - np.arange(array.size), 0, 1)
    return float(weight @ array / weight.sum())


def worst_interval(
    scores: ArrayLike, share: float, *, level: float = 0.95, distinct: int | None = None
) -> ConfidenceInterval | None:
    """Interval of `cvar` at `share` of the true means of `scores [runs, places]`, the worst place included.

    The lower end is the tail mean of each place's one-sided lower end. The upper end is the tail mean of upper
    ends that hold at all `distinct` places together (Bonferroni; all of them if not given), because the worst place was
    selected after the fact. Covers at least `level` under normality, for any dependence between places.
    """
    matrix = _matrix("scores", scores)
    if matrix.ndim != 2:
        raise UsageError(f"scores has shape {matrix.shape}; it must be [runs, places].")
    tail, (runs, places) = (1 - fraction("level", level)) / 2, matrix.shape
    if runs < 2:
        return None
    middle, error = matrix.mean(0), standard_error(matrix.T[:, :, None])
    low = cvar(middle + error * student.ppf(tail, runs - 1), share)
    high = cvar(middle + error * student.isf(tail / (distinct or places), runs - 1), share)
    return ConfidenceInterval(low, high) if low < high else None


def in_brackets(interval: ConfidenceInterval | None, form: str = ".6g") -> str:
    """The interval as text, empty if there is none."""
    return "" if interval is None else f"[{interval[0]:{form}}, {interval[1]:{form}}]"


def summary(returns: ArrayLike) -> dict[str, Any]:
    """A summary of the returns `[episodes]` of one policy as JSON-ready data: "mean" and "interquartile_mean" with
    their 95 % intervals, or `None` and the reason in "no_interval"; "min", "max" and all "returns"."""
    scores = numbers("returns", returns)
    found: dict[str, Any] = {}
    for name, statistic in (("mean", mean), ("interquartile_mean", interquartile_mean)):
        interval = confidence_interval(scores, statistic)
        found |= {name: float(statistic(scores)), f"{name}_interval": None if interval is None else list(interval)}
    if found["mean_interval"] is None:
        equal = f"no interval, as all {len(scores)} returns are equal"
        found["no_interval"] = "no interval from one episode" if len(scores) == 1 else equal
    return found | {"min": float(scores.min()), "max": float(scores.max()), "returns": scores.tolist()}

"""How much of the nominal return a policy keeps under a perturbation, with an interval.

    kept = 1 + (perturbed - nominal) / |nominal|        of mean returns

For a positive nominal return this is the ratio perturbed / nominal, 0 where all of it is lost. For a negative one
(costs), where a ratio would grow as things get worse, it is one minus the relative increase of the cost: -200 that
becomes -300 keeps 0.5, and 0 means that the cost has doubled. It is not limited to [0, 1]. Where the nominal return is
about zero it means nothing, and its interval is the whole line.

Episodes are paired by their seeds, so the interval is that of a ratio of paired means (Fieller 1954): all values that
Student's t does not reject. It is exact for normal returns, and accounts for the noise of the nominal return and for
its correlation with the perturbed one. Where no two episodes differ there is no interval, only the value.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from surefoot.errors import UsageError
from surefoot.evaluate.statistics import ConfidenceInterval, fraction, numbers

_ROUNDING = 1e-12  # relative: smaller spreads are rounding
ALL = ConfidenceInterval(-math.inf, math.inf)


def _pair(perturbed: ArrayLike, nominal: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = numbers("perturbed", perturbed), numbers("nominal", nominal)
    if x.shape != y.shape or x.ndim != 1:
        raise UsageError(f"perturbed has shape {x.shape}, nominal {y.shape}; they must be [episodes], of equal seeds.")
    return x, y


def kept(perturbed: ArrayLike, nominal: ArrayLike) -> float:
    """The share kept, of returns `[episodes]` paired by seed; NaN for a changed return where the nominal one is 0."""
    x, y = _pair(perturbed, nominal)
    change, size = float((x - y).mean()), abs(float(y.mean()))
    return 1.0 if change == 0 else 1 + change / size if size else math.nan


def kept_interval(
    perturbed: ArrayLike, nominal: ArrayLike, *, level: float = 0.95, places: int = 1
) -> ConfidenceInterval | None:
    """The interval of `kept`; `None` for one episode or without spread.

    Its ends hold at `places` cells together (Bonferroni) where they are the ends of the worst of as many.
    """
    x, y = _pair(perturbed, nominal)
    count, change = len(x), (x - y) * (1 if y.mean() >= 0 else -1)
    tail = (1 - fraction("level", level)) / 2 / places
    scale = max(float(np.abs([x, y]).max()), np.finfo(float).tiny)
    if count < 2 or max(change.std(), min(y.std(), np.abs(change).max())) <= _ROUNDING * scale:
        return None
    critical = float(student.isf(tail, count - 1))
    (yy, yd), (_, dd) = np.cov(y, change) * critical**2 / count
    square = y.mean() ** 2 - yy  # those r with (mean(change) - r mean(y))² <= t² var(change - r y) / n
    if square <= 0:
        return ALL
    half, rest = change.mean() * y.mean() - yd, change.mean() ** 2 - dd
    root = math.sqrt(max(half**2 - square * rest, 0.0))
    return ConfidenceInterval(float(1 + (half - root) / square), float(1 + (half + root) / square))


def episodes_for(perturbed: ArrayLike, nominal: ArrayLike, width: float, most: int) -> int:
    """The least number of episodes with which the interval of `kept` is expected to be no wider than `width`, at most
    `most`, from a pilot of returns `[episodes]`; the pilot's own number where its episodes do not differ.

    The width falls as t(n - 1) / sqrt(n), with the spread of the pilot. Play other episodes than those of the pilot: a
    number that depends on the returns which are then averaged, because one stops when they look sure, makes intervals
    that miss more often than they say.
    """
    pilot, interval = len(numbers("nominal", nominal)), kept_interval(perturbed, nominal)
    if interval is None:
        return min(pilot, most)
    per_root = (interval.high - interval.low) / student.isf(0.025, pilot - 1) * math.sqrt(pilot)
    counts = np.arange(2, max(most, 2) + 1)
    narrow = per_root * student.isf(0.025, counts - 1) / np.sqrt(counts) <= width
    return int(counts[narrow.argmax()]) if narrow.any() else most


def worst_kept(
    cells: list[ArrayLike], nominal: ArrayLike, *, level: float = 0.95
) -> tuple[float, ConfidenceInterval, int]:
    """The least share kept over cells of returns `[episodes]`, its interval, and the place of that cell.

    The lower end is the least of all cells; the upper end is the least of upper ends that hold at all of the cells that
    differ together, because the worst cell was selected after the fact. A cell without spread counts as its value.
    """
    values = [kept(cell, nominal) for cell in cells]
    distinct = len({numbers("perturbed", cell).tobytes() for cell in cells})
    lows = [_ends(cell, nominal, level, 1).low for cell in cells]
    highs = [_ends(cell, nominal, level, distinct).high for cell in cells]
    worst = min(range(len(cells)), key=lambda i: (not math.isnan(values[i]), values[i]))
    return values[worst], ConfidenceInterval(min(lows), min(highs)), worst


def _ends(cell: ArrayLike, nominal: ArrayLike, level: float, places: int) -> ConfidenceInterval:
    value = kept(cell, nominal)
    if math.isnan(value):
        return ALL
    return kept_interval(cell, nominal, level=level, places=places) or ConfidenceInterval(value, value)

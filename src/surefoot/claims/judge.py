"""The one judge: from a summary of measurements to a word a part.

A part is *supported* where the interval of its effect lies wholly where the test wants it, *contradicted* where it lies
wholly on the other side of `against`, *inconclusive* otherwise, and *void* where a gate fails. Primary parts of one tier
share one error level by Holm's procedure: each is told at its own level, and that level's interval is printed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from surefoot.claims.parts import TIERS, Array, Claim, Exact, Part, Share, ShareDifference, Summary, Tier
from surefoot.evaluate.statistics import clopper_pearson
from surefoot.seeding import numpy_stream

Word = Literal["supported", "contradicted", "inconclusive", "void"]
LEVEL = 0.05
BOOTSTRAP_FROM = 20  # seeds from which on the bootstrap's skewness is worth its noise
RESAMPLES = 2000
POWER = 0.8


@dataclass(frozen=True)
class Finding:
    """What a part came to: its word, the effect with the interval behind the word, and what a reader should know."""

    word: Word
    value: float
    low: float | None  # None where one seed, or no spread, gives no interval
    high: float | None
    level: float  # 1 − level is the coverage of the interval
    n: int
    notes: tuple[str, ...] = field(default=())
    powered: bool = False  # half the published effect would have been told from 0 with a power of 0.8

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.word}: {self.value:.4g}{interval}"


def judge(claim: Claim, summaries: Mapping[str, Summary]) -> dict[str, Finding]:
    """The finding of every part whose experiment has a summary, by the part's name."""
    parts = [part for part in claim.parts if part.experiment in summaries]
    found: dict[str, Finding] = {}
    for tier in TIERS:
        here = [part for part in parts if claim.tier(part) == tier]
        primary = [part for part in here if part.role == "primary"]
        levels = holm(primary, summaries)
        for part in here:
            found[part.name] = finding(part, summaries[part.experiment], levels.get(part.name, LEVEL))
    return {part.name: found[part.name] for part in parts}


def finding(part: Part, summary: Summary, level: float = LEVEL) -> Finding:
    """A part's finding at one level."""
    value, n = effect(part, summary)
    interval = interval_of(part, summary, level)
    low, high = interval if interval is not None else (None, None)
    failed = [gate for gate in part.gates if not gate.holds(summary)]
    if failed:
        reasons = tuple(f"{gate.kind}: {gate.says}" for gate in failed)
        return Finding("void", value, low, high, level, n, reasons)
    word = _word(part, interval)
    return Finding(word, value, low, high, level, n, _notes(part, summary, word, interval), _powered(part, summary))


def holm(parts: list[Part], summaries: Mapping[str, Summary]) -> dict[str, float]:
    """The level at which each of these parts is told, so that together they err no oftener than `LEVEL`.

    The parts whose words need least level come first; the k-th is told at `LEVEL / (m − k)`, and from the first that
    cannot be told there, so are all that follow. Void parts are told apart and take no share.
    """
    alive = [part for part in parts if all(gate.holds(summaries[part.experiment]) for gate in part.gates)]
    needs = {part.name: needed_level(part, summaries[part.experiment]) for part in alive}
    levels: dict[str, float] = {}
    ordered, level = sorted(alive, key=lambda part: needs[part.name]), LEVEL
    for index, part in enumerate(ordered):
        level = LEVEL / (len(ordered) - index)
        if needs[part.name] > level:
            levels |= {later.name: level for later in ordered[index:]}
            break
        levels[part.name] = level
    return levels


def needed_level(part: Part, summary: Summary) -> float:
    """The smallest level at which the part has a word other than inconclusive; 1 where none up to a half does."""
    low, high = 1e-9, 0.5
    if _word(part, interval_of(part, summary, high)) == "inconclusive":
        return 1.0
    if _word(part, interval_of(part, summary, low)) != "inconclusive":
        return 0.0
    for _ in range(40):  # intervals of a smaller level contain those of a larger one
        middle = math.sqrt(low * high)
        if _word(part, interval_of(part, summary, middle)) == "inconclusive":
            low = middle
        else:
            high = middle
    return high


def _word(part: Part, interval: tuple[float, float] | None) -> Word:
    if interval is None:
        return "inconclusive"
    if part.test.supported(*interval):
        return "supported"
    return "contradicted" if part.test.contradicted(*interval) else "inconclusive"


# --- effects and intervals -----------------------------------------------------------------------------------------


def effect(part: Part, summary: Summary) -> tuple[float, int]:
    """The estimate of a part's effect, and how many seeds or runs it rests on."""
    if isinstance(part.contrast, ShareDifference):
        a, b = part.contrast.pair(summary)
        return float(a.mean() - b.mean()), min(len(a), len(b))
    values = part.contrast.values(summary)
    return float(values.mean()), len(values)


def interval_of(part: Part, summary: Summary, level: float) -> tuple[float, float] | None:
    """The interval of a part's effect that covers it in `1 − level` of all cases; `None` where there is none.

    Shares: Clopper and Pearson's, and Newcombe's for their difference. Means of differences, log ratios and slopes:
    Student's t, from 20 seeds on a studentised bootstrap. An exact number is its own interval.
    """
    if isinstance(part.contrast, ShareDifference):
        return newcombe(*part.contrast.pair(summary), level)
    values = part.contrast.values(summary)
    if isinstance(part.contrast, Exact):
        return float(values[0]), float(values[0])
    if isinstance(part.contrast, Share):
        low, high = clopper_pearson(int(values.sum()), len(values), 1 - level)
        return low, high
    return mean_interval(values, level)


def mean_interval(values: Array, level: float) -> tuple[float, float] | None:
    """The interval of a mean: Student's t, from `BOOTSTRAP_FROM` values on a studentised bootstrap.

    `None` for one value, and for values that do not differ: no spread was seen, so nothing is known of it.
    """
    n, middle = len(values), float(values.mean())
    spread = float(values.std(ddof=1)) if n > 1 else 0.0
    if spread <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return None
    error = spread / math.sqrt(n)
    below = above = float(student.ppf(1 - level / 2, n - 1))
    if n >= BOOTSTRAP_FROM and level * RESAMPLES >= 20:  # enough resamples beyond the ends to know them
        drawn = values[_resamples(n)]
        errors = drawn.std(1, ddof=1) / math.sqrt(n)
        kept = errors > 0
        pivots = (drawn.mean(1)[kept] - middle) / errors[kept]
        above, below = -float(np.quantile(pivots, level / 2)), float(np.quantile(pivots, 1 - level / 2))
    return middle - below * error, middle + above * error


@cache
def _resamples(n: int) -> NDArray[np.int64]:
    return numpy_stream(0, "studentised bootstrap", n).integers(0, n, (RESAMPLES, n))


def newcombe(a: Array, b: Array, level: float) -> tuple[float, float]:
    """Newcombe's interval of the difference of two independent shares, made of Clopper and Pearson's intervals
    (Newcombe 1998, method 10 with exact in place of score intervals: wider, and never degenerate)."""
    p, q = float(a.mean()), float(b.mean())
    (low_p, high_p), (low_q, high_q) = (clopper_pearson(int(x.sum()), len(x), 1 - level) for x in (a, b))
    below, above = math.hypot(p - low_p, high_q - q), math.hypot(high_p - p, q - low_q)
    return p - q - below, p - q + above


# --- what a reader should know -------------------------------------------------------------------------------------


def _notes(part: Part, summary: Summary, word: Word, interval: tuple[float, float] | None) -> tuple[str, ...]:
    if word != "inconclusive":
        return ()
    if interval is None:
        return ("no interval: one value, or values that do not differ",)
    value, n = effect(part, summary)
    low, high = interval
    notes = [f"effects below {low:.3g} and above {high:.3g} are excluded"]
    if isinstance(part.contrast, (Share, ShareDifference)):
        return tuple(notes)
    wanted = seeds_for(part.contrast.values(summary), abs(value - part.test.margin) or part.test.distance)
    if wanted is not None and wanted > n:
        notes.append(f"about {wanted} seeds would settle an effect of this size")
    return tuple(notes)


def _powered(part: Part, summary: Summary) -> bool:
    """Whether the seeds suffice for half the published effect."""
    if part.published is None or isinstance(part.contrast, (Exact, Share, ShareDifference)):
        return part.published is not None and isinstance(part.contrast, Exact)
    values = part.contrast.values(summary)
    wanted = seeds_for(values, abs(part.published.value) / 2)
    return wanted is not None and wanted <= len(values)


def seeds_for(pilot: Array, effect: float, level: float = LEVEL, power: float = POWER, least: int = 8) -> int | None:
    """How many seeds tell an effect of that size from 0 with that power, by the spread of a pilot's paired values:
    `n = ⌈((t_{1−α/2} + t_{power})·sd / δ)²⌉`, at least 8. `None` where a pilot of one value or no effect cannot say."""
    if len(pilot) < 2 or effect <= 0:
        return None
    ratio, n = float(pilot.std(ddof=1)) / effect, least
    for _ in range(50):  # t depends on n: iterate to its fixed point
        quantiles = student.ppf(1 - level / 2, n - 1) + student.ppf(power, n - 1)
        wanted = max(least, min(math.ceil((float(quantiles) * ratio) ** 2), 10**6))
        if wanted == n:
            break
        n = wanted
    return n


def line(claim: Claim, findings: Mapping[str, Finding]) -> str:
    """A claim's standing on one line, a phrase a tier, from its primary parts."""
    phrases = []
    for tier in TIERS:
        declared = [part for part in claim.parts if claim.tier(part) == tier and part.role == "primary"]
        if declared:
            phrases.append(_phrase(tier, [findings[part.name] for part in declared if part.name in findings], declared))
        elif tier == "instance":
            phrases.append("paper's instance not run")
    return " · ".join(phrases)


def _phrase(tier: Tier, found: list[Finding], declared: list[Part]) -> str:
    name = "paper's instance" if tier == "instance" else tier
    if not found:
        return f"{name} not run"
    words = [one.word for one in found]
    missed = [one for one in found if one.word == "contradicted" and one.powered]
    counts = [f"{words.count('supported')} of {len(declared)}"]
    if tier == "instance" and missed:
        counts.append(f"{len(missed)} not reproduced")
        words = [one.word for one in found if one not in missed]
    counts += [f"{words.count(w)} {w}" for w in ("contradicted", "inconclusive", "void") if w in words]
    return f"{name} {', '.join(counts)}"

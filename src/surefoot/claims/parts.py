"""What a claim is made of: parts, each a measurable contrast with one test, and the gates that make it readable.

A contrast reads named series of an experiment's *summary*, one number a seed (or a run), and says which effect they
measure. A test says which effects support the part and which contradict it. Everything is data, declared before the
numbers; `judge` is the one function that turns them into words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from surefoot.errors import UsageError

Array = NDArray[np.float64]
Measurements = dict[str, Any]
"""What an experiment saw: JSON-ready numbers and lists by piece."""
Summary = Mapping[str, Any]
"""The series that contrasts read, by name: one number a seed, or a single number where nothing is random."""

Show = Callable[[float], str]
"""How an effect is written: a log ratio as a ratio, all else as the number that it is."""

Role = Literal["primary", "secondary", "exploratory"]
Tier = Literal["mechanism", "miniature", "instance"]
TIERS: tuple[Tier, ...] = ("mechanism", "miniature", "instance")


# --- contrasts ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mean:
    """The mean of one series over seeds."""

    series: str

    def values(self, summary: Summary) -> Array:
        """One number a seed."""
        return _series(summary, self.series)

    def __str__(self) -> str:
        return self.series


@dataclass(frozen=True)
class Difference:
    """The mean over seeds of `a − b`, both arms on the same seeds."""

    a: str
    b: str

    def values(self, summary: Summary) -> Array:
        a, b = _paired(summary, self.a, self.b)
        return a - b

    def __str__(self) -> str:
        return f"{self.a} − {self.b}"


@dataclass(frozen=True)
class LogRatio:
    """The mean over seeds of `log(a/b)`, both arms on the same seeds."""

    a: str
    b: str

    def values(self, summary: Summary) -> Array:
        a, b = _paired(summary, self.a, self.b)
        if min(a.min(), b.min()) <= 0:
            raise UsageError(f"a log ratio needs positive series; {self.a} or {self.b} has a value of at most 0.")
        return np.log(a / b)

    def __str__(self) -> str:
        return f"log({self.a} / {self.b})"


@dataclass(frozen=True)
class Share:
    """The share of seeds or runs for which a series is 1; it holds 0 and 1."""

    series: str

    def values(self, summary: Summary) -> Array:
        return _binary(summary, self.series)

    def __str__(self) -> str:
        return f"share of {self.series}"


@dataclass(frozen=True)
class ShareDifference:
    """The share of runs for which `a` is 1 less that for which `b` is 1; the runs of the arms are independent."""

    a: str
    b: str

    def pair(self, summary: Summary) -> tuple[Array, Array]:
        """The two series, which may differ in length."""
        return _binary(summary, self.a), _binary(summary, self.b)

    def __str__(self) -> str:
        return f"share of {self.a} − share of {self.b}"


@dataclass(frozen=True)
class Slope:
    """The mean over seeds of the slope of `y` on `x`: each seed's `y` is a row, `x` is the same for all."""

    y: str
    x: str

    def values(self, summary: Summary) -> Array:
        x, y = np.asarray(summary[self.x], dtype=float), np.atleast_2d(np.asarray(summary[self.y], dtype=float))
        if x.ndim != 1 or y.shape[1] != len(x) or len(x) < 2:
            raise UsageError(f"{self.y} has shape {y.shape} for {self.x} of shape {x.shape}; give [seeds, places].")
        centred = x - x.mean()
        return (y - y.mean(1, keepdims=True)) @ centred / (centred @ centred)

    def __str__(self) -> str:
        return f"slope of {self.y} on {self.x}"


@dataclass(frozen=True)
class Exact:
    """A number that nothing random enters: it has no interval, and is its own."""

    series: str

    def values(self, summary: Summary) -> Array:
        found = np.atleast_1d(np.asarray(summary[self.series], dtype=float))
        if found.size != 1:
            raise UsageError(f"{self.series} has {found.size} numbers; an exact part is one, such as the largest.")
        return found

    def __str__(self) -> str:
        return self.series


Contrast = Mean | Difference | LogRatio | Share | ShareDifference | Slope | Exact


def _series(summary: Summary, name: str) -> Array:
    if name not in summary:
        raise UsageError(f"the experiment's summary has no series {name!r}; it has {', '.join(summary)}.")
    values = np.atleast_1d(np.asarray(summary[name], dtype=float))
    if values.ndim != 1 or not np.isfinite(values).all():
        raise UsageError(f"the series {name!r} must be finite numbers, one a seed; it has shape {values.shape}.")
    return values


def _paired(summary: Summary, first: str, second: str) -> tuple[Array, Array]:
    a, b = _series(summary, first), _series(summary, second)
    if len(a) != len(b):
        raise UsageError(f"{first} has {len(a)} values and {second} {len(b)}; both arms must run on the same seeds.")
    return a, b


def _binary(summary: Summary, name: str) -> Array:
    values = _series(summary, name)
    if not set(values.tolist()) <= {0.0, 1.0}:
        raise UsageError(f"the series {name!r} must hold 0 and 1 only.")
    return values


# --- tests -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class More:
    """The effect is above `margin`. An interval wholly below `against` contradicts it."""

    margin: float = 0.0
    against: float = 0.0

    def __post_init__(self) -> None:
        if self.against > self.margin:
            raise UsageError(f"against={self.against:g} lies above margin={self.margin:g}: both could hold at once.")

    def supported(self, low: float, high: float) -> bool:
        """Whether every effect of the interval supports the part."""
        return low > self.margin

    def contradicted(self, low: float, high: float) -> bool:
        """Whether every effect of the interval contradicts it."""
        return high < self.against

    def bar(self, show: Show = "{:g}".format) -> str:
        """The test in words, with effects as `show` writes them."""
        return f"> {show(self.margin)}"

    @property
    def distance(self) -> float:
        """The effect that an experiment must be able to tell from `against`."""
        return abs(self.margin - self.against)


@dataclass(frozen=True)
class Less:
    """The effect is below `margin`. An interval wholly above `against` contradicts it."""

    margin: float = 0.0
    against: float = 0.0

    def __post_init__(self) -> None:
        if self.against < self.margin:
            raise UsageError(f"against={self.against:g} lies below margin={self.margin:g}: both could hold at once.")

    def supported(self, low: float, high: float) -> bool:
        return high < self.margin

    def contradicted(self, low: float, high: float) -> bool:
        return low > self.against

    def bar(self, show: Show = "{:g}".format) -> str:
        return f"< {show(self.margin)}"

    @property
    def distance(self) -> float:
        return abs(self.margin - self.against)


@dataclass(frozen=True)
class Within:
    """The effect is 0 up to `margin` on either side: an interval inside supports, one wholly outside contradicts."""

    margin: float

    def supported(self, low: float, high: float) -> bool:
        return -self.margin <= low and high <= self.margin

    def contradicted(self, low: float, high: float) -> bool:
        return high < -self.margin or low > self.margin

    def bar(self, show: Show = "{:g}".format) -> str:
        return f"{show(-self.margin)} to {show(self.margin)}"

    @property
    def distance(self) -> float:
        return self.margin


@dataclass(frozen=True)
class NoWorse:
    """The effect is at least `−margin`: as good, up to the margin, or better."""

    margin: float

    def supported(self, low: float, high: float) -> bool:
        return low >= -self.margin

    def contradicted(self, low: float, high: float) -> bool:
        return high < -self.margin

    def bar(self, show: Show = "{:g}".format) -> str:
        return f"≥ {show(-self.margin)}"

    @property
    def distance(self) -> float:
        return self.margin


Test = More | Less | Within | NoWorse


# --- parts and claims --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gate:
    """What must hold for a part to be read at all, declared before the numbers.

    `room`: the baseline is neither at floor nor at ceiling; `control`: a positive control learns; `grid`: the best
    setting of every arm lies inside its grid; `uncensored`: under 20 % of runs end at the budget; `reference`: our
    baseline reaches a known level.
    """

    kind: Literal["room", "control", "grid", "uncensored", "reference"]
    holds: Callable[[Summary], bool]
    says: str


@dataclass(frozen=True)
class Published:
    """The paper's own number for the effect that the part measures."""

    value: float
    where: str  # table and row, figure, section
    status: Literal["read", "recalled", "digitised"]
    spread: str = ""
    n: int | None = None


@dataclass(frozen=True)
class Part:
    """One measurable contrast with one test."""

    name: str
    role: Role
    experiment: str  # a name of the claim's `experiments`, which has the part's tier
    contrast: Contrast
    test: Test
    gates: tuple[Gate, ...] = ()
    published: Published | None = None
    says: str = ""  # the paper's own words, with their section; empty where this is our reading

    @property
    def declared(self) -> str:
        """What is fixed before the numbers, as text."""
        gates = [(gate.kind, gate.says) for gate in self.gates]
        return repr((self.name, self.role, self.contrast, self.test, gates))


@dataclass(frozen=True)
class Experiment:
    """What is run for some parts: all arms on the same seeds.

    `measure` are pieces by name, each a function of the seeds at the top level of its module, or a `partial` of one; a
    piece is kept as soon as it is there. `summary(measurements)` are the series that the contrasts read, so that stored
    measurements can be judged again. `arms` are the built methods by name, the shipped one among them.
    """

    tier: Tier
    measure: Mapping[str, Callable[[Sequence[int]], Any]]
    seeds: int
    minutes: float  # core-minutes for those seeds, measured
    setting: str  # environment, budget, evaluation
    arms: Mapping[str, Any] = field(default_factory=dict)
    summary: Callable[[Measurements], Summary] = dict
    differs: tuple[str, ...] = ()  # from the paper's setting, an item each


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, and the experiments and parts that examine it."""

    slug: str
    sentence: str
    source: str
    method: type  # the class that the catalogue ships
    experiments: Mapping[str, Experiment]
    parts: tuple[Part, ...]
    not_run: str = ""  # why there is no instance tier, or what the paper's own instance would take
    amended: tuple[str, ...] = ()  # what was changed after a look at the numbers, and why

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"{self.slug}: two parts are called {twice[0]!r}.")
        if unknown := [part.name for part in self.parts if part.experiment not in self.experiments]:
            raise UsageError(
                f"{self.slug}: the part {unknown[0]!r} names no experiment of {', '.join(self.experiments)}."
            )
        if not any(part.role == "primary" for part in self.parts):
            raise UsageError(f"{self.slug}: no part is primary.")

    def tier(self, part: Part) -> Tier:
        """The tier of a part: that of its experiment."""
        return self.experiments[part.experiment].tier

    def part(self, name: str) -> Part:
        """The part of this name."""
        return next(part for part in self.parts if part.name == name)

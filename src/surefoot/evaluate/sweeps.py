"""The price of robustness: a finite MDP solved for a range of sizes of an ambiguity set, `kl:0..1`."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from surefoot.envs.tabular import TabularMDP
from surefoot.errors import UsageError
from surefoot.evaluate.plots import STYLE
from surefoot.evaluate.solutions import worth
from surefoot.perturbations.interval import Interval, number
from surefoot.solvers import evaluate_policy, solve
from surefoot.solvers.solution import measure

RANGE = re.compile(r"([^:,=]+:(?:[^,=]+=)?)([^,=]*?)\.\.([^,]*)(,.*)?")


class Point(NamedTuple):
    """Values of policies from the start at one size of the set."""

    size: float
    robust_worst: float  # the robust policy in its worst world
    robust_nominal: float  # the robust policy in the nominal world
    nominal_worst: float  # the policy that is best in the nominal world, in its worst world
    gap: float  # certified gap of `robust_worst`


@dataclass(frozen=True)
class PriceOfRobustness:
    """A sweep over the size of the set: the nominal cost of robustness to the worst world."""

    name: str
    ambiguity: str
    measured: str
    nominal: float
    points: tuple[Point, ...]

    def table(self) -> str:
        """One line per size."""
        head = f"{'size':>10}  {'robust policy':^27}  {'best nominal policy':^19}\n"
        head += f"{'':>10}  {'worst world':>13} {'nominal':>13}  {'worst world':>19}"
        lines = [
            f"{p.size:>10.6g}  {p.robust_worst:>13.6g} {p.robust_nominal:>13.6g}  {p.nominal_worst:>19.6g}"
            for p in self.points
        ]
        return "\n".join([self.nominal_line, head, *lines])

    @property
    def nominal_line(self) -> str:
        """The value without an adversary, in words."""
        return f"value from the start, {self.measured}; the best in the nominal world: {self.nominal:.6g}"

    @matplotlib.rc_context(STYLE)
    def plot(self) -> Figure:
        """The three curves over the size of the set."""
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot(
            title=f"price of robustness · {self.name}",
            xlabel=f"size of {self.ambiguity}",
            ylabel="value from the start",
        )
        sizes = [p.size for p in self.points]
        axes.plot(sizes, [p.robust_nominal for p in self.points], label="robust policy, nominal world")
        axes.plot(sizes, [p.robust_worst for p in self.points], label="robust policy, worst world")
        axes.plot(sizes, [p.nominal_worst for p in self.points], "--", label="nominal policy, worst world")
        axes.axhline(self.nominal, color="#555555", linestyle=":", linewidth=1.2, label="nominal policy, nominal world")
        axes.legend()
        return figure

    def save(self, folder: str | Path) -> list[Path]:
        """Write `sweep.csv` and `price.png`; returns their paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / "sweep.csv", folder / "price.png"]
        with paths[0].open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Point._fields)
            writer.writerows(self.points)
        self.plot().savefig(paths[1], dpi=150)
        return paths


def swept(text: str | None) -> tuple[str, Interval, str] | None:
    """A set whose size is a range, `kl:0..1`, as the text before the range, the range, and the text after it."""
    found = RANGE.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        return None
    try:
        interval = Interval(float(found[2]), float(found[3]))
    except ValueError:
        raise UsageError(
            f"ambiguity={text!r}: {found[2]}..{found[3]} is not a range of numbers, such as 0..1."
        ) from None
    return found[1], interval, found[4] or ""


def price_of_robustness(
    mdp: TabularMDP, ambiguity: str, points: int = 11, *, assumed: bool = False, **options: Any
) -> PriceOfRobustness:
    """Solve an MDP for `points` sizes of a set, both ends included.

    ambiguity: its text with a range, such as "kl:0..1". assumed: whether the discount is a default. options: those of
    `solve`, such as `rectangular`.
    Raises `UsageError` for a text without a range, or for options that `solve` rejects.
    """
    parts = swept(ambiguity)
    if parts is None:
        raise UsageError(f"ambiguity={ambiguity!r} has no range; write a range of sizes, such as kl:0..1.")
    before, interval, after = parts
    own = {name: x for name, x in options.items() if name != "method"}
    nominal = solve(mdp, **{**options, "rectangular": "sa"})
    found = []
    for size in interval.values(points):
        text = f"{before}{number(size)}{after}"
        robust = solve(mdp, text, **options)
        plain = evaluate_policy(mdp, robust.policy, **{**own, "rectangular": "sa"})
        hurt = evaluate_policy(mdp, nominal.policy, text, **own)
        found.append(Point(size, worth(mdp, robust), worth(mdp, plain), worth(mdp, hurt), robust.gap))
    form = f"{before}…{after}"
    return PriceOfRobustness(
        mdp.name, form, measure(mdp, nominal.criterion, assumed), worth(mdp, nominal), tuple(found)
    )

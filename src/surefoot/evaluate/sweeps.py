"""The price of robustness: a finite MDP solved for a range of sizes of an ambiguity set, `kl:0..1`."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from surefoot.envs.tabular import TabularMDP
from surefoot.errors import UsageError
from surefoot.evaluate.plots import lines
from surefoot.evaluate.read_back import figures
from surefoot.evaluate.solutions import worth
from surefoot.perturbations.interval import Interval, number
from surefoot.solvers import evaluate_policy, solve
from surefoot.solvers.solution import measure

FILE = "sweep.json"
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
    command: str = ""  # that made it

    def table(self) -> str:
        """One line per size."""
        head = f"{'size':>10}  {'robust policy':^27}  {'best nominal policy':^19}\n"
        head += f"{'':>10}  {'worst world':>13} {'nominal':>13}  {'worst world':>19}"
        rows = [
            f"{p.size:>10.6g}  {p.robust_worst:>13.6g} {p.robust_nominal:>13.6g}  {p.nominal_worst:>19.6g}"
            for p in self.points
        ]
        return "\n".join([self.nominal_line, head, *rows])

    @property
    def nominal_line(self) -> str:
        """The value without an adversary, in words."""
        return f"value from the start, {self.measured}; the best in the nominal world: {self.nominal:.6g}"

    def plot(self) -> Figure:
        """The three curves over the size of the set."""
        sizes = [p.size for p in self.points]
        curves = {
            "robust policy, nominal world": (sizes, [p.robust_nominal for p in self.points]),
            "robust policy, worst world": (sizes, [p.robust_worst for p in self.points]),
            "nominal policy, worst world": (sizes, [p.nominal_worst for p in self.points]),
        }
        return lines(
            curves,
            x=f"size of {self.ambiguity}",
            y="value from the start",
            title=f"price of robustness · {self.name}",
            level=self.nominal,
            level_name="nominal policy, nominal world",
            dashed=["robust policy, worst world", "nominal policy, worst world"],
        )

    def save(self, folder: str | Path) -> list[Path]:
        """Write `sweep.json`, `sweep.csv`, `price.png` and the page `report.html`; returns their paths."""
        from surefoot.evaluate.pages import solution

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / name for name in (FILE, "sweep.csv", "price.png")]
        paths[0].write_text(json.dumps(dataclasses.asdict(self), ensure_ascii=False), encoding="utf-8")
        with paths[1].open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Point._fields)
            writer.writerows(self.points)
        self.plot().savefig(paths[2], dpi=150)
        return [*paths, solution.page_of_sweep(self).write(folder / "report.html")]


def read(path: Path) -> PriceOfRobustness:
    """The sweep of a `sweep.json`. Raises `UsageError` if it cannot be read."""
    data = figures(path)
    try:
        points = tuple(Point(*map(float, each)) for each in data["points"])
        if not points or not np.isfinite(points).all():
            raise ValueError("it has no points, or some are not finite")
        words = {name: str(data[name]) for name in ("name", "ambiguity", "measured", "command")}
        return PriceOfRobustness(**words, nominal=float(data["nominal"]), points=points)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not a sweep ({error!r}); remove it, and run surefoot solve again.") from error


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

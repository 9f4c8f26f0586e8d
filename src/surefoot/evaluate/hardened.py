"""Two audits side by side: a policy before and after it was trained against what it failed.

Both are played with the same episode seeds in the same cells, so that every change is a paired one. What changes is
shown as returns, not as shares of the nominal return, which would also rise if only the nominal return fell.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from surefoot.errors import UsageError
from surefoot.evaluate.audit import AuditReport
from surefoot.evaluate.battery import Cell
from surefoot.evaluate.periodic import keep
from surefoot.evaluate.statistics import ConfidenceInterval, confidence_interval, mean, worst_interval

AGAINST = "against"  # the family of the sweeps of what it was trained against
LEVEL = 0.95


class Change(NamedTuple):
    """A mean return before and after, and the interval of what was gained; `None` where no two episodes differ."""

    before: float
    after: float
    interval: ConfidenceInterval | None

    @property
    def gain(self) -> float:
        return self.after - self.before

    @property
    def word(self) -> str:
        """Whether the change is shown: "higher", "lower", "not shown", or "equal" for the same returns."""
        if self.interval is None:
            return "equal" if self.gain == 0 else "higher" if self.gain > 0 else "lower"
        return "higher" if self.interval.low > 0 else "lower" if self.interval.high < 0 else "not shown"


def changed(before: np.ndarray, after: np.ndarray) -> Change:
    """The change between two mean returns `[episodes]`, paired by seed (Student's t over the differences)."""
    return Change(float(before.mean()), float(after.mean()), confidence_interval(after - before, mean, level=LEVEL))


def worst_changed(before: np.ndarray, after: np.ndarray) -> Change:
    """The change between the returns in the worst cells, each chosen after the fact, of returns `[cells, episodes]`.

    The two need not be the same cell, so this is the difference of two worst means, each of which has an interval
    that allows for the choice and misses with half the probability (`worst_interval`). It is wider than the paired
    interval of one cell, which for the worst cell of before would count its bad luck as a gain.
    """
    level, ends = (1 + LEVEL) / 2, []
    for returns in (before, after):
        distinct = len({row.tobytes() for row in returns})
        worst = float(returns.mean(1).min())
        ends.append(worst_interval(returns.T, 1 / len(returns), level=level, distinct=distinct) or (worst, worst))
    low, high = ends[1][0] - ends[0][1], ends[1][1] - ends[0][0]
    interval = ConfidenceInterval(low, high) if low < high else None
    return Change(float(before.mean(1).min()), float(after.mean(1).min()), interval)


@dataclasses.dataclass(frozen=True, eq=False)
class HardenReport:
    """The audits of a policy before and after it was trained against perturbations."""

    before: AuditReport
    after: AuditReport
    against: tuple[str, ...]  # texts of the perturbations
    source: str  # what was trained on
    run: str  # the folder of the new run
    steps: int  # of its training

    def __post_init__(self) -> None:
        if self.before.seeds != self.after.seeds or not self.cells:
            raise UsageError("the two audits have no cell with the same episodes in common; audit both the same way.")

    @property
    def cells(self) -> list[tuple[Cell, int, int]]:
        """The cells that both audits have, with their places in each."""
        places = {(cell.family, cell.text): i for i, cell in enumerate(self.after.cells)}
        both = ((cell, i, places.get((cell.family, cell.text))) for i, cell in enumerate(self.before.cells))
        return [(cell, i, j) for cell, i, j in both if j is not None]

    @property
    def nominal(self) -> Change:
        """The change without a perturbation."""
        return changed(self.before.nominal_returns, self.after.nominal_returns)

    @property
    def changes(self) -> list[tuple[Cell, Change]]:
        """The change in every cell."""
        return [(cell, changed(self.before.returns[i], self.after.returns[j])) for cell, i, j in self.cells]

    @property
    def worst(self) -> dict[str, Change]:
        """The change of the return in the worst cell of every family."""
        found = {}
        for family in dict.fromkeys(cell.family for cell, *_ in self.cells):
            places = [(i, j) for cell, i, j in self.cells if cell.family == family]
            rows = self.before.returns[[i for i, _ in places]], self.after.returns[[j for _, j in places]]
            found[family] = worst_changed(*rows)
        return found

    @property
    def hardened(self) -> bool:
        """Whether the return in the worst cell of what it was trained against is shown to be higher."""
        return AGAINST in self.worst and self.worst[AGAINST].word == "higher"

    def table(self) -> str:
        """Both audits side by side as text."""
        from surefoot.evaluate.pages.hardened import text

        return text(self)

    def markdown(self) -> str:
        """Both audits side by side as Markdown."""
        from surefoot.evaluate.pages.hardened import markdown

        return markdown(self)

    def html(self) -> str:
        """Both audits side by side as one self-contained page."""
        from surefoot.evaluate.pages.hardened import page

        return page(self)

    def json(self) -> str:
        """All changes, and both audits; numbers that are not finite are null."""

        def plain(change: Change) -> dict[str, Any]:
            ends = None if change.interval is None else [x if math.isfinite(x) else None for x in change.interval]
            return {"before": change.before, "after": change.after, "gain": change.gain, "interval": ends,
                    "word": change.word}  # fmt: skip

        top: dict[str, Any] = {name: getattr(self, name) for name in ("source", "run", "steps", "hardened")}
        top |= {"against": list(self.against), "nominal": plain(self.nominal)}
        top |= {"worst": {family: plain(change) for family, change in self.worst.items()}}
        top["cells"] = [{"family": c.family, "perturbation": c.text, **plain(x)} for c, x in self.changes]
        top |= {"audit_before": json.loads(self.before.json()), "audit_after": json.loads(self.after.json())}
        return json.dumps(top, indent=2)

    def save(self, folder: str | Path) -> None:
        """Write `harden.json`, `harden.md` and `harden.html` to a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for ending, text in (("json", self.json()), ("md", self.markdown()), ("html", self.html())):
            keep(Path(folder) / f"harden.{ending}", text)

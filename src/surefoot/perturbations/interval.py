"""Ranges of strengths and parameter values, and the numbers that print them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from surefoot.errors import UsageError

GRIDS = ("closed", "rrls")


def number(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return repr(float(value)).removesuffix(".0")


@dataclasses.dataclass(frozen=True)
class Interval:
    """A closed range of strengths or values: drawn uniformly per episode, swept by a grid."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise UsageError(f"The range {self.low}..{self.high} is not allowed; it must be finite with low <= high.")

    def __str__(self) -> str:
        return f"{number(self.low)}..{number(self.high)}"

    def values(self, points: int, grid: str = "closed") -> list[float]:
        """`points` equidistant values: "closed" includes both ends, "rrls" excludes the upper (arXiv:2406.08406)."""
        if grid not in GRIDS:
            raise UsageError(f"grid={grid!r} is not allowed; it must be one of {', '.join(map(repr, GRIDS))}.")
        least = 2 if grid == "closed" else 1
        if isinstance(points, bool) or not isinstance(points, (int, np.integer)) or points < least:
            raise UsageError(f"points={points!r} is not allowed; a {grid} grid needs a whole number >= {least}.")
        if self.low == self.high:
            return [float(self.low)]
        if grid == "closed":
            return np.linspace(self.low, self.high, points).tolist()
        return [self.low + i * (self.high - self.low) / points for i in range(points)]

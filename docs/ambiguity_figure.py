"""Draw what each ambiguity set makes of one small distribution: docs/ambiguity.svg.

Every set is just large enough to lower the mean by one, so that only the ways differ in which they do it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from surefoot.ambiguity import (
    KL,
    L1,
    Ambiguity,
    ChiSquare,
    Contamination,
    CVaR,
    Ellipsoid,
    Entropic,
    Hellinger,
    LInfinity,
    ReverseKL,
    TotalVariation,
    Wasserstein,
    worst_case,
)
from surefoot.evaluate.plots import COLOURS, STYLE

VALUES = np.arange(8.0)
NOMINAL = np.array([0.0, 0.04, 0.08, 0.16, 0.24, 0.24, 0.16, 0.08])  # the worst outcome has never been seen
DROP = 1.0
DISTANCE = np.abs(VALUES[:, None] - VALUES)

SETS: dict[str, tuple[Callable[[float], Ambiguity], float, float]] = {
    "KL": (lambda x: KL(x), 1e-6, 5.0),
    "reverse KL": (lambda x: ReverseKL(x), 1e-6, 5.0),
    "χ²": (lambda x: ChiSquare(x), 1e-6, 20.0),
    "Hellinger": (lambda x: Hellinger(x), 1e-6, 0.99),
    "total variation": (lambda x: TotalVariation(x), 1e-6, 1.0),
    "L1, on the support": (lambda x: L1(x, support="nominal"), 1e-6, 2.0),
    "L∞": (lambda x: LInfinity(x), 1e-6, 1.0),
    "contamination": (lambda x: Contamination(x), 1e-6, 1.0),
    "Wasserstein": (lambda x: Wasserstein(x, cost=DISTANCE), 1e-6, 7.0),
    "ellipsoid": (lambda x: Ellipsoid(x), 1e-6, 2.0),
    "CVaR": (lambda x: CVaR(1 / (1 + x)), 1e-6, 1e3),
    "entropic risk": (lambda x: Entropic(x), 1e-6, 50.0),
}


def fitted(make: Callable[[float], Ambiguity], low: float, high: float) -> tuple[float, np.ndarray]:
    """The size at which the worst mean is `DROP` below the nominal one, and the distribution there, by bisection."""
    target = NOMINAL @ VALUES - DROP
    for _ in range(60):
        middle = (low + high) / 2
        found = worst_case(VALUES, NOMINAL, make(middle)).distribution
        low, high = (middle, high) if found @ VALUES > target else (low, middle)
    return high, worst_case(VALUES, NOMINAL, make(high)).distribution


@matplotlib.rc_context(STYLE)
def draw() -> Figure:
    """Small multiples: the nominal distribution in outline, the worst one filled."""
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    panels = figure.subplots(3, 4, sharex=True, sharey=True).ravel()
    for axes, (name, (make, low, high)) in zip(panels, SETS.items(), strict=True):
        _, distribution = fitted(make, low, high)
        axes.bar(VALUES, distribution, width=0.8, color=COLOURS[1])
        axes.step(np.arange(-0.5, 8), np.append(NOMINAL, NOMINAL[-1]), where="post", color=COLOURS[6], linewidth=1.2)
        axes.set_title(name)
        axes.grid(axis="x", visible=False)
    figure.supxlabel("outcome (worst on the left)")
    figure.supylabel("probability")
    return figure


if __name__ == "__main__":
    place = Path(__file__).with_name("ambiguity.svg")
    draw().savefig(place, metadata={"Date": None})
    print(place)

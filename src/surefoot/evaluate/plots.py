"""Figures in one style: colours that colour-blind readers can distinguish, no display, reproducible to the bit."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from surefoot.errors import UsageError
from surefoot.evaluate.statistics import confidence_band, interquartile_mean, performance_profile, profile_interval

# Okabe and Ito, "Color Universal Design" (2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: dict[Any, Any] = {
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "font.size": 10,
    "image.cmap": "cividis",
    "svg.hashsalt": "surefoot",
}
WORST = "#D55E00"
TICKS = 6  # maximum number of labels along an axis of a heat map, so that they do not overlap


def _axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x, ylabel=y)
    return figure, axes


@matplotlib.rc_context(STYLE)
def learning_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    title: str = "",
    x: str = "environment steps",
    y: str = "return",
    level: float = 0.95,
) -> Figure:
    """Per name: steps `[t]` and scores `[runs, t]`; the interquartile mean over runs in its interval at each step."""
    if not curves:
        raise UsageError("curves is empty; give at least one name with (steps [t], scores [runs, t]).")
    figure, axes = _axes(title, x, y)
    for name, (steps, scores) in curves.items():
        steps, scores = np.asarray(steps), np.atleast_2d(np.asarray(scores, np.float64))
        if scores.shape[1:] != steps.shape:
            raise UsageError(
                f"curves[{name!r}]: steps {steps.shape} and scores {scores.shape} must be [t] and [runs, t]."
            )
        (line,) = axes.plot(steps, interquartile_mean(scores.T[:, :, None]), label=name)
        if len(scores) > 1:
            low, high = confidence_band(scores, interquartile_mean, level=level)
            axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.legend()
    return figure


@matplotlib.rc_context(STYLE)
def heat_map(
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    *,
    nominal: tuple[float, float] | None = None,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    label: str = "",
) -> Figure:
    """`values [len(x), len(y)]` over two axes; the smallest one is marked, and the nominal point if it lies inside."""
    x, y, values = np.asarray(x, np.float64), np.asarray(y, np.float64), np.asarray(values, np.float64)
    if values.shape != (len(x), len(y)):
        raise UsageError(f"values has shape {values.shape}; it must be [len(x), len(y)] = {(len(x), len(y))}.")
    figure, axes = _axes(title, xlabel, ylabel)
    axes.grid(False)
    mesh = axes.pcolormesh(x, y, values.T, shading="nearest")
    figure.colorbar(mesh, ax=axes, label=label)
    i, j = np.unravel_index(values.argmin(), values.shape)
    axes.plot(
        x[i],
        y[j],
        marker="X",
        markersize=12,
        color=WORST,
        markeredgecolor="white",
        linestyle="none",
        label=f"worst: {values[i, j]:g}",
    )
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    if nominal is not None and left <= nominal[0] <= right and low <= nominal[1] <= high:
        ring: Any = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "linestyle": "none"}
        axes.plot(*nominal, **ring, markeredgecolor="white", markeredgewidth=3.5)
        axes.plot(*nominal, **ring, markeredgecolor="black", markeredgewidth=1.5, label="nominal")
    for ticks, places in ((axes.set_xticks, x), (axes.set_yticks, y)):
        shown = places[:: -(-len(places) // TICKS)]
        ticks(shown, [f"{place:.3g}" for place in shown])
    figure.legend(loc="outside lower right", ncols=2)
    return figure


@matplotlib.rc_context(STYLE)
def curve(
    x: ArrayLike,
    values: ArrayLike,
    band: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    nominal: float | None = None,
    nominal_at: float | None = None,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "return",
) -> Figure:
    """`values [n]` over `x [n]` with a band; the smallest one is marked, the nominal value is a dashed line, with a
    ring at its place if that is among `x`."""
    x, values = np.asarray(x, np.float64), np.asarray(values, np.float64)
    figure, axes = _axes(title, xlabel, ylabel)
    axes.plot(x, values, marker="o", markersize=4)
    if band is not None:
        axes.fill_between(x, np.asarray(band[0]), np.asarray(band[1]), color=COLOURS[0], alpha=0.2, linewidth=0)
    if nominal is not None:
        axes.axhline(nominal, color="#555555", linestyle="--", linewidth=1.2, label=f"nominal: {nominal:g}")
        if nominal_at is not None and x.min() <= nominal_at <= x.max():
            axes.plot(nominal_at, nominal, "o", markersize=9, markerfacecolor="none", markeredgecolor="#555555")
    worst = int(values.argmin())
    axes.plot(x[worst], values[worst], "X", markersize=12, color=WORST, label=f"worst: {values[worst]:g}")
    axes.legend()
    return figure


@matplotlib.rc_context(STYLE)
def profiles(
    scores: Mapping[str, ArrayLike], thresholds: Sequence[float] | np.ndarray, *, title: str = "", x: str = "score"
) -> Figure:
    """Performance profiles: per name, the share of `[runs, tasks]` above each threshold, with its exact band."""
    figure, axes = _axes(title, x, "share of runs above")
    for name, values in scores.items():
        (line,) = axes.plot(thresholds, performance_profile(values, thresholds), label=name)
        low, high = profile_interval(values, thresholds)
        axes.fill_between(thresholds, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_ylim(0, 1.02)
    axes.legend()
    return figure


@matplotlib.rc_context(STYLE)
def panels(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float], Sequence[float]]],
    *,
    level: float,
    label: str,
) -> Figure:
    """A small panel for each name, two beside each other, with one vertical axis: x, y and the ends of an interval, all
    `[n]`; a dashed line is at `level`."""
    rows = -(-len(curves) // 2)
    figure = Figure(figsize=(4.6, 0.3 + 1.5 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, sharey=True, squeeze=False)
    for axes, (name, (x, y, low, high)) in zip(grid.flat, curves.items()):
        axes.axhline(level, color="#777777", linewidth=0.8, linestyle="--")
        axes.plot(x, y, marker="o", markersize=3)
        axes.fill_between(x, low, high, alpha=0.2, linewidth=0, where=np.isfinite(low) & np.isfinite(high))
        axes.set_title(name, fontsize=8)
    for axes in list(grid.flat)[len(curves) :]:
        axes.remove()
    figure.supylabel(label, fontsize=9)
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as one `<svg>` element, ready to stand in HTML; the same figure gives the same text."""
    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]

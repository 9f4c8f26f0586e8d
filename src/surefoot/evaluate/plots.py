"""Figures in one style, for pages and for papers: small, colours that colour-blind readers can distinguish, no display,
reproducible to the bit. `to_svg` makes of a figure an element of a page whose colours follow the reader's scheme."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from surefoot.errors import UsageError
from surefoot.evaluate.readable import number
from surefoot.evaluate.statistics import (
    Statistic,
    confidence_band,
    interquartile_mean,
    performance_profile,
    profile_interval,
)

# Okabe and Ito, "Color Universal Design" (2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, FAINT, RULE = "#1c2430", "#5b6573", "#dde2e8"
WORST = COLOURS[1]
# What a page calls these colours; its style sheet has a value of each for either scheme.
VARIABLES = {INK: "--ink", FAINT: "--faint", RULE: "--rule"} | {c.lower(): f"--c{i}" for i, c in enumerate(COLOURS)}
STYLE: dict[Any, Any] = {
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": RULE,
    "axes.labelcolor": FAINT,
    "axes.labelsize": 8.8,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.8,
    "legend.labelcolor": INK,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "font.size": 8.8,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is not mathematics
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "image.cmap": "cividis",
    "svg.hashsalt": "surefoot",
    "svg.fonttype": "none",
}
WIDTH, HEIGHT = 4.2, 2.7  # inches: text is legible both in a narrow column and on a phone
TICKS = 6  # maximum number of labels along an axis of a heat map, so that they do not overlap
POINTS = 300  # maximum number of points of a curve
FEW = 12  # maximum number of runs that are drawn one by one


def new(title: str = "", x: str = "", y: str = "", height: float = HEIGHT) -> tuple[Figure, Axes]:
    """An empty figure whose ticks are short numbers."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x, ylabel=y)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(Short())
    return figure, axes


class Short(Formatter):
    """Numbers of ticks with k, M or G, the same for all ticks of an axis."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        ends = np.abs(self.axis.get_view_interval()).max() if self.axis is not None else abs(x)  # type: ignore[union-attr]
        unit, suffix = next(((u, s) for u, s in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if 1e13 > ends >= 10 * u), (1, ""))
        return f"{x / unit:.5g}{suffix if x else ''}".replace("-", "−")


def _legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Below the axes, where it hides nothing; none for a single unnamed line."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        long = max(map(len, labels)) > 22
        figure.legend(handles, labels, loc="outside lower left", ncols=1 if long else columns)


def thinned(steps: NDArray[Any]) -> NDArray[np.intp]:
    """The places of at most `POINTS` of the steps, always including the last one."""
    stride = -(-len(steps) // POINTS)
    return np.arange(len(steps))[::-1][::stride][::-1]


@matplotlib.rc_context(STYLE)
def learning_curves(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    title: str = "",
    x: str = "environment steps",
    y: str = "return",
    level: float = 0.95,
    statistic: Statistic = interquartile_mean,
    runs: bool = False,
    dots: bool = False,
) -> Figure:
    """Per name: steps `[t]` and scores `[runs, t]`; the statistic over runs in its interval at each step.

    Steps at which a score is missing (NaN) have no statistic. `runs` also draws every run as a thin line, `dots` every
    score as a dot.
    """
    if not curves:
        raise UsageError("curves is empty; give at least one name with (steps [t], scores [runs, t]).")
    figure, axes = new(title, x, y)
    for place, (name, (steps, scores)) in enumerate(curves.items()):
        steps, scores = np.asarray(steps), np.atleast_2d(np.asarray(scores, np.float64))
        colour = COLOURS[place % len(COLOURS)]
        if scores.shape[1:] != steps.shape:
            raise UsageError(
                f"curves[{name!r}]: steps {steps.shape} and scores {scores.shape} must be [t] and [runs, t]."
            )
        kept = thinned(steps)
        steps, scores = steps[kept], scores[:, kept]
        whole = np.isfinite(scores).all(axis=0)
        middle = np.full(len(steps), np.nan)
        if whole.any():
            middle[whole] = statistic(scores.T[whole][:, :, None])
        if len(scores) > 1:
            if runs and len(scores) <= FEW:
                axes.plot(steps, scores.T, color=colour, linewidth=0.8, alpha=0.35, zorder=1.5)
            if whole.any():
                band = confidence_band(scores[:, whole], statistic, level=level)
                axes.fill_between(steps[whole], band.low, band.high, color=colour, alpha=0.2, linewidth=0)
        if dots:
            axes.plot(np.repeat(steps[None], len(scores), 0).T, scores.T, "o", color=colour, markersize=3, alpha=0.45)
        alone = whole.sum() == 1 and not dots  # a line of one point cannot be seen
        axes.plot(steps, middle, color=colour, label=name, marker="o" if alone else None, markersize=4)
    _legend(figure, axes) if len(curves) > 1 else None
    return figure


@matplotlib.rc_context(STYLE)
def dots(
    values: Mapping[str, ArrayLike],
    middle: Mapping[str, tuple[float, tuple[float, float] | None]],
    *,
    x: str = "return",
    title: str = "",
) -> Figure:
    """Per name its values `[n]` as dots, above each other where they are many, and below them their mean with its
    interval."""
    figure, axes = new(title, x, height=0.75 + 0.62 * len(values))
    for row, (name, each) in enumerate(values.items()):
        each = np.sort(np.asarray(each, np.float64))
        spread = 0.28 * ((np.arange(len(each)) * 7) % 11) / 10  # the same every time
        axes.plot(each, row - 0.05 - spread, "o", color=COLOURS[0], markersize=3.5, alpha=0.6, markeredgewidth=0)
        value, ends = middle[name]
        if ends is not None:
            axes.plot(ends, [row + 0.18] * 2, color=WORST, linewidth=2, solid_capstyle="butt")
        axes.plot(value, row + 0.18, "D", color=WORST, markersize=5)
    axes.set_ylim(len(values) - 0.6, -0.6)
    axes.set_yticks(range(len(values)), list(values) if len(values) > 1 else [""])
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    return figure


@matplotlib.rc_context(STYLE)
def intervals(
    rows: Sequence[tuple[str, float, float | None, float | None]],
    *,
    x: str = "",
    title: str = "",
    bars: Sequence[Sequence[float]] = (),
    points: Sequence[ArrayLike] = (),
    colours: Sequence[str] = (),
    reference: float | None = None,
    numbers: bool = True,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """A forest plot: per row its name above, its value as a dot and its interval as a line; `bars` has the places of
    small vertical bars for every row, `points` its single values, `reference` is a dotted line in each of them."""
    figure, axes = new(title, x, height=0.62 + 0.44 * len(rows))
    for place, (name, value, low, high) in enumerate(rows):
        colour = colours[place] if colours else COLOURS[0]
        if points:
            each = np.asarray(points[place], np.float64)
            axes.plot(each, np.full(each.shape, place + 0.15), "o", color=colour, markersize=3, alpha=0.35)
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(value, place, "o", color=colour, markersize=5)
        for bar in bars[place] if bars else ():
            axes.plot([bar] * 2, [place - 0.2, place + 0.2], color=FAINT, linewidth=1.2)
        if reference is not None:
            axes.plot(
                [reference] * 2, [place - 0.2, place + 0.25], color=FAINT, linewidth=0.9, linestyle=":", zorder=0.5
            )
        text = axes.text(0, place - 0.26, name, transform=axes.get_yaxis_transform(), va="bottom", ha="left")
        text.set_in_layout(False)  # the axes are as wide as the figure
    if limits is not None:
        axes.set_xlim(*limits)
    if not numbers:
        axes.set_xticks([0], ["0"])
    axes.set_ylim(len(rows) - 0.55, -0.95)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
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
    figure, axes = new(title, xlabel, ylabel, height=3.2)
    axes.grid(False)
    mesh = axes.pcolormesh(x, y, values.T, shading="nearest", edgecolors="face", linewidth=0.2)
    bar = figure.colorbar(mesh, ax=axes, label=label, format=Short(), ticks=MaxNLocator(5))
    bar.outline.set_visible(False)  # type: ignore[operator]
    i, j = np.unravel_index(values.argmin(), values.shape)
    cross: Any = {"marker": "X", "markersize": 11, "markeredgecolor": "white", "linestyle": "none"}
    axes.plot(x[i], y[j], **cross, color=WORST, label=f"worst: {number(float(values[i, j]))}")
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    if nominal is not None and left <= nominal[0] <= right and low <= nominal[1] <= high:
        ring: Any = {"marker": "o", "markersize": 10, "markerfacecolor": "none", "linestyle": "none"}
        axes.plot(*nominal, **ring, markeredgecolor="white", markeredgewidth=3.5)
        axes.plot(*nominal, **ring, markeredgecolor="#111111", markeredgewidth=1.5)
        axes.plot([], [], **ring, markeredgecolor=INK, label="nominal")
    for ticks, places in ((axes.set_xticks, x), (axes.set_yticks, y)):
        shown = places[:: -(-len(places) // TICKS)]
        ticks(shown, [f"{place:.3g}" for place in shown])
    _legend(figure, axes)
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
    figure, axes = new(title, xlabel, ylabel)
    axes.plot(x, values, marker="o", markersize=4)
    if band is not None:
        axes.fill_between(x, np.asarray(band[0]), np.asarray(band[1]), color=COLOURS[0], alpha=0.2, linewidth=0)
    if nominal is not None:
        axes.axhline(nominal, color=FAINT, linestyle="--", linewidth=1.2, label=f"nominal: {number(nominal)}")
        if nominal_at is not None and x.min() <= nominal_at <= x.max():
            axes.plot(nominal_at, nominal, "o", markersize=9, markerfacecolor="none", markeredgecolor=INK)
    worst = int(values.argmin())
    axes.plot(x[worst], values[worst], "X", markersize=11, color=WORST, label=f"worst: {number(float(values[worst]))}")
    _legend(figure, axes)
    return figure


@matplotlib.rc_context(STYLE)
def lines(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    x: str,
    y: str,
    title: str = "",
    level: float | None = None,
    level_name: str = "",
    dashed: Sequence[str] = (),
) -> Figure:
    """Lines over `x` by name, and a dotted one at `level`."""
    figure, axes = new(title, x, y, height=3.1)
    for name, (places, values) in curves.items():
        axes.plot(np.asarray(places), np.asarray(values), "--" if name in dashed else "-", label=name)
    if level is not None:
        axes.axhline(level, color=FAINT, linestyle=":", linewidth=1.2, label=level_name)
    _legend(figure, axes, 1)
    return figure


@matplotlib.rc_context(STYLE)
def profiles(
    scores: Mapping[str, ArrayLike], thresholds: Sequence[float] | np.ndarray, *, title: str = "", x: str = "score"
) -> Figure:
    """Performance profiles: per name, the share of `[runs, tasks]` above each threshold, with its exact band."""
    figure, axes = new(title, x, "share of runs above")
    for name, values in scores.items():
        (line,) = axes.plot(thresholds, performance_profile(values, thresholds), label=name)
        low, high = profile_interval(values, thresholds)
        axes.fill_between(thresholds, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_ylim(0, 1.02)
    _legend(figure, axes)
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
    figure = Figure(figsize=(WIDTH, 0.3 + 1.4 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, sharey=True, squeeze=False)
    for axes, (name, (x, y, low, high)) in zip(grid.flat, curves.items()):
        axes.axhline(level, color=FAINT, linewidth=0.8, linestyle="--")
        axes.plot(x, y, marker="o", markersize=3)
        axes.fill_between(x, low, high, alpha=0.2, linewidth=0, where=np.isfinite(low) & np.isfinite(high))
        axes.set_title(textwrap.fill(name, 24), fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(Short())
    for axes in list(grid.flat)[len(curves) :]:
        axes.remove()
    figure.supylabel(label, fontsize=8.8, color=FAINT)
    return figure


def to_svg(figure: Figure, label: str = "") -> str:
    """The figure as one `<svg>` element, ready to stand in HTML; the same figure gives the same text.

    Its ground is transparent, the colours of `VARIABLES` are those of the page's style sheet, and so is the font.
    `label` says to a screen reader what it shows.
    """
    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=none, transparent=True)
    svg = text.getvalue()
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :])  # such as axes_1, which every figure has
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r"\s+", " ", svg)
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda found: _variable(found[0]), svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    name = escape(label.encode(errors="backslashreplace").decode())
    head = f'<svg {box[0]} xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img"'
    return f'{head} aria-label="{name}">{svg[svg.index(">") + 1 :]}'


def _variable(colour: str) -> str:
    found = VARIABLES.get(to_hex(colour))
    return colour if found is None else f"var({found})"

"""A stress test as sections of a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from surefoot.evaluate.pages.films import film
from surefoot.evaluate.pages.page import Block, Chart, Charts, Films, Folded, Page, Section, Table, Text
from surefoot.evaluate.read_back import stress_report
from surefoot.evaluate.readable import measured, plural
from surefoot.evaluate.statistics import ConfidenceInterval
from surefoot.evaluate.stress import StressReport

TAIL = 0.1
CELLS = 400  # maximum number of cells that are listed


def sections(folder: Path) -> Iterator[Section]:
    """A section for every stress test in a folder, with the films beside it."""
    for path in sorted(folder.glob("stress-*.json")):
        yield section(stress_report(path), path.with_suffix(""))


def page(path: Path) -> Page:
    """The page of one stress test, from its file."""
    report = stress_report(path)
    return Page(f"{report.policy} under stress", [], sections=[section(report, path.with_suffix(""))])


def section(report: StressReport, stem: Path | None = None) -> Section:
    """Statistics, the return and its loss over the grid, films of the nominal and the worst cell, and every cell.

    stem: of the films' files, `<stem>-nominal.mp4` and `<stem>-worst.mp4`, if they exist.
    """
    rows = [
        (name, f"{value:.4g}", interval_text, remark)
        for name, value, interval_text, remark in report.figures(TAIL, form=".4g")
    ]
    head = ("", "return", "95 % interval", "where")
    what = f"{report.policy} in {report.env} under {report.perturbation}"
    blocks: list[Block] = [
        Text([what]),
        Table(head, rows, frozenset({"return", "95 % interval"})),
        Charts(charts(report)),
    ]
    blocks += films(report, stem)
    first, *others = report.notes
    others = [note for note in others if note not in report.warnings]
    blocks += [
        Text([first, *report.warnings], faint=True),
        Folded("How to read this", [Text(others)]),
        every_cell(report),
    ]
    return Section(f"Stress test: {' and '.join(report.axes) or report.perturbation}", blocks)


def charts(report: StressReport) -> list[Chart]:
    """The return over the grid, and its change against the same episodes undisturbed."""
    episodes = plural(len(report.seeds), "episode")
    band = f"band: 95 % t-interval over {episodes}" if len(report.seeds) > 1 else "one episode per cell, so no band"
    how = band if report.varying != 2 else f"colour: mean of {episodes}"
    made = []
    kinds: tuple[tuple[Literal["return", "change"], str], ...]
    kinds = ("return", "Return"), ("change", "Change of the return against nominal")
    for of, title in kinds:
        figure = report.plot(of=of)
        figure.axes[0].set_title("", loc="left")
        said = f"Cross: worst cell; {_nominal_mark(report, of)}{how}."
        made.append(Chart(title, figure, said))
    return made


def _nominal_mark(report: StressReport, of: str) -> str:
    ring = "ring: nominal point; " if report.nominal_inside else ""
    if report.varying == 2:
        return ring or "the nominal point is not in this plane; "
    dashed = "the nominal return" if of == "return" else "no change"
    return f"dashed: {dashed}; {ring}"


def films(report: StressReport, stem: Path | None) -> list[Block]:
    """The same episode undisturbed and in the worst cell, beside each other, if both were kept."""
    if stem is None:
        return []
    names = ("nominal", "Undisturbed"), ("worst", f"Worst cell: {report.place(report.worst_cell.values())}")
    said = f"The same episode, seed {report.seeds[0]}."
    found = [film(stem.with_name(f"{stem.name}-{name}.mp4"), title, said) for name, title in names]
    kept = [one for one in found if one is not None]
    return [Films(kept)] if len(kept) == len(found) else []


def every_cell(report: StressReport) -> Folded:
    """Coordinates, mean return with its interval, and change of every cell, the worst first."""
    bands = report.intervals()["cells"] if len(report.seeds) > 1 else None
    order = np.argsort(report.cell_means)[:CELLS]
    rows = []
    for i in order:
        ends = None if bands is None or np.isnan(bands.low[i]) else ConfidenceInterval(bands.low[i], bands.high[i])
        shown = [f"{value:.4g}" for value in report.coordinates[i]]
        rows.append([*shown, measured(float(report.cell_means[i]), ends), f"{report.changes[i].mean():+.4g}"])
    last = ("return, 95 % interval", "change")
    title = f"Every cell ({len(report.returns)})" if len(order) < CELLS else f"The worst {CELLS} cells"
    return Folded(title, [Table((*report.axes, *last), rows, frozenset({*report.axes, *last}))])

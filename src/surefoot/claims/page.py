"""A claim as a reader meets it: its parts as a table, a forest plot, differences from the paper, history, the command."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from surefoot.claims.judge import Finding, line
from surefoot.claims.parts import TIERS, Claim, Experiment, LogRatio, NoWorse, Part, Within
from surefoot.claims.records import Record, findings, limits, named, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 110
COLUMNS = ("part", "word", "ours, with interval", "bar", "paper", "n")
COLOURS = {"supported": "#009E73", "contradicted": "#D55E00", "inconclusive": "#E69F00", "void": "#5b6573"}


def shown(part: Part) -> Callable[[float], str]:
    """How a part's effects are written: log ratios as ratios."""
    if isinstance(part.contrast, LogRatio):
        return lambda x: f"×{math.exp(min(x, 700.0)):.3g}"
    return lambda x: f"{x:.3g}".replace("-", "−")


def ours(part: Part, found: Finding | None) -> str:
    """Our effect with its interval."""
    if found is None:
        return "not run"
    show = shown(part)
    return show(found.value) + (
        ""
        if found.low is None or found.high is None or found.low == found.high
        else f" [{show(found.low)}, {show(found.high)}]"
    )


def cells(part: Part, found: Finding | None) -> tuple[str, ...]:
    """A row of the table, by `COLUMNS`."""
    paper = "" if part.published is None else shown(part)(part.published.value)
    word = "–" if found is None else found.word
    return part.name, word, ours(part, found), part.test.bar(shown(part)), paper, "" if found is None else str(found.n)


def table(claim: Claim, records: Sequence[Record]) -> str:
    """The claim's sentence, its standing and its parts, for a terminal."""
    found = findings(claim, records)
    lines = [*textwrap.wrap(f"{claim.slug}: {claim.sentence} ({claim.source})", WIDTH), "", line(claim, found)]
    rows = {part.name: cells(part, found.get(part.name)) for part in claim.parts}
    widths = [max(len(row[i]) for row in (COLUMNS, *rows.values())) for i in range(len(COLUMNS))]
    lines += ["", "    " + aligned(COLUMNS, widths)]
    for name, experiment in ordered(claim):
        lines.append(heading(name, experiment))
        for part in of(claim, name):
            lines.append(("  * " if part.role == "primary" else "    ") + aligned(rows[part.name], widths))
    return "\n".join([*lines, "* primary parts: their intervals share the error level of 5 % (Holm)"])


def text(claim: Claim, records: Sequence[Record]) -> str:
    """All of the claim for a terminal: the table, and what a reader must know to weigh it."""
    lines = [table(claim, records)]
    for title, items in details(claim, records).items():
        lines += ["", title]
        lines += [w for item in items for w in textwrap.wrap(f"- {item}", WIDTH, subsequent_indent="  ")]
    return "\n".join(lines)


def markdown(claim: Claim, records: Sequence[Record], figure: str = "") -> str:
    """The claim for its paper's page; `figure` is the path of its forest plot."""
    found = findings(claim, records)
    lines = [f"{claim.sentence} ({claim.source})", "", f"**{line(claim, found)}**", ""]
    if figure:
        lines += [f"![Effects of all parts with their intervals]({figure})", ""]
    for name, experiment in ordered(claim):
        lines += [f"### {heading(name, experiment)}", ""]
        shown_columns = [c for c in COLUMNS if c != "paper" or any(part.published for part in of(claim, name))]
        lines += ["| " + " | ".join(shown_columns) + " |", "|" + "---|" * len(shown_columns)]
        for part in of(claim, name):
            row: dict[str, str] = dict(zip(COLUMNS, cells(part, found.get(part.name)), strict=True))
            row["part"] = f"**{part.name}**" if part.role == "primary" else part.name
            lines.append("| " + " | ".join(row[column] for column in shown_columns) + " |")
        lines.append("")
    lines.append("Bold: primary parts, whose intervals share the error level of 5 % (Holm).")
    for title, items in details(claim, records).items():
        lines += ["", f"### {title.capitalize()}", "", *(f"- {item}" for item in items)]
    return "\n".join(lines)


def standing(claim: Claim) -> str:
    """The line of a claim, from the shipped records."""
    return line(claim, findings(claim, read(claim)[0]))


# --- its pieces ------------------------------------------------------------------------------------------------------


def ordered(claim: Claim) -> list[tuple[str, Experiment]]:
    """Experiments by tier."""
    return sorted(claim.experiments.items(), key=lambda item: TIERS.index(item[1].tier))


def of(claim: Claim, experiment: str) -> list[Part]:
    """The parts of an experiment, the primary ones first."""
    return sorted((p for p in claim.parts if p.experiment == experiment), key=lambda part: part.role != "primary")


def heading(name: str, experiment: Experiment) -> str:
    """An experiment's name with its tier, in words."""
    whose = {
        "mechanism": "mechanism",
        "miniature": "our miniature, not the paper's",
        "instance": "the paper's instance",
    }
    return f"{name[0].upper()}{name[1:]} ({whose[experiment.tier]})"


def aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def notes_of(part: Part, found: Finding | None) -> list[str]:
    """What the table has no room for: where the paper's number stands, and why a word is no firmer."""
    notes = [f"{part.name}: {note}" for note in (found.notes if found is not None else ())]
    if part.published is not None:
        spread = f", spread {part.published.spread}" if part.published.spread else ""
        runs = f", n = {part.published.n}" if part.published.n else ""
        ratio = f"; ours is {found.value / part.published.value:.2f} of it" if found and part.published.value else ""
        notes.append(
            f"{part.name}: the paper's number is {part.published.status} from {part.published.where}"
            f"{spread}{runs}{ratio}"
        )
    return notes


def details(claim: Claim, records: Sequence[Record]) -> dict[str, list[str]]:
    """Lists below the table, by title; empty ones are left out."""
    commands = [
        f"surefoot claim {claim.slug} --tier {tier}   ({sum(e.minutes for e in some):g} core-minutes)"
        for tier in TIERS
        if (some := [e for e in claim.experiments.values() if e.tier == tier])
    ]
    history = [
        f"{r.date}  {r.experiment}, seeds {named(r.seeds)}, {r.minutes:g} minutes, commit {r.facts.get('commit')}"
        for r in records
    ]
    notes = findings(claim, records)
    found = {
        "setting": [f"{name}: {experiment.setting}" for name, experiment in ordered(claim)],
        "notes": [note for part in claim.parts for note in notes_of(part, notes.get(part.name))],
        "differences from the paper": [f"{n}: {item}" for n, e in ordered(claim) for item in e.differs],
        "the paper's words": [f"{part.name}: {part.says}" for part in claim.parts if part.says],
        "limits": limits(claim, records),
        "amended": list(claim.amended),
        "history": history,
        "run it again": commands,
    }
    return {title: items for title, items in found.items() if items}


def forest(claim: Claim, found: Mapping[str, Finding], experiment: str | None = None) -> Figure | None:
    """One line a part (of one experiment): its interval beside the bar, each on a scale of its own, since effects have
    different units."""
    from surefoot.evaluate.plots import intervals

    names = [name for name, _ in ordered(claim) if experiment in (None, name)]
    parts = [part for name in names for part in of(claim, name) if part.name in found]
    if not parts:
        return None
    rows, marks = [], []
    for part in parts:
        one = found[part.name]
        low, high = (one.value, one.value) if one.low is None or one.high is None else (one.low, one.high)
        scale = max(abs(low), abs(high), part.test.margin) or 1.0
        name = textwrap.shorten(part.name, 38, placeholder=" …")
        rows.append((f"{name}: {one.word}", one.value / scale, low / scale, high / scale))
        marks.append([bar / scale for bar in bars(part)])
    words = [found[part.name].word for part in parts]
    label = "effect, each row on its own scale"
    colours = [COLOURS[word] for word in words]
    return intervals(rows, x=label, bars=marks, colours=colours, reference=0.0, limits=(-1.15, 1.15), numbers=False)


def bars(part: Part) -> list[float]:
    """Where the test's bar stands."""
    if isinstance(part.test, Within):
        return [-part.test.margin, part.test.margin]
    return [-part.test.margin if isinstance(part.test, NoWorse) else part.test.margin]

"""An audit as text, as Markdown and as a page."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from surefoot.evaluate import plots
from surefoot.evaluate.audit import GRADES, LOST, AuditReport, Result
from surefoot.evaluate.pages.films import film
from surefoot.evaluate.pages.page import Chart, Charts, Code, Films, Page, Section, Table, Text
from surefoot.evaluate.statistics import ConfidenceInterval, confidence_interval, in_brackets, mean
from surefoot.perturbations.attacks import divided

MOST = 6  # cells of a sweep that are shown one by one
UNITS = {  # of the budget of attacks
    "normalized": "standard deviations of the policy's normaliser",
    "raw": "the observation's own units, because the policy has no normaliser that says what is much",
}
SHARES = frozenset({"kept", "95 % interval", "at least"})
MANY = 12  # curves of a family that are shown


def text(report: AuditReport) -> str:
    """The audit for a terminal."""
    lines = [_heading(report), _nominal(report), ""]
    lines += columns([["family", "rating", "kept", "", "in the worst cell"], *_families(report)])
    if report.require:
        lines += ["", *columns([["required", "at least", "kept", "", ""], *_verdicts(report)])]
    for family, rows in _sweeps(report).items():
        lines += ["", *columns([[family, "kept", "below 0.8"], *rows])]
    if report.not_run:
        lines += ["", "not run", *(f"{one.what} ({one.family}): {one.reason}" for one in report.not_run)]
    return "\n".join([*lines, "", *_notes(report), "", "To play a sweep again:", *_commands(report)])


def markdown(report: AuditReport) -> str:
    """The audit for a pull request: ratings, requirements, and the rest folded away."""
    blocks = [f"### Audit of {_heading(report)}", _nominal(report)]
    if report.require:
        verdict = "All requirements are met." if report.passed() else "**Requirements are not met.**"
        blocks += [
            verdict,
            markdown_table(["required", "at least", "kept", "95 % interval", "cell"], _verdicts(report)),
        ]
    blocks.append(markdown_table(["family", "rating", "kept", "95 % interval", "in the worst cell"], _families(report)))
    more = [markdown_table([family, "kept", "below 0.8"], rows) for family, rows in _sweeps(report).items()]
    if report.not_run:
        more.append(
            markdown_table(["not run", "family", "reason"], [[o.what, o.family, o.reason] for o in report.not_run])
        )
    more += ["\n".join(f"- {note}" for note in _notes(report)), "```\n" + "\n".join(_commands(report)) + "\n```"]
    inside = "\n\n".join(more)
    return "\n\n".join([*blocks, f"<details><summary>Every sweep</summary>\n\n{inside}\n\n</details>"]) + "\n"


def page(report: AuditReport) -> str:
    """The audit as one self-contained page, with a figure for each family."""
    families = Table(["family", "rating", "kept", "95 % interval", "in the worst cell"], _families(report), SHARES)
    sections = [Section("Families", [families])]
    if report.require:
        verdicts = Table(["required", "at least", "kept", "95 % interval", "cell"], _verdicts(report), SHARES)
        sections.append(Section("Requirements", [verdicts]))
    for family, rows in _sweeps(report).items():
        listed = [[name, shown.replace("  ", ", "), lost] for name, shown, lost in rows]
        sweeps = Table(["perturbation", "kept", f"below {LOST}"], listed)
        caption = "Share of the return kept over the strength; band: 95 % interval over episodes, dashed: nothing lost."
        chart = Chart("Kept", figure(report, family), caption, wide=True)
        sections.append(Section(family.capitalize(), [Charts([chart]), sweeps]))
    films = [film(one.data, "", one.caption) for one in report.films]
    if shown := [one for one in films if one is not None]:
        sections.append(Section("The worst cell beside the nominal one", [Films(shown)]))
    if report.not_run:
        rows = [(one.what, one.family, one.reason) for one in report.not_run]
        sections.append(Section("Not run", [Table(["perturbation", "family", "reason"], rows)]))
    sections.append(Section("How to read this", [Text(_notes(report), faint=True)]))
    sections.append(Section("Commands", [Code("\n".join(_commands(report)))]))
    return Page(f"Audit of {_heading(report)}", [_nominal(report)], sections=sections).html()


def _heading(report: AuditReport) -> str:
    return f"{report.policy} on {report.env}"


def _nominal(report: AuditReport) -> str:
    interval = in_brackets(confidence_interval(report.nominal_returns, mean))
    actions = "deterministic" if report.deterministic else "sampled"
    said = f"nominal return {report.nominal_returns.mean():.6g} {interval}".rstrip()
    return f"{said}, {len(report.seeds)} episodes a cell, {actions} actions"


def share(value: float, interval: ConfidenceInterval | None) -> list[str]:
    """The share kept and its interval as text."""
    return ["undefined" if math.isnan(value) else f"{value:.2f}", in_brackets(interval, ".2f")]


def _result(one: Result) -> list[str]:
    fixed = one.interval.low == one.interval.high
    return [*share(one.kept, None if fixed else one.interval), "" if fixed and one.kept == 1 else one.cell.label]


def _families(report: AuditReport) -> list[list[str]]:
    rows = [[name, one.rating, *_result(one)] for name, one in report.families.items()]
    missing = dict.fromkeys(one.family for one in report.not_run if one.family not in report.families)
    return [*rows, *([name, "not run", "", "", ""] for name in missing)]


def _verdicts(report: AuditReport) -> list[list[str]]:
    rows = [(v, _result(v.result)) for v in report.verdicts()]
    return [[v.name, f"{v.least:g}", *found[:2], f"{found[2]}: {v.words}"] for v, found in rows]


def _sweeps(report: AuditReport) -> dict[str, list[list[str]]]:
    """By family a row for each sweep: its name, the shares kept by strength, the rest of them, and where it is lost."""
    found: dict[str, list[list[str]]] = {}
    for sweep in dict.fromkeys(cell.sweep for cell in report.cells):
        places = report.sweep(sweep)
        first = report.cells[places[0]]
        shares = [report.kept[i][0] for i in places]
        if len(places) <= MOST and len(first.at) == 1:
            shown = "  ".join(f"{report.cells[i].at[0]:.4g}: {x:.2f}" for i, x in zip(places, shares))
        else:
            shown = f"least {np.nanmin(shares):.2f}, greatest {np.nanmax(shares):.2f} of {len(places)} cells"
        found.setdefault(first.family, []).append([first.name, shown, report.lost_from(sweep)])
    return found


def _notes(report: AuditReport) -> list[str]:
    half = [(i.high - i.low) / 2 for _, i in report.kept if i is not None and math.isfinite(i.high)]
    grades = ", ".join(f"{name} from {least:g}" for name, least in GRADES.items() if math.isfinite(least))
    notes = [
        "Kept: 1 + (perturbed - nominal) / |nominal| of mean returns: their ratio for a positive nominal return; for a"
        " negative one, 0.5 means that costs have grown by half.",
        "In brackets: 95 % intervals over episodes paired by seed (Fieller), of this one policy; those of the worst of"
        " several cells allow for the choice. Without brackets: no two episodes differed.",
        f"Ratings by the ends of the interval of a family's worst cell: {grades}, falls below. A requirement is met if"
        " the interval lies at or above it. Below 0.8: the mildest strength at which the whole interval does.",
    ]
    if report.width is not None:
        wide = sum(2 * x > report.width for x in half)
        notes.append(
            f"{len(report.seeds)} episodes a cell, chosen by a pilot of other episodes so that no interval is wider"
            f" than {report.width:g}; {wide} of {len(report.cells)} are."
        )
    if half:
        notes.append(
            f"The intervals are ±{np.median(half):.2g} in the median cell and ±{max(half):.2g} in the widest; four"
            " times as many episodes halve that."
        )
    units = {attack.unit for cell in report.cells for attack in divided(cell.perturbation)[1]}
    for said in (words for unit, words in UNITS.items() if unit in units):
        notes.append(f"Attacks may change every component of an observation by their strength, in {said}.")
    still = {family: [] for family in report.families}
    for cell, unchanged in zip(report.cells, report.unchanged):
        still[cell.family].append(bool(unchanged))
    for family in (name for name, flags in still.items() if all(flags)):
        notes.append(f"{family}: no cell changed the return of any episode.")
    rate = report.steps / max(report.seconds, 1e-9)
    episodes = len(report.seeds) * (len(report.cells) + 1)
    notes += [f"{film.file}: {film.caption}." for film in report.films]
    notes.append(
        f"{len(report.cells)} cells, {episodes:,} episodes, {report.steps:,} steps in {report.seconds:.0f} s"
        f" ({rate:,.0f} steps/s)."
    )
    return notes


def _commands(report: AuditReport) -> list[str]:
    """The command of every sweep; those of its cells where some of them were not run."""
    partial = {one.sweep for one in report.not_run}
    whole = dict.fromkeys(cell.text if cell.sweep in partial else cell.sweep for cell in report.cells)
    return [report.command(text) for text in whole]


def columns(rows: list[list[str]]) -> list[str]:
    """Rows of words as lines of aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(f"{word:<{width}}" for word, width in zip(row, widths)).rstrip() for row in rows]


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(word.replace("|", "\\|") for word in row) + " |" for row in lines)


def figure(report: AuditReport, family: str) -> Figure:
    """A curve of the share kept for every sweep of a family."""
    curves = {}
    for sweep in dict.fromkeys(cell.sweep for cell in report.cells if cell.family == family):
        places = report.sweep(sweep)
        first, shares = report.cells[places[0]], [report.kept[i] for i in places]
        one = len(first.at) == 1
        order = sorted(range(len(places)), key=lambda k: report.cells[places[k]].at[0] if one else shares[k][0])
        x = [report.cells[places[k]].at[0] if one else rank for rank, k in enumerate(order)]
        y = [shares[k][0] for k in order]
        ends = [shares[k][1] or (shares[k][0],) * 2 for k in order]
        name = first.name if one else f"{first.name}, cells from worst to best"
        curves[name] = x, y, *zip(*ends)
    return plots.panels(dict(list(curves.items())[:MANY]), level=1.0, label="share kept")

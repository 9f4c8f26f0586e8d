"""Two audits side by side as text, as Markdown and as a page."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from surefoot.evaluate.audit import AuditReport, Result
from surefoot.evaluate.audit_page import BESIDE, columns, figure, markdown_table, share
from surefoot.evaluate.hardened import AGAINST, Change, HardenReport
from surefoot.evaluate.report import POLICY, STYLE, table
from surefoot.evaluate.statistics import in_brackets

HEAD = ["return", "before", "after", "gain", "", ""]


def text(report: HardenReport) -> str:
    """The comparison for a terminal."""
    lines = [_heading(report), "", *columns([HEAD, *_returns(report)]), ""]
    lines += columns([["kept", "before", "", "after", ""], *_ratings(report)])
    own = [row for cell, row in _cells(report) if cell == AGAINST]
    if len(own) <= 30:
        lines += ["", *columns([["return in each cell", *HEAD[1:]], *own])]
    return "\n".join([*lines, "", *_notes(report)])


def markdown(report: HardenReport) -> str:
    """The comparison for a pull request."""
    head = ["return", "before", "after", "gain", "95 % interval", ""]
    every = markdown_table(["cell", *head[1:]], [row for _, row in _cells(report)])
    return "\n\n".join(
        [
            f"### {_heading(report)}",
            markdown_table(head, _returns(report)),
            markdown_table(["kept", "before", "", "after", ""], _ratings(report)),
            f"<details><summary>Every cell</summary>\n\n{every}\n\n</details>",
            "\n".join(f"- {note}" for note in _notes(report)),
        ]
    ) + "\n"  # fmt: skip


def page(report: HardenReport) -> str:
    """The comparison as one self-contained page, with the figures of both audits side by side."""
    return "".join(_page(report)).encode(errors="backslashreplace").decode()


def _page(report: HardenReport) -> Iterator[str]:
    heading = escape(_heading(report))
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield f"<title>{heading}</title><style>{STYLE}</style>{BESIDE}</head><body>\n<h1>{heading}</h1>\n"
    yield "<h2>Return</h2>\n" + table((r[0], f"{r[1]} → {r[2]}: {' '.join(r[3:])}") for r in _returns(report))
    yield "<h2>Kept</h2>\n" + table((r[0], f"{r[1]} {r[2]} → {r[3]} {r[4]}") for r in _ratings(report))
    for family in report.worst:
        figures = [f"<div><p>{when}</p>\n{figure(one, family)}</div>" for when, one in _audits(report).items()]
        rows = [row for name, row in _cells(report) if name == family]
        yield f'<h2>{escape(family.capitalize())}</h2>\n<div class="beside">{"".join(figures)}</div>\n'
        cells = table((r[0], f"{r[1]} → {r[2]}: {' '.join(r[3:])}") for r in rows)
        yield f"<details><summary>every cell</summary>\n{cells}</details>\n"
    yield "<h2>How to read this</h2>\n" + "".join(f'<p class="faint">{escape(note)}</p>\n' for note in _notes(report))
    yield "</body></html>\n"


def _audits(report: HardenReport) -> dict[str, AuditReport]:
    return {"before": report.before, "after": report.after}


def _heading(report: HardenReport) -> str:
    return (
        f"{report.source} on {report.before.env}, trained on for {report.steps:,} steps against "
        f"{', '.join(report.against)}"
    )


def _row(name: str, change: Change) -> list[str]:
    interval = in_brackets(change.interval, "+.5g")
    return [name, f"{change.before:.5g}", f"{change.after:.5g}", f"{change.gain:+.5g}", interval, change.word]


def _returns(report: HardenReport) -> list[list[str]]:
    """A row for the nominal return, and for the return in the worst cell of every family."""
    rows = [_row("nominal", report.nominal)]
    return rows + [_row(f"worst, {family}", change) for family, change in report.worst.items()]


def _cells(report: HardenReport) -> list[tuple[str, list[str]]]:
    return [(cell.family, _row(cell.label, change)) for cell, change in report.changes]


def _ratings(report: HardenReport) -> list[list[str]]:
    before, after = report.before.families, report.after.families
    each = [(family, [x for one in (before[family], after[family]) for x in (one.rating, _kept(one))])
            for family in report.worst]  # fmt: skip
    return [[family, *words] for family, words in each]


def _kept(result: Result) -> str:
    return " ".join(share(result.kept, result.interval))


def _notes(report: HardenReport) -> list[str]:
    return [
        f"{len(report.before.seeds)} episodes a cell, the same seeds before and after and in every cell. Intervals: "
        "95 %, of the mean of paired differences (Student's t). They are about these two policies, not about training "
        "again with another seed.",
        "Worst: the least mean return of any cell, before and after, which need not be the same cell. Its interval is "
        "that of the difference of two minima, each of which allows for the choice of the cell.",
        "Cells have an interval each: of many, one in twenty is shown to have changed by luck.",
        f"The new run is in {report.run}; what it started from is unchanged.",
    ]

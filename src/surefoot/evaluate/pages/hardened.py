"""Two audits side by side as text, as Markdown and as a page."""

from __future__ import annotations

from surefoot.evaluate.audit import AuditReport, Result
from surefoot.evaluate.hardened import AGAINST, Change, HardenReport
from surefoot.evaluate.pages.audit import columns, figure, markdown_table, share
from surefoot.evaluate.pages.page import Chart, Charts, Folded, Page, Section, Table, Text
from surefoot.evaluate.statistics import in_brackets

HEAD = ["return", "before", "after", "gain", "", ""]
NUMERIC = frozenset({"before", "after", "gain", "95 % interval", "share"})


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
    head = ["return", "before", "after", "gain", "95 % interval", ""]
    ratings = Table(["kept", "before", "share", "after", "share"], _ratings(report), NUMERIC)
    sections = [Section("Return", [Table(head, _returns(report), NUMERIC)]), Section("Kept", [ratings])]
    for family in report.worst:
        charts = [Chart(when.capitalize(), figure(one, family)) for when, one in _audits(report).items()]
        every = Table(["cell", *head[1:]], [row for name, row in _cells(report) if name == family], NUMERIC)
        sections.append(Section(family.capitalize(), [Charts(charts), Folded("every cell", [every])]))
    sections.append(Section("How to read this", [Text(_notes(report), faint=True)]))
    return Page(_heading(report), sections=sections).html()


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

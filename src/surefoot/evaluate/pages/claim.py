"""The page of a paper's claim: its parts with their effects and intervals, and what is needed to weigh them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from surefoot import catalogue
from surefoot.claims import records
from surefoot.claims.judge import Finding, line
from surefoot.claims.page import COLUMNS, cells, details, forest, heading, of, ordered
from surefoot.claims.parts import Claim
from surefoot.claims.records import Record, findings
from surefoot.evaluate.pages.page import Block, Chart, Charts, Folded, Page, Section, Table, Text

FOLDED = ("notes", "the paper's words", "history")


def is_slug(text: str) -> bool:
    """Whether it is the slug of a paper that has a claim."""
    return text in {paper.slug for paper in catalogue.papers() if paper.claimed}


def page_of_slug(slug: str, folder: Path = records.SHIPPED) -> Page:
    """The page of a paper's claim with the records in a folder."""
    found = records.claim(slug)
    return page(found, records.read(found, folder)[0])


def page(claim: Claim, kept: Sequence[Record]) -> Page:
    """The standing of a claim, the parts of every experiment, and the rest of what is known."""
    found = findings(claim, kept)
    paper = next((paper for paper in catalogue.papers() if paper.slug == claim.slug), None)
    sections = [Section(heading(name, one), parts(claim, name, found)) for name, one in ordered(claim)]
    for title, items in details(claim, kept).items():
        shown = Text(items)
        blocks = [Folded(f"Show {len(items)}", [shown])] if title in FOLDED else [shown]
        sections.append(Section(title.capitalize(), blocks))
    return Page(
        f"The claim of {claim.slug}",
        lead=[f"{claim.sentence} ({claim.source})", line(claim, found)],
        link=None if paper is None else (f"https://arxiv.org/abs/{paper.arxiv}", f"{paper.title} ({paper.year})"),
        sections=sections,
    )


def parts(claim: Claim, experiment: str, found: dict[str, Finding]) -> list[Block]:
    """The table of an experiment's parts, and their forest plot."""
    those = of(claim, experiment)
    shown = [c for c in COLUMNS if c != "paper" or any(part.published for part in those)]
    rows = []
    for part in those:
        row: dict[str, str] = dict(zip(COLUMNS, cells(part, found.get(part.name)), strict=True))
        row["part"] = f"{part.name} (primary)" if part.role == "primary" else part.name
        rows.append([row[column] for column in shown])
    blocks: list[Block] = [Table(shown, rows, frozenset({"n"}))]
    figure = forest(claim, found, experiment)
    if figure is not None:
        said = "Dot: effect, line: its interval, bar: what the test asks for; each row has its own scale, 0 is dotted."
        blocks.append(Charts([Chart("Effects", figure, said)]))
    return blocks

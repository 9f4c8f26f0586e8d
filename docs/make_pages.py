"""Make one page a paper, and their index, from the catalogue, the method's docstring and the records of its claim."""

from __future__ import annotations

import ast
import inspect
import shutil
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from surefoot import catalogue
from surefoot.catalogue import Paper, papers
from surefoot.claims import records
from surefoot.claims.page import forest, markdown

PAGES = Path(__file__).parent / "papers"
SOURCES = Path(catalogue.__file__).parents[1]


def docstring(module: str) -> str:
    """A module's docstring, read without importing the module."""
    place = SOURCES.joinpath(*module.split("."))
    place = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    source = place.read_text(encoding="utf-8")
    return inspect.cleandoc(ast.get_docstring(ast.parse(source)) or "")


def page(paper: Paper) -> Iterator[str]:
    """The lines of a paper's page."""
    yield f"# {paper.title}\n"
    link = f"[arXiv:{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"
    yield f"`{paper.slug}` · {paper.year} · {link} · {paper.setting}\n"
    yield f"{paper.summary}\n"
    if not paper.built:
        yield "The method is planned."
        return
    yield f"```\nsurefoot explain {paper.slug}\n```\n"
    yield f"## Method\n\n```text\n{docstring(paper.module)}\n```\n"
    if paper.claimed:
        claim = records.claim(paper.slug)
        kept, _ = records.read(claim)
        figure = forest(claim, records.findings(claim, kept))
        if figure is not None:
            figure.savefig(PAGES / f"{paper.slug}.svg", transparent=True)
        yield "## Claim\n\n" + markdown(claim, kept, f"{paper.slug}.svg" if figure is not None else "")
        yield from measurements(paper.slug)


def measurements(slug: str) -> Iterator[str]:
    """Links to the records, copied beside the page."""
    files = sorted((records.SHIPPED / slug).glob("*/*.json"), key=lambda path: path.name)
    if files:
        yield "\n### Measurements\n"
    for path in files:
        copy = PAGES / "records" / slug / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        yield f"- [{path.stem}](records/{slug}/{path.name})"


def index() -> Iterator[str]:
    """The lines of the index, one table a setting."""
    yield "# Papers\n"
    for setting, rows in groupby(papers(), key=lambda p: p.setting):
        yield f"## {setting.capitalize()}\n\n| paper | what it does | claim |\n|---|---|---|"
        for paper in rows:
            claim = paper.standing if paper.built else "planned"
            yield f"| [{paper.slug}]({paper.slug}.md) | {paper.summary} | {claim} |"
        yield ""


def main() -> None:
    PAGES.mkdir(exist_ok=True)
    for paper in papers():
        (PAGES / f"{paper.slug}.md").write_text("\n".join(page(paper)) + "\n", encoding="utf-8")
    (PAGES / "index.md").write_text("\n".join(index()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

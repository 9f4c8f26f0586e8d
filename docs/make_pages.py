"""Make one page a paper, and their index, from the catalogue, the method's docstring and the claim's latest result."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from surefoot import catalogue
from surefoot.catalogue import Paper, papers

PAGES = Path(__file__).parent / "papers"
SOURCES = Path(catalogue.__file__).parents[1]


def docstring(module: str) -> str:
    """A module's docstring, read without importing the module."""
    source = SOURCES.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    return inspect.cleandoc(ast.get_docstring(ast.parse(source)) or "")


def page(paper: Paper) -> Iterator[str]:
    """The lines of a paper's page."""
    yield f"# {paper.title}\n"
    link = f"[arXiv:{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"
    yield f"`{paper.slug}` · {paper.year} · {link} · {paper.setting} · **{paper.status}**\n"
    yield f"{paper.summary}\n"
    if not paper.built:
        yield "The method is planned."
        return
    yield f"```\nsurefoot explain {paper.slug}\n```\n"
    yield f"## Method\n\n```text\n{docstring(paper.module)}\n```\n"
    if paper.claimed:
        yield f"## Claim\n\n```text\n{docstring(paper.claim_module)}\n```\n"
        result = paper.result
        yield "It has not been run." if result is None else f"```json\n{json.dumps(result, indent=2)}\n```"


def index() -> Iterator[str]:
    """The lines of the index, one table a setting."""
    yield "# Papers\n"
    for setting, rows in groupby(papers(), key=lambda p: p.setting):
        yield f"## {setting.capitalize()}\n\n| paper | what it does | status |\n|---|---|---|"
        for paper in rows:
            yield f"| [{paper.slug}]({paper.slug}.md) | {paper.summary} | {paper.status} |"
        yield ""


def main() -> None:
    PAGES.mkdir(exist_ok=True)
    for paper in papers():
        (PAGES / f"{paper.slug}.md").write_text("\n".join(page(paper)) + "\n", encoding="utf-8")
    (PAGES / "index.md").write_text("\n".join(index()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

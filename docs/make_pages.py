"""Make one page a paper, and their index, from the catalogue, the method and the records of its claim."""

from __future__ import annotations

import ast
import html
import inspect
import re
import shutil
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from surefoot import catalogue
from surefoot.catalogue import Paper, papers
from surefoot.claims import records
from surefoot.claims.page import forest, markdown
from surefoot.configure import make_method
from surefoot.evaluate.explain import BUILT_FROM, hyperparameters
from surefoot.hyperparameters import presets

PAGES = Path(__file__).parent / "papers"
SOURCES = Path(catalogue.__file__).parents[1]


def docstring(module: str) -> str:
    """A module's docstring, read without importing the module."""
    place = SOURCES.joinpath(*module.split("."))
    place = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    source = place.read_text(encoding="utf-8")
    return inspect.cleandoc(ast.get_docstring(ast.parse(source)) or "")


def prose(text: str) -> str:
    """A docstring as Markdown: its indented blocks are formulas, which keep their line breaks."""
    blocks = re.split(r"\n\s*\n", text)
    return "\n\n".join(formula(block) if block.startswith("    ") else block for block in blocks)


def formula(block: str) -> str:
    """A formula, set apart."""
    return f'<pre class="formula">{html.escape(inspect.cleandoc(block))}</pre>'


def page(paper: Paper, folder: Path) -> Iterator[str]:
    """The lines of a paper's page; its figure and the records go into a folder."""
    yield f"# {paper.title}\n"
    link = f"[arXiv:{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})"
    yield f"`{paper.slug}` · {paper.year} · {link} · {paper.setting}\n"
    yield f"{paper.summary}\n"
    if not paper.built:
        yield "The method is planned."
        return
    yield f"## What it does\n\n{prose(docstring(paper.module))}\n"
    if paper.source in BUILT_FROM:
        yield f"*{BUILT_FROM[paper.source]}*\n"
    yield from algorithm(make_method(paper.slug)[0], paper.slug)
    if paper.claimed:
        claim = records.claim(paper.slug)
        kept, _ = records.read(claim)
        figure = forest(claim, records.findings(claim, kept))
        if figure is not None:
            figure.savefig(folder / f"{paper.slug}.svg", transparent=True)
        yield "## Claim\n\n" + markdown(claim, kept, f"{paper.slug}.svg" if figure is not None else "")
        yield from measurements(paper.slug, folder)


def algorithm(method: Any, slug: str) -> Iterator[str]:
    """Objective, algorithm and hyperparameters, as `surefoot explain` has them."""
    yield f"## Algorithm\n\n{formula(str(method.objective()))}\n"
    yield from (f"{number}. {html.escape(line)}" for number, line in enumerate(method.algorithm(), 1))
    yield f"\n```\nsurefoot explain {slug}\n```\n"
    yield "## Hyperparameters\n\n| name | default | allowed | |\n|---|---|---|---|"
    for name, value, limits, meaning in hyperparameters(method):
        cells = f"`{value}`", limits, meaning
        yield f"| `{name}` | {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    for name, values in presets(type(method)).items():
        changed = ", ".join(f"`{key}={value!r}`" for key, value in values.items())
        yield f"\n`--preset {name}`: {changed}"
    yield ""


def measurements(slug: str, folder: Path) -> Iterator[str]:
    """Links to the records, copied beside the page."""
    files = sorted((records.SHIPPED / slug).glob("*/*.json"), key=lambda path: path.name)
    if files:
        yield "\n### Measurements\n"
    for path in files:
        copy = folder / "records" / slug / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        yield f"- [{path.stem}](records/{slug}/{path.name})"


def index() -> Iterator[str]:
    """The lines of the index: what is built, setting by setting, and the names of what is planned."""
    yield "# Papers\n"
    for setting, group in groupby(papers(), key=lambda p: p.setting):
        rows = list(group)
        yield f"## {setting.capitalize()}\n"
        for paper in rows:
            if paper.built:
                yield f"**[{paper.slug}]({paper.slug}.md)** {paper.summary}  \n<small>{paper.standing}</small>\n"
        planned = ", ".join(f"[{p.slug}]({p.slug}.md)" for p in rows if not p.built)
        if planned:
            yield f"Planned: {planned}\n"


def main() -> None:
    PAGES.mkdir(exist_ok=True)
    for paper in papers():
        (PAGES / f"{paper.slug}.md").write_text("\n".join(page(paper, PAGES)) + "\n", encoding="utf-8")
    (PAGES / "index.md").write_text("\n".join(index()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

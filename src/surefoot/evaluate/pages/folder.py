"""Which page a folder or a file has, by what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from surefoot.errors import UsageError
from surefoot.evaluate import compare, sweeps
from surefoot.evaluate.pages import claim, comparison, run, solution, stress
from surefoot.evaluate.pages.page import Page

KINDS = (
    "the folder of a run, of a comparison (surefoot compare --out), of a solution (surefoot solve --out) or of an"
    " audit, the .json of a stress test, a folder with records of a claim, or the slug of a paper that has a claim"
)
PAGES = {compare.FILE: comparison.page_of, solution.FILE: solution.page_of, sweeps.FILE: solution.sweep}


def report(place: Any) -> Path:
    """Write the page of a run, a comparison, a stress test, an audit, a solution or a claim, and return its path:
    `report.html` in the folder, or a file of its own name beside a file.

    place: a folder, a file, anything with a `path` (a `Run`), or the slug of a paper.
    Raises `UsageError` for anything else, or for files that are damaged.
    """
    path = Path(getattr(place, "path", place))
    if path.is_file() and path.name.startswith("stress-") and path.suffix == ".json":
        return stress.page(path).write(path.with_suffix(".html"))
    if not path.is_dir() and claim.is_slug(str(place)):
        return claim.page_of_slug(str(place)).write(Path(f"claim-{place}.html"))
    if (path / "config.json").is_file():
        return run.page(path).write(path / "report.html")
    if (path / "audit.html").is_file():
        return path / "audit.html"  # an audit writes its own page
    for name, page_of in PAGES.items():
        if (path / name).is_file():
            return page_of(path).write(path / "report.html")
    if path.is_dir() and claim.is_slug(path.name) and any(path.glob("*/*.json")):
        return claim.page_of_slug(path.name, path.parent).write(path / "report.html")
    if path.is_dir() and any(path.glob("stress-*.json")):
        return Page(f"Stress tests in {path.name}", sections=list(stress.sections(path))).write(path / "report.html")
    raise UsageError(f"{path} is nothing that has a report. Give {KINDS}.")

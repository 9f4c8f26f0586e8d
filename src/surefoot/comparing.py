"""The command `surefoot compare`: train several methods on the same environments and seeds, and compare them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from surefoot.arguments import parsed, typed
from surefoot.errors import UsageError


@dataclass(frozen=True)
class Compared:
    """Train METHODS on the same environments and seeds, and compare their returns.

    All options that `surefoot train` takes for these methods, such as --num-envs 16 or --learning-rate 1e-3, are taken
    here too, and apply to all of them. The result is a table, and a page, CSV and LaTeX files in OUT.
    """

    methods: Annotated[Positional[tuple[str, ...]], arg(metavar="METHOD …")]
    """Two or more slugs; the others are compared with the first."""
    env: tuple[str, ...] = ()
    """One or more environments."""
    task: tuple[str, ...] = ()
    """One or more language-model tasks."""
    seed: int = 0
    """First random seed."""
    seeds: int = 10
    """Number of consecutive random seeds; seeds that OUT does not have yet are trained and added."""
    steps: int | None = None
    """Steps per seed; by default the method's own number."""
    out: Path | None = None
    """Folder for the runs, comparison.json, report.html, scores.csv and table.tex; finished runs found there are
    reused."""
    on: str = ""
    """Where to compute: ray for a Ray cluster on this machine, ray:ADDRESS for another; else in this process."""


OWN = ("num_seeds", "run_dir", "resume", "preset", "config", "start", "keep_best", "method")  # options of a single run


def compare(arguments: Sequence[str]) -> None:
    """Train METHODS on the same environments and seeds, and compare their returns."""
    from surefoot import api

    given, others = parsed(Compared, arguments, "surefoot compare", unknown=True)
    options = _options(given, others)
    places: dict[str, Any] = {"env": given.env or None, "task": given.task or None}
    run: dict[str, Any] = {name: getattr(given, name) for name in ("seed", "seeds", "steps", "out", "on")}
    progress = None if sys.stderr.isatty() else _said  # a terminal has a live bar
    found = api.compare(given.methods, **places, **run, progress=progress, **options)
    print(found.table())


def _said(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options(given: Compared, words: Sequence[str]) -> dict[str, Any]:
    """The other options, typed as `surefoot train` types them for every one of the methods."""
    from surefoot.configure import method_class

    names = [word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")]
    if wrong := [name for name in names if name in OWN]:
        raise UsageError(f"--{wrong[0].replace('_', '-')} is of a single run; compare has --seeds and --out.")
    if not words:
        return {}
    found: dict[str, Any] = {}
    for slug in given.methods:
        kind = typed(method_class(slug))
        place = next(f for f in ("env", "task", "data") if f in kind.__dataclass_fields__)
        made = parsed(kind, [f"--{place}", "unused", *words], f"surefoot compare {slug}")
        wanted = [name if hasattr(made, name) else name.removeprefix("no_") for name in names]
        found = {name: getattr(made, name) for name in wanted}
    if "threads" in found:
        import torch

        torch.set_num_threads(found.pop("threads"))
    return found

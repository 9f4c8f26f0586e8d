"""Make the reference: the help of every command, and the API from its docstrings."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import surefoot
from surefoot import cli

PAGES = Path(__file__).parent / "reference"
API = {
    "Training and evaluation": ("api.md", [f"surefoot.{name}" for name in sorted(surefoot.__all__)]),
    "Objectives": (
        "objectives.md",
        [
            "surefoot.objectives.policy",
            *(
                f"surefoot.objectives.{name}"
                for name in ("advantages", "ratios", "stabilizers", "divergences", "aggregation", "likelihoods")
            ),
            "surefoot.objectives.values",
            "surefoot.objectives.preferences",
        ],
    ),
    "Ambiguity sets": (
        "ambiguity.md",
        [
            f"surefoot.ambiguity.{name}"
            for name in (
                "operator", "divergences", "moves", "tilts", "mixtures", "transport", "ellipsoid", "spectral", "risk",
                "counts", "grammar",
            )
        ],
    ),
    "Perturbations": (
        "perturbations.md",
        [
            f"surefoot.perturbations.{name}"
            for name in (
                "core", "grammar", "observation", "action", "timing", "dynamics", "reward", "drift", "attacks",
                "black_box", "learned",
            )
        ],
    ),
    "Environments and finite MDPs": (
        "environments.md",
        [*(f"surefoot.envs.{name}" for name in ("make", "rrls", "micro", "tabular")), "surefoot.solvers"],
    ),
    "Methods of your own": (
        "methods.md",
        [
            "surefoot.hyperparameters",
            "surefoot.loops.on_policy.method",
            "surefoot.loops.off_policy.method",
            "surefoot.loops.group_rollout.method",
            "surefoot.loops.tabular.method",
        ],
    ),
}  # fmt: skip


def commands() -> Iterator[str]:
    """The lines of the page of commands: what `--help` prints."""
    yield "# Command line\n\n`surefoot COMMAND --help` prints what stands here.\n"
    for name, function in cli.COMMANDS.items():
        yield f"## {name}\n\n{(function.__doc__ or '').strip().splitlines()[0]}\n\n```text\n{help_of(name)}\n```\n"


def help_of(name: str) -> str:
    """The help of a command, as wide as the page."""
    said, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            cli.main([name, "--help"])
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return said.getvalue().rstrip()


def names() -> Iterator[tuple[str, str]]:
    """File and text of every page of the API."""
    for title, (file, entries) in API.items():
        yield file, f"# {title}\n\n" + "\n\n".join(f"::: {entry}" for entry in entries) + "\n"


def main() -> None:
    PAGES.mkdir(exist_ok=True)
    (PAGES / "command-line.md").write_text("\n".join(commands()), encoding="utf-8")
    for file, text in names():
        (PAGES / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

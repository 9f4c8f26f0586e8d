"""The parts of a run's page that are about a model of tables: its objective, its losses, and what it does on rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from surefoot.evaluate.pages import metrics
from surefoot.evaluate.pages.page import Facts, Section, Table
from surefoot.evaluate.read_back import figures
from surefoot.evaluate.readable import number
from surefoot.evaluate.tables import TITLES

CHARTS = {  # title and unit of every metric that has a chart
    "objective": ("Objective", "objective"),
    "loss": ("Mean loss", "loss"),
    "tail_loss": ("Mean loss of the worst tenth", "loss"),
    "effective_samples": ("Samples that count, 1/Σ q²", "samples"),
    "grad_norm": ("Gradient norm of the objective", "norm"),
    "held_out_loss": ("Mean loss, held-out rows", "loss"),
    "held_out_tail_loss": ("Mean loss of the worst tenth, held-out rows", "loss"),
    "held_out_accuracy": ("Accuracy, held-out rows", "share"),
    "held_out_retrieval": ("Other view found first, held-out rows", "share"),
    "held_out_calibration_error": ("Expected calibration error, held-out rows", "share"),
    "held_out_r2": ("R², held-out rows", "share"),
    "held_out_worst_group_loss": ("Mean loss of the worst group, held-out rows", "loss"),
}


def learning(rows: Sequence[Mapping[str, Any]], steps: str) -> list[Section]:
    """The charts of the training, with the mean loss of every group."""
    groups = sorted({name for row in rows for name in row if name.startswith("loss/")})
    shown = CHARTS | {name: (f"Mean loss of the group {name.removeprefix('loss/')}", "loss") for name in groups}
    blocks = metrics.arranged(metrics.chart(rows, name, *words, steps) for name, words in shown.items())
    return [Section("Learning", blocks)] if blocks else []


def measured(folder: Path) -> Iterator[Section]:
    """What surefoot evaluate kept in the folder."""
    path = folder / "measured.json"
    found = figures(path) if path.exists() else None
    if not isinstance(found, Mapping):
        return
    facts = [(title, number(float(found[name]))) for name, title in TITLES.items() if _is_number(found.get(name))]
    blocks: list[Any] = [Facts([("rows", f"{found.get('samples', '')} of {found.get('data', '')}"), *facts])]
    groups = found.get("groups")
    if isinstance(groups, Mapping) and groups and all(map(_is_number, groups.values())):
        rows = [(str(name), number(float(value))) for name, value in groups.items()]
        blocks.append(Table(("group", "mean loss"), rows, frozenset(["mean loss"])))
    yield Section("Evaluation", blocks)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)

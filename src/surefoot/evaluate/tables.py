"""Measuring a model on the rows of a table: its losses with intervals, in the tail and by group, and its accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.data.tables import Table, read
from surefoot.errors import UsageError
from surefoot.evaluate.agent_card import keep_result
from surefoot.evaluate.statistics import confidence_interval, mean, share_interval
from surefoot.loops.common.folder import Run
from surefoot.loops.common.kinds import loop
from surefoot.loops.common.measures import TAIL, TableModel, by_group, measures
from surefoot.models.saved import holds_agent, load_agent

TITLES = {
    "loss": "mean loss",
    "tail_loss": f"mean loss of the worst {TAIL:.0%}",
    "r2": "R²",
    "accuracy": "accuracy",
    "retrieval": "other view found first",
    "calibration_error": "expected calibration error",
    "worst_group_loss": "mean loss of the worst group",
}


def is_of_tables(player: Any) -> bool:
    """Whether something was trained on a table, so that it acts in no environment."""
    kind = getattr(player, "loop", None)
    return isinstance(kind, str) and loop(kind).env_argument == "data"


def measured(model: TableModel, table: Table, folder: Path | None = None) -> dict[str, Any]:
    """The figures of a model on a table, and `table`, the same to read; kept in the folder of its run if there is one.

    `loss_interval` is the 95 % t-interval of the mean loss over rows, `accuracy_interval` the exact one of the
    accuracy.
    """
    losses = model.losses(table)
    figures: dict[str, Any] = {"data": table.name, "samples": len(table), **measures(model, table)}
    interval = confidence_interval(losses, mean) if len(losses) > 1 and np.ptp(losses) > 0 else None
    figures["loss_interval"] = None if interval is None else list(interval)
    if model.classes is not None:
        figures["accuracy_interval"] = list(share_interval((model.predict(table.X) == table.y).tolist()))
    figures["groups"] = {str(group): value for group, value in by_group(losses, table).items()}
    figures["table"] = _table(figures)
    if folder is not None:
        kept = {name: value for name, value in figures.items() if name != "table"}
        keep_result(folder, "measured", json.dumps(kept, indent=2))
    return figures


def on_rows(policy: Any, data: Any) -> dict[str, Any]:
    """The figures of a model, of a run's model or of an estimator's, on a table that is read as its own was."""
    path = getattr(policy, "path", policy)
    if isinstance(path, (str, Path)):
        folder = Path(path)
        model = load_agent(folder) if holds_agent(folder) else Run(folder).agent()
    else:
        folder, model = None, getattr(policy, "model_", policy)
    if not is_of_tables(model):
        raise UsageError(
            f"data is not allowed for a {type(model).__name__}: it was not trained on a table; give env=…."
        )
    recorded = model.facts.get("env", {})
    own = {name: recorded.get(name) for name in ("target", "groups", "clients")}
    of_run = folder is not None and not holds_agent(folder)
    return measured(model, read(data, **own), folder if of_run else None)


def _table(figures: dict[str, Any]) -> str:
    lines = [f"{figures['data']} · {figures['samples']:,} rows"]
    for name, title in TITLES.items():
        if name in figures:
            ends = figures.get(f"{name}_interval")
            between = "" if ends is None else f"  95 % interval [{ends[0]:.4g}, {ends[1]:.4g}]"
            lines.append(f"{title:<32} {figures[name]:.6g}{between}")
    return "\n".join([*lines, *(f"  group {name:<24} {value:.6g}" for name, value in figures["groups"].items())])


def refuse(player: Any, argument: str) -> None:
    """Raise `UsageError` for a model of tables, which `argument` does not apply to."""
    if is_of_tables(player):
        raise UsageError(
            f"{argument} is not allowed for a model of tables: it acts in no environment. Measure it on rows: "
            "surefoot evaluate RUN --data FILE."
        )

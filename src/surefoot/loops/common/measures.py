"""What a model of tables does on some rows: its losses in the mean, in the tail and by group, and its accuracy."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from surefoot.data.tables import Table

TAIL = 0.1  # share of the rows with the greatest losses


class TableModel(Protocol):
    """A model of the rows of a table: `classes` is None where it predicts numbers."""

    classes: np.ndarray | None

    def predict(self, X: np.ndarray) -> np.ndarray: ...

    def losses(self, table: Table) -> np.ndarray: ...


def tail_mean(losses: np.ndarray, share: float = TAIL) -> float:
    """The mean of the greatest losses, a share of all of them: the last one counts as much as is left for it."""
    count = share * len(losses)
    worst = np.sort(losses)[::-1]
    weights = np.clip(count - np.arange(len(losses)), 0, 1)
    return float(worst @ weights / weights.sum())


def by_group(losses: np.ndarray, table: Table) -> dict[Any, float]:
    """The mean loss of every group; empty without groups."""
    if table.groups is None:
        return {}
    return {group: float(losses[table.groups == group].mean()) for group in np.unique(table.groups).tolist()}


def measures(model: TableModel, table: Table) -> dict[str, float]:
    """The figures of a model on a table, by name."""
    losses, predicted = model.losses(table), model.predict(table.X)
    found = {"loss": float(losses.mean()), "tail_loss": tail_mean(losses)}
    if model.classes is None:
        spread = float(((table.y - table.y.mean()) ** 2).mean())
        found["r2"] = 1 - float(((table.y - predicted) ** 2).mean()) / spread if spread > 0 else float("nan")
    else:
        found["accuracy"] = float((predicted == table.y).mean())
    if groups := by_group(losses, table):
        found["worst_group_loss"] = max(groups.values())
    return found

"""What a model of tables does on some rows: its losses in the mean, in the tail and by group, and its accuracy."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from surefoot.data.tables import Table

TAIL = 0.1  # share of the rows with the greatest losses
BINS = 15  # of confidence, for the error of calibration


class TableModel(Protocol):
    """A model of the rows of a table: `classes` is None where it predicts numbers."""

    classes: np.ndarray | None

    def predict(self, X: np.ndarray) -> np.ndarray: ...

    def probabilities(self, X: np.ndarray) -> np.ndarray: ...

    def losses(self, table: Table) -> np.ndarray: ...


def tail_mean(losses: np.ndarray, share: float = TAIL) -> float:
    """The mean of the greatest losses, a share of all of them: the last one counts as much as is left for it."""
    count = share * len(losses)
    worst = np.sort(losses)[::-1]
    weights = np.clip(count - np.arange(len(losses)), 0, 1)
    return float(worst @ weights / weights.sum())


def calibration_error(chances: np.ndarray, right: np.ndarray) -> float:
    """The expected calibration error: how far confidence and accuracy are apart in the mean over bins of confidence.

    chances: `[n, c]`; right: `[n]`, whether the likeliest class is the true one.
    """
    sure = chances.max(-1)
    which = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = np.bincount(which, sure - right, BINS)
    return float(np.abs(gaps).sum() / len(right))


def by_group(losses: np.ndarray, table: Table) -> dict[Any, float]:
    """The mean loss of every group; empty without groups."""
    if table.groups is None:
        return {}
    return {group: float(losses[table.groups == group].mean()) for group in np.unique(table.groups).tolist()}


def measures(model: TableModel, table: Table) -> dict[str, float]:
    """The figures of a model on a table, by name. One that does not predict the target has figures of its own,
    `figures(table)`, in place of those of predictions."""
    losses = model.losses(table)
    own = getattr(model, "figures", None)
    found = {"loss": float(losses.mean()), "tail_loss": tail_mean(losses)}
    found |= _of_predictions(model, table) if own is None else own(table)
    if groups := by_group(losses, table):
        found["worst_group_loss"] = max(groups.values())
    return found


def _of_predictions(model: TableModel, table: Table) -> dict[str, float]:
    """How far what a model predicts is from the targets."""
    predicted, found = model.predict(table.X), {}
    if model.classes is None:
        spread = float(((table.y - table.y.mean()) ** 2).mean())
        found["r2"] = 1 - float(((table.y - predicted) ** 2).mean()) / spread if spread > 0 else float("nan")
    else:
        right = predicted == table.y
        found["accuracy"] = float(right.mean())
        found["calibration_error"] = calibration_error(model.probabilities(table.X), right)
    return found

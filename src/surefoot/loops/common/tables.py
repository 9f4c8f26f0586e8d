"""The options of every kind of loop that learns from a table, and what a run records of its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.data.tables import Table, read
from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter

HELP = (
    "Rows to learn from: a .csv, .txt or .parquet file, a data set of scikit-learn such as sklearn:diabetes, or "
    "samples that are made: knapsack:8 or capital-budgeting:8 of a two-stage problem, visemes of words."
)


@dataclass(frozen=True)
class TableOptions:
    """How a table is read, and which of its rows are held out."""

    target: str | None = hyperparameter(None, help="Column to predict; by default the last one.")
    groups: str | None = hyperparameter(None, help="Column of groups, whose losses are reported; it is no feature.")
    clients: str | None = hyperparameter(None, help="Column of clients, who hold the rows; it is no feature.")
    held_out: float = hyperparameter(
        0.0, low=0, below=1, help="Share of the rows that is held out and measured after every epoch."
    )
    split_seed: int = hyperparameter(0, low=0, help="Random seed by which the held-out rows are drawn.")

    def __post_init__(self) -> None:
        check(self)


def described(data: Any, fingerprint: str | None = None, **options: Any) -> dict[str, Any]:
    """The table and its options in JSON form; see `Loop.describe`."""
    given = TableOptions(**options)
    table = resolved(data, fingerprint, given)
    return {"env": table.name, "fingerprint": table.digest(), **vars(given)}


def resolved(data: Any, fingerprint: str | None, options: TableOptions) -> Table:
    """The table that `data` is or names.

    Raises:
        UsageError: there is no such table, or it does not match the fingerprint recorded by a run.
    """
    again = "If the run was given arrays or a data frame, give the same again: data=…."
    try:
        table = read(data, target=options.target, groups=options.groups, clients=options.clients)
    except UsageError as error:
        raise error if fingerprint is None else UsageError(f"{error} {again}") from error
    if fingerprint not in (None, table.digest()):
        raise UsageError(f"{table.name} does not hold the samples that this run was started with. {again}")
    return table


def parts(table: Table, options: TableOptions) -> tuple[Table, Table | None]:
    """The rows to learn from, and those held out if there are any."""
    return table.split(options.held_out, options.split_seed) if options.held_out else (table, None)


def check_several(table: Table) -> None:
    """Raise `UsageError` for a table of one row."""
    if len(table) < 2:
        raise UsageError(f"{table.name} has n_samples = 1: one row has no distribution to shift; give more.")


def classes_in(table: Table) -> np.ndarray:
    """The classes `[c]` among the targets of a table, sorted.

    Raises:
        UsageError: there is only one, or the targets are measurements.
    """
    classes = np.unique(table.y)
    if table.y.dtype.kind == "f" and not np.all(classes == np.round(classes)):
        raise UsageError(
            f"loss='logistic' is not allowed for the target {table.target!r}: {classes[0]:g}, {classes[1]:g}, … "
            "are measurements, not classes; use loss='squared'."
        )
    if len(classes) < 2:
        raise UsageError(
            f"the target {table.target!r} has one class, {classes.tolist()[0]!r}, in all {len(table)} rows; there "
            "is nothing to tell apart. Give rows of at least two classes."
        )
    return classes


def measured_on(env: Any, *, fingerprint: str | None = None, **options: Any) -> Table:
    """The rows that a model is evaluated on: those held out, or all of them; see `Loop.single`."""
    given = TableOptions(**options)
    table, held_out = parts(resolved(env, fingerprint, given), given)
    return table if held_out is None else held_out

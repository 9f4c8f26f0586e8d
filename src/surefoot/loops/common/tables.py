"""The options of every kind of loop that learns from a table, and what a run records of its table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from surefoot.data.tables import Table, read
from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter

HELP = "Rows to learn from: a .csv, .txt or .parquet file, or a data set of scikit-learn such as sklearn:diabetes."


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

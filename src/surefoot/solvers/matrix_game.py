"""Zero-sum matrix games, exactly, by linear programming.

    max_x min_y xᵀUy = min_y max_x xᵀUy          U [rows, columns] is paid by the column player to the row player

The value is unique, mixtures need not be: one of the optimal ones is returned, with few actions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog

from surefoot.errors import UsageError

Array = NDArray[np.float64]


class Equilibrium(NamedTuple):
    """The value of a game, and mixtures `[rows]` and `[columns]` that attain it."""

    value: float
    row: Array
    column: Array


def equilibrium(payoffs: ArrayLike) -> Equilibrium:
    """The value and both players' optimal mixtures of a matrix game `[rows, columns]`.

    Raises:
        UsageError: the payoffs are not a matrix of finite numbers, or have no rows or columns.
    """
    table = _checked(payoffs)
    low, spread = float(table.min()), float(np.ptp(table)) or 1.0
    scaled = (table - low) / spread
    row, column = _mixture(scaled), _mixture(1.0 - scaled.T)
    return Equilibrium(float(row @ table @ column), row, column)


def exploitability(payoffs: ArrayLike, row: ArrayLike, column: ArrayLike) -> float:
    """What the two best responses to a pair of mixtures gain together: 0 at an equilibrium, positive elsewhere."""
    table, x, y = _checked(payoffs), np.asarray(row, float), np.asarray(column, float)
    return float((table @ y).max() - (x @ table).min())


def _checked(payoffs: ArrayLike) -> Array:
    table = np.asarray(payoffs, dtype=float)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise UsageError(f"payoffs of shape {table.shape} are not allowed; give finite numbers [rows, columns].")
    return table


def _mixture(table: Array) -> Array:
    """The row player's optimal mixture, for payoffs in [0, 1]."""
    rows, columns = table.shape
    against = np.hstack([-table.T, np.ones((columns, 1))])  # v − (xᵀU)_j ≤ 0
    total = np.append(np.ones(rows), 0.0)[None]
    aim = np.append(np.zeros(rows), -1.0)
    found = linprog(aim, against, np.zeros(columns), total, [1.0], [(0.0, 1.0)] * (rows + 1)).x[:rows].clip(0.0)
    return found / found.sum()

"""Mixed-integer programs in which ReLU networks stand, for HiGHS.

A ReLU h = max(0, a) with bounds L ≤ a ≤ U becomes h ≥ a, h ≤ a − L·(1 − δ), h ≤ U·δ with a binary δ; where the bounds
have one sign, it needs none. Bounds come from those of the variables by interval arithmetic.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack
from torch import nn

from surefoot.ambiguity.budgeted import Array
from surefoot.errors import UsageError


class Affine(NamedTuple):
    """Some affine functions of the variables: matrix `[k, variables so far]` and offset `[k]`."""

    matrix: Array
    offset: Array

    def plus(self, other: Affine | Array | float) -> Affine:
        """The sum; a single row broadcasts."""
        if not isinstance(other, Affine):
            return Affine(self.matrix, self.offset + other)
        wide = max(self.matrix.shape[1], other.matrix.shape[1])
        return Affine(_padded(self.matrix, wide) + _padded(other.matrix, wide), self.offset + other.offset)

    def times(self, weight: Array) -> Affine:
        """`weight [j, k]` times the functions."""
        return Affine(weight @ self.matrix, weight @ self.offset)

    def rows(self, which: list[int] | slice | np.ndarray) -> Affine:
        """Some of the functions."""
        return Affine(self.matrix[which], self.offset[which])


class Program:
    """Variables and constraints, collected one after another, and their minimum."""

    def __init__(self) -> None:
        self.lower: Any = np.empty(0)
        self.upper: Any = np.empty(0)
        self.integer = np.empty(0)
        self._rows: list[tuple[Affine, Array | float, Array | float]] = []

    def variables(
        self, count: int, lower: Array | float = 0.0, upper: Array | float = 1.0, whole: bool = False
    ) -> Affine:
        """New variables within bounds."""
        old = len(self.lower)
        self.lower = np.append(self.lower, np.broadcast_to(lower, count))
        self.upper = np.append(self.upper, np.broadcast_to(upper, count))
        self.integer = np.append(self.integer, np.full(count, float(whole)))
        return Affine(np.eye(count, old + count, old), np.zeros(count))

    def require(self, what: Affine, *, least: Array | float = -np.inf, most: Array | float = np.inf) -> None:
        """least ≤ what ≤ most."""
        self._rows.append((what, least, most))

    def interval(self, what: Affine) -> tuple[Array, Array]:
        """Bounds of affine functions `[k]` each, from those of the variables."""
        used = what.matrix.shape[1]
        up, down = what.matrix.clip(min=0), what.matrix.clip(max=0)
        lower, upper = self.lower[:used], self.upper[:used]
        with np.errstate(invalid="ignore"):
            low, high = _dot(up, lower) + _dot(down, upper), _dot(up, upper) + _dot(down, lower)
        return what.offset + low, what.offset + high

    def relu(self, what: Affine) -> Affine:
        """max(0, what), new variables where the sign is open."""
        low, high = self.interval(what)
        open_ = np.flatnonzero((low < 0) & (high > 0))
        matrix, offset = np.where((low >= 0)[:, None], what.matrix, 0.0), np.where(low >= 0, what.offset, 0.0)
        if not len(open_):
            return Affine(matrix, offset)
        a, L, U = what.rows(open_), low[open_], high[open_]
        h = self.variables(len(open_), 0.0, U)
        on = self.variables(len(open_), whole=True)
        self.require(h.plus(a.times(-np.eye(len(open_)))), least=0.0)
        self.require(h.plus(a.times(-np.eye(len(open_)))).plus(on.times(np.diag(-L))).plus(L), most=0.0)
        self.require(h.plus(on.times(np.diag(-U))), most=0.0)
        matrix = _padded(matrix, h.matrix.shape[1])
        matrix[open_] = h.matrix
        return Affine(matrix, offset)

    def through(self, layers: nn.Sequential, what: Affine) -> Affine:
        """What a network of linear layers and ReLUs makes of affine functions."""
        for layer in layers:
            if isinstance(layer, nn.Linear):
                weight = layer.weight.detach().double().numpy()
                what = what.times(weight)
                what = what if layer.bias is None else what.plus(layer.bias.detach().double().numpy())
            else:
                what = self.relu(what)
        return what

    def minimise(self, what: Affine, *, gap: float, time_limit: float) -> Array:
        """The variables where one affine function is least, up to a relative gap.

        Raises:
            UsageError: the time ended before HiGHS found any.
        """
        count = len(self.lower)
        parts = [csr_array(_padded(a.matrix, count)) for a, _, _ in self._rows]
        low: Any = np.concatenate([np.full(len(a.offset), least) - a.offset for a, least, _ in self._rows])
        high: Any = np.concatenate([np.full(len(a.offset), most) - a.offset for a, _, most in self._rows])
        answer = milp(
            _padded(what.matrix, count)[0],
            integrality=self.integer,
            bounds=Bounds(self.lower, self.upper),
            constraints=LinearConstraint(vstack(parts), low, high),
            options={"mip_rel_gap": gap, "time_limit": time_limit},
        )
        if answer.x is None:
            raise UsageError(f"HiGHS found nothing in solver_seconds={time_limit:g}; allow more.")
        return answer.x


def stacked(parts: list[Affine]) -> Affine:
    """All functions of some groups in one."""
    wide = max(part.matrix.shape[1] for part in parts)
    return Affine(np.vstack([_padded(a.matrix, wide) for a in parts]), np.concatenate([a.offset for a in parts]))


def value(what: Affine, variables: Array) -> Array:
    """Affine functions at given variables."""
    return what.matrix @ variables[: what.matrix.shape[1]] + what.offset


def _padded(matrix: Array, wide: int) -> Array:
    """A matrix with columns of zeros for later variables."""
    return np.pad(matrix, ((0, 0), (0, wide - matrix.shape[1])))


def _dot(matrix: Array, vector: Array) -> Array:
    """A product in which 0 · ∞ is 0."""
    return np.where(matrix == 0, 0.0, matrix * vector).sum(-1)

"""Two-stage robust knapsacks: choose items, learn which profits fell, then keep, repair or hand back each chosen item.

    min over x  Σ (f_i − p̄_i)·x_i  +  max over ξ of  min over r ≤ y ≤ x  Σ (p̂_i·ξ_i − f_i)·y_i − p̂_i·ξ_i·r_i
    with Σ c_i·y_i + t_i·r_i ≤ C,   ξ ∈ [0, 1]^n, Σ ξ_i ≤ Γ

A chosen item that is produced brings p̄_i − p̂_i·ξ_i, or all of p̄_i if it is repaired; one that is handed back costs
f_i − p̄_i. Of two kinds of decisions the first, x, is made before ξ is known: this is robust optimisation with recourse.

Arslan & Detienne, *Decomposition-Based Approaches for a Class of Two-Stage Robust Binary Optimization Problems*
(INFORMS Journal on Computing 2022), whose instances are public.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from surefoot.ambiguity.budgeted import Array, Worst, worst_concave
from surefoot.envs.recourse.packing import packed, plans
from surefoot.envs.recourse.problem import Packing, Paid, Rows
from surefoot.errors import UsageError
from surefoot.files import read_text
from surefoot.hyperparameters import check, hyperparameter

KINDS = ("UN", "WC", "ASC", "SC")  # profits and costs uncorrelated, weakly, almost strongly, strongly correlated
OF_ITEM = ("weight", "profit", "loss", "handback", "repair")


@dataclass(frozen=True)
class Knapsack:
    """One instance: five numbers for each of n items, `[n]` each, and what all share.

    profit: p̄, of an item as planned; loss: p̂, what of it is lost at ξ = 1; handback: f, what a chosen item that is not
    produced costs beside its profit; weight: c, of production; repair: t, the weight of a repair; capacity: C;
    budget: Γ, how many losses there can be.

    Raises `UsageError` for shapes that do not fit, and numbers that are negative or not finite.
    """

    profit: Any
    loss: Any
    repair: Any
    weight: Any
    handback: Any
    capacity: float
    budget: float
    name: str = "knapsack"

    seen: ClassVar[tuple[str, ...]] = ("xi",)
    known: ClassVar[tuple[str, ...]] = ("c", "p", "loss", "f", "t", "C")

    def __post_init__(self) -> None:
        n = np.size(self.profit)
        for field in fields(self)[:-1]:
            value = np.asarray(getattr(self, field.name), dtype=float)
            shape = () if field.name in ("capacity", "budget") else (n,)
            if value.shape != shape or n == 0:
                raise UsageError(f"{self.name}: {field.name} has the shape {value.shape}; it must be {shape}, n ≥ 1.")
            if not (np.isfinite(value).all() and (value >= 0).all()):
                raise UsageError(f"{self.name}: {field.name} must be finite and not negative.")
            object.__setattr__(self, field.name, value if shape else float(value))

    def __len__(self) -> int:
        return len(self.profit)

    @property
    def uncertain(self) -> int:
        return len(self)

    @property
    def planned(self) -> int:
        return 2 * len(self)

    # --- what a network sees -----------------------------------------------------------------------------------------

    def items(self) -> Array:
        """What is known of every item `[n, 6]`: c, p̄, p̂, f, t, C."""
        columns = [getattr(self, name) for name in OF_ITEM]
        return np.column_stack([*columns, np.full(len(self), self.capacity)])

    def sight(self) -> Array:
        """Beside every item its own ξ."""
        return np.eye(len(self))

    # --- random ones -------------------------------------------------------------------------------------------------

    def choices(self, stream: np.random.Generator, count: int) -> Array:
        return choices(stream, count, len(self))

    def scenarios(self, stream: np.random.Generator, count: int) -> Array:
        return losses(stream, count, len(self), self.budget)

    def nominal(self) -> Array:
        """No losses."""
        return np.zeros(len(self))

    # --- costs, exactly ----------------------------------------------------------------------------------------------

    def first_stage(self, x: Array) -> Array:
        """Σ (f − p̄)·x `[...]` for choices `[..., n]`."""
        return x @ self.costs()

    def packing(self, x: Array, xi: Array) -> Packing:
        """Chosen items are produced, or produced and repaired, or left out."""
        chosen = np.flatnonzero(x > 0.5)
        handback, weight = self.handback[chosen], self.weight[chosen]
        gains = np.stack([handback - (self.loss * xi)[chosen], handback])
        return Packing(chosen, gains, np.stack([weight, weight + self.repair[chosen]]), self.capacity, 0.0)

    def table(self, xi: Array) -> Array:
        n = len(self)
        produced, repaired, starts = plans(n, 0)
        fits = produced @ self.weight + repaired @ self.repair <= self.capacity
        base = np.where(fits, -(produced @ self.handback), np.inf)
        values = np.empty((len(xi), 2**n))
        for row, one in zip(values, xi, strict=True):
            row[:] = np.minimum.reduceat(base + (produced - repaired) @ (self.loss * one), starts)
        for item in range(n):  # what a choice allows, a greater one does too
            split = values.reshape(len(xi), -1, 2, 2**item)
            split[:, :, 1] = np.minimum(split[:, :, 1], split[:, :, 0])
        return values

    def worst_case(self, x: Array, tolerance: float) -> Worst:
        """By cutting planes: the value of a choice is concave in ξ."""
        first = float(self.first_stage(x))

        def above(xi: Array) -> tuple[float, Array]:
            value, states = packed(self.packing(x, xi), len(self))
            return first + value, np.where(states == 1, self.loss, 0.0)

        return worst_concave(above, len(self), self.budget, tolerance=tolerance)

    def slope(self, x: Array) -> Array:
        return x * self.loss

    # --- as a linear program -----------------------------------------------------------------------------------------

    def costs(self) -> Array:
        """f − p̄ `[n]`."""
        return self.handback - self.profit

    def rows(self) -> Rows:
        """r ≤ y ≤ x and the capacity."""
        one, zero = np.eye(len(self)), np.zeros((len(self), len(self)))
        weights = np.concatenate([np.zeros(len(self)), self.weight, self.repair])
        matrix = np.vstack([np.hstack([-one, one, zero]), np.hstack([zero, -one, one]), weights])
        return Rows(matrix, np.append(np.zeros(2 * len(self)), self.capacity))

    def paid(self, xi: Array) -> Paid:
        n, loss = len(self), self.loss * xi
        plan = np.concatenate([loss - self.handback, -loss])
        return Paid(np.zeros(n), plan, Rows(np.empty((0, 3 * n)), np.empty(0)), float(self.loss @ xi))

    def bounds(self) -> tuple[float, float]:
        return -float(self.handback.sum()), float(self.loss.sum())


@dataclass(frozen=True)
class Family:
    """Random instances of one size.

    `draw(stream)` draws the kind of correlation, h, δ and Γ/n of an instance anew, each from a list.
    """

    items: int = hyperparameter(8, low=1, help="n: items of an instance.")
    kinds: tuple[str, ...] = hyperparameter(KINDS, choices=None, help="How profits and weights are correlated.")
    fillings: tuple[float, ...] = hyperparameter((40.0, 80.0), above=0, help="h: capacity in 101ths of all weights.")
    losses: tuple[float, ...] = hyperparameter((0.1, 0.5, 1.0), low=0, high=1, help="δ: spread of losses.")
    budgets: tuple[float, ...] = hyperparameter((0.2, 0.3, 0.4), low=0, high=1, help="Γ/n: share of losses.")

    def __post_init__(self) -> None:
        check(self)
        if unknown := sorted(set(self.kinds) - set(KINDS)):
            raise UsageError(f"kinds: {unknown[0]!r} is not known; it must be one of {', '.join(KINDS)}.")

    def draw(self, stream: np.random.Generator, reach: float = 1000.0) -> Knapsack:
        """An instance whose weights are in [1, `reach`]."""
        kind = str(stream.choice(self.kinds))
        h, delta, share = (float(stream.choice(x)) for x in (self.fillings, self.losses, self.budgets))
        n = self.items
        weight = stream.uniform(1, reach, n)
        profit = _profit(kind, weight, reach, stream)
        loss = profit * stream.uniform((1 - delta) / 2, (1 + delta) / 2, n)
        handback = profit * stream.uniform(1.1, 1.5, n)
        repair = _repair(kind, weight, loss, reach, stream)
        name = f"knapsack {kind}, n = {n}, h = {h:g}, δ = {delta:g}, Γ = {share:g}·n"
        return Knapsack(profit, loss, repair, weight, handback, h / 101 * weight.sum(), share * n, name)


def choices(stream: np.random.Generator, count: int, n: int) -> Array:
    """Random choices `[count, n]` of 0 and 1: each with its own share of items."""
    return (stream.random((count, n)) < stream.random((count, 1))).astype(float)


def losses(stream: np.random.Generator, count: int, n: int, budget: float) -> Array:
    """Random ξ `[count, n]` of the set, of any total between a small one and Γ: directions are uniform in the box."""
    direction = stream.random((count, n))
    total = stream.uniform(min(1 / budget, budget), budget, (count, 1)) if budget > 0 else np.zeros((count, 1))
    return (total * direction / direction.sum(-1, keepdims=True)).clip(0, 1)


def read(path: str | Path) -> Knapsack:
    """The instance in one of the public files.

    Raises:
        UsageError: the file is not one.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a text ({error}); give the file of a knapsack.") from None
    return parse(text, Path(path).name)


def parse(text: str, name: str) -> Knapsack:
    """The instance in the text of a public file: n, C and Γ, then a line p̄, p̂, t, c, f for every item.

    Raises:
        UsageError: the text is not one.
    """
    try:
        rows = [[float(x) for x in line.split()] for line in text.splitlines() if line.strip()]
        (n, capacity, budget), items = rows[0], np.array(rows[1:])
        if items.shape != (n, 5):
            raise ValueError(f"{n:g} items are announced, and the numbers of items have the shape {items.shape}")
    except (ValueError, IndexError) as error:
        raise UsageError(
            f"{name} is not a knapsack ({error}); it has a line n, C, Γ, then p̄, p̂, t, c, f for every item."
        ) from None
    named = dict(zip(("profit", "loss", "repair", "weight", "handback"), items.T, strict=True))
    return Knapsack(**named, capacity=capacity, budget=budget, name=name)


def _profit(kind: str, weight: Array, reach: float, stream: np.random.Generator) -> Array:
    """Planned profits."""
    if kind == "UN":
        return stream.uniform(1, reach, len(weight))
    middle = weight if kind == "WC" else weight + reach / 10
    return _around(middle, {"WC": reach / 20, "ASC": reach / 1000}.get(kind, 0.0), stream)


def _repair(kind: str, weight: Array, loss: Array, reach: float, stream: np.random.Generator) -> Array:
    """Weights of repairs."""
    if kind == "UN":
        return stream.uniform(1, weight)
    middle = 0.5 * loss if kind == "WC" else 0.5 * loss + weight / 10
    return _around(middle, {"WC": reach / 40, "ASC": reach / 1000}.get(kind, 0.0), stream)


def _around(middle: Array, spread: float, stream: np.random.Generator) -> Array:
    """Numbers of at least 1, uniform around given ones."""
    return (middle + stream.uniform(-spread, spread, len(middle))).clip(min=1)

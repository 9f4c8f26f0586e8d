"""What a two-stage robust problem offers: a choice x before ξ is known, and a plan after it.

    min over x  first(x) + max over ξ of  min over plans p  a(ξ)·x + b(ξ)·p
    with rows·(x, p) ≤ limits, some of which may depend on ξ,   ξ ∈ [0, 1]^k, Σ ξ ≤ Γ,   x and p of 0 and 1

The second stage of the problems here is a knapsack whose items have states, which `packing` solves.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from surefoot.ambiguity.budgeted import Array, Worst


class Packing(NamedTuple):
    """A second stage: some `items [m]` with gains and weights `[states, m]` in each state but that of being left out,
    the capacity, and the cost of what is settled."""

    items: np.ndarray
    gains: Array
    weights: Array
    capacity: float
    settled: float


class Rows(NamedTuple):
    """Constraints: matrix `[m, n + q]` of a choice and a plan, at most `limits [m]`."""

    matrix: Array
    limits: Array


class Paid(NamedTuple):
    """What is paid at some ξ, of the choice `[n]` and of the plan `[q]`; the constraints that hold there; and by how
    much a plan can cost more than at any other ξ."""

    of_choice: Array
    of_plan: Array
    rows: Rows
    excess: float


class Problem(Protocol):
    """An instance of n items. `seen` and `known` name what a network sees of ξ beside an item, and knows of it."""

    seen: ClassVar[tuple[str, ...]]
    known: ClassVar[tuple[str, ...]]

    @property
    def budget(self) -> float:
        """Γ."""
        ...

    @property
    def uncertain(self) -> int:
        """k: the entries of ξ."""
        ...

    @property
    def planned(self) -> int:
        """q: the entries of a plan."""
        ...

    def __len__(self) -> int: ...

    # --- what a network sees -----------------------------------------------------------------------------------------

    def items(self) -> Array:
        """What is known of every item `[n, known]`."""
        ...

    def sight(self) -> Array:
        """The matrix `[k, n·e]` from ξ to what of it is seen beside every item: e numbers in [0, 1] each."""
        ...

    # --- random ones -------------------------------------------------------------------------------------------------

    def choices(self, stream: np.random.Generator, count: int) -> Array:
        """Random choices `[count, n]` that are allowed."""
        ...

    def scenarios(self, stream: np.random.Generator, count: int) -> Array:
        """Random ξ `[count, k]` of the set."""
        ...

    def nominal(self) -> Array:
        """ξ `[k]` as planned."""
        ...

    # --- costs, exactly ----------------------------------------------------------------------------------------------

    def first_stage(self, x: Array) -> Array:
        """first(x) `[...]` of choices `[..., n]`; infinite for one that some ξ makes impossible."""
        ...

    def packing(self, x: Array, xi: Array) -> Packing:
        """The second stage of a choice `[n]` at some ξ `[k]`."""
        ...

    def table(self, xi: Array) -> Array:
        """The second stage's value of all choices `[m, 2^n]` at some ξ `[m, k]`, by listing all plans."""
        ...

    def worst_case(self, x: Array, tolerance: float) -> Worst:
        """The greatest cost of a choice `[n]` over the set, first stage included."""
        ...

    def slope(self, x: Array) -> Array:
        """How the cost of a choice `[n]` rises along ξ `[k]` where nothing is done about it."""
        ...

    # --- as a linear program -----------------------------------------------------------------------------------------

    def costs(self) -> Array:
        """What a choice costs in the first stage, `[n]`."""
        ...

    def rows(self) -> Rows:
        """The constraints that hold at every ξ."""
        ...

    def paid(self, xi: Array) -> Paid:
        """The second stage at some ξ `[k]`."""
        ...

    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value of a second stage."""
        ...

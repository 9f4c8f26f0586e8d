"""Capital budgeting: fund projects now, or at a lower return once costs and revenues are known.

    min over x  max over ξ of  min over y  −Σ r_i(ξ)·(x_i + k·y_i)
    with x + y ≤ 1,   Σ c_i(ξ)·(x_i + y_i) ≤ B,   c_i(ξ) = (½ + φ_i·ξ)·c̄_i,   r_i(ξ) = (½ + ψ_i·ξ)·r̄_i,   ξ ∈ [0, 1]^m

Few factors ξ move all projects; the loadings φ_i and ψ_i are not negative and sum to one, so that costs and revenues
lie between half and three halves of what is expected. What can still be funded depends on ξ: the value of a choice
jumps where a plan becomes too dear, and is not concave. All costs are greatest at ξ = 1, which says
what a choice may cost.

Subramanyam, Gounaris, Wiesemann, *K-Adaptability in Two-Stage Mixed-Integer Robust Optimization* (Mathematical
Programming Computation 2020), where ξ is 2ξ − 1 of ours; instances as Dumouchelle et al. (2023) draw them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from heapq import heappop, heappush
from typing import Any, ClassVar

import numpy as np
from scipy.optimize import linprog

from surefoot.ambiguity.budgeted import Array, Worst
from surefoot.envs.recourse.packing import packed, plans
from surefoot.envs.recourse.problem import Packing, Paid, Rows
from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter

Costs = list[tuple[float, Array]]  # of plans: at ξ = 0, and the slope in ξ
Limits = list[tuple[Array, float]]  # of ξ: a slope, and the most that it may come to
PAID = (
    1 + 1e-9
)  # times the funds: what costs as much can be paid, whatever the order of a sum; at ξ = 0 all projects do
DEARER = 1 + 1e-5  # times the funds: what costs as much is out of reach, by more than the solver's tolerance


@dataclass(frozen=True)
class CapitalBudgeting:
    """One instance: n projects and m factors.

    cost: c̄ `[n]`; revenue: r̄ `[n]`; cost_loadings: φ `[n, m]`; revenue_loadings: ψ `[n, m]`; funds: B; late: k, the
    share of its revenue that a project brings if it is funded in the second stage.

    Raises `UsageError` for shapes that do not fit, numbers that are negative or not finite, loadings that do not sum to
    one, and a `late` above 1.
    """

    cost: Any
    revenue: Any
    cost_loadings: Any
    revenue_loadings: Any
    funds: float
    late: float = 0.8
    name: str = "capital budgeting"

    seen: ClassVar[tuple[str, ...]] = ("xi_cost", "xi_revenue")
    known: ClassVar[tuple[str, ...]] = ("c", "r")

    def __post_init__(self) -> None:
        n, factors = np.size(self.cost), np.shape(self.cost_loadings)[-1:]
        shapes = {"cost": (n,), "revenue": (n,), "funds": (), "late": ()}
        for field in fields(self)[:-1]:
            value = np.asarray(getattr(self, field.name), dtype=float)
            shape = shapes.get(field.name, (n, *factors))
            if value.shape != shape or value.size == 0:
                raise UsageError(f"{self.name}: {field.name} has the shape {value.shape}; it must be {shape}, n ≥ 1.")
            if not (np.isfinite(value).all() and (value >= 0).all()):
                raise UsageError(f"{self.name}: {field.name} must be finite and not negative.")
            if field.name.endswith("loadings") and np.abs(value.sum(1) - 1).max() > 1e-9:
                raise UsageError(f"{self.name}: {field.name} of every project must sum to 1.")
            object.__setattr__(self, field.name, value if shape else float(value))
        if self.late > 1:
            raise UsageError(f"{self.name}: late={self.late:g} is not allowed; it must be at most 1.")

    def __len__(self) -> int:
        return len(self.cost)

    @property
    def uncertain(self) -> int:
        return self.cost_loadings.shape[1]

    @property
    def budget(self) -> float:
        """The whole box: every factor may go wrong."""
        return float(self.uncertain)

    @property
    def planned(self) -> int:
        return len(self)

    def costs_at(self, xi: Array) -> Array:
        """c(ξ) `[n]`."""
        return (0.5 + self.cost_loadings @ xi) * self.cost

    def revenues_at(self, xi: Array) -> Array:
        """r(ξ) `[n]`."""
        return (0.5 + self.revenue_loadings @ xi) * self.revenue

    # --- what a network sees -----------------------------------------------------------------------------------------

    def items(self) -> Array:
        """What is known of every project `[n, 2]`: c̄, r̄."""
        return np.column_stack([self.cost, self.revenue])

    def sight(self) -> Array:
        """Beside every project φ·ξ and ψ·ξ."""
        return np.stack([self.cost_loadings, self.revenue_loadings], 1).reshape(-1, self.uncertain).T

    # --- random ones -------------------------------------------------------------------------------------------------

    def choices(self, stream: np.random.Generator, count: int) -> Array:
        """Each with its own share of projects, drawn again until no ξ makes it too dear."""
        found: list[Array] = []
        while len(found) < count:
            x = (stream.random(len(self)) < stream.random()).astype(float)
            found += [x] if np.isfinite(self.first_stage(x)) else []
        return np.array(found)

    def scenarios(self, stream: np.random.Generator, count: int) -> Array:
        return stream.random((count, self.uncertain))

    def nominal(self) -> Array:
        """What is expected."""
        return np.full(self.uncertain, 0.5)

    # --- costs, exactly ----------------------------------------------------------------------------------------------

    def first_stage(self, x: Array) -> Array:
        """0 for choices `[..., n]` that can be paid at every ξ; all revenues are known in the second stage only."""
        return np.where(x @ self.costs_at(np.ones(self.uncertain)) <= self.funds, 0.0, np.inf)

    def packing(self, x: Array, xi: Array) -> Packing:
        """Other projects are funded, or not, by what is left."""
        free, cost, revenue = np.flatnonzero(x < 0.5), self.costs_at(xi), self.revenues_at(xi)
        left = PAID * self.funds - float(cost @ x)
        return Packing(free, self.late * revenue[free][None], cost[free][None], left, -float(revenue @ x))

    def table(self, xi: Array) -> Array:
        funded, early, starts = plans(len(self), 1)
        shares = early + self.late * (funded - early)
        values = np.empty((len(xi), 2 ** len(self)))
        for row, one in zip(values, xi, strict=True):
            paid = funded @ self.costs_at(one) <= PAID * self.funds
            row[:] = np.minimum.reduceat(np.where(paid, -(shares @ self.revenues_at(one)), np.inf), starts)
        return values

    def worst_case(self, x: Array, tolerance: float) -> Worst:
        """By branch and bound: where the best plan at some ξ can be paid it bounds the cost, and elsewhere it is out of
        reach. The value is that at a ξ; the least bound is above it by no more than 1e-5 of the funds are worth."""
        if np.isinf(self.first_stage(x)):
            return Worst(np.inf, np.ones(self.uncertain), [np.inf])
        found, bounds, count = self.nominal(), list[float](), 0
        best = packed(self.packing(x, found), len(self)).value
        first = self._cost(x, np.zeros(len(self), dtype=int))
        nodes: list[tuple[float, int, Array, Costs, Limits]] = [(-first[0], 0, np.zeros(self.uncertain), [first], [])]
        while nodes:  # a heap, the greatest bound first
            bound, _, point, cheap, dear = heappop(nodes)
            bounds.append(max(-bound, best))
            if bounds[-1] - best <= tolerance * max(1.0, abs(best)):
                break
            plan = packed(self.packing(x, point), len(self))
            if plan.value > best:
                best, found = plan.value, point
            if -bound - plan.value <= tolerance * max(1.0, abs(best)):
                continue
            spent = (x + plan.states) * self.cost
            beyond = (-spent @ self.cost_loadings, 0.5 * float(spent.sum()) - DEARER * self.funds)
            for costs, limits in (([*cheap, self._cost(x, plan.states)], dear), (cheap, [*dear, beyond])):
                answer = self._highest(costs, limits)
                if answer is not None and answer[0] > best:
                    count += 1
                    heappush(nodes, (-answer[0], count, answer[1], costs, limits))
        return Worst(best, found, bounds)

    def _cost(self, x: Array, late: np.ndarray) -> tuple[float, Array]:
        """The cost of a plan at ξ = 0, and its slope in ξ."""
        brought = (x + self.late * late) * self.revenue
        return -0.5 * float(brought.sum()), -brought @ self.revenue_loadings

    def _highest(self, cheap: Costs, dear: Limits) -> tuple[float, Array] | None:
        """The greatest value below some plans' costs where others are out of reach, and its ξ; None if nowhere."""
        below = [[*-slope, 1.0] for _, slope in cheap] + [[*slope, 0.0] for slope, _ in dear]
        most = [cost for cost, _ in cheap] + [limit for _, limit in dear]
        aim, box = np.append(np.zeros(self.uncertain), -1.0), [(0.0, 1.0)] * self.uncertain + [(None, None)]
        answer = linprog(aim, below, most, bounds=box)
        return None if answer.x is None else (float(answer.x[-1]), answer.x[:-1].clip(0.0, 1.0))

    def slope(self, x: Array) -> Array:
        return -(x * self.revenue) @ self.revenue_loadings

    # --- as a linear program -----------------------------------------------------------------------------------------

    def costs(self) -> Array:
        return np.zeros(len(self))

    def rows(self) -> Rows:
        """x + y ≤ 1, and what is chosen can be paid at every ξ."""
        dearest = np.append(self.costs_at(np.ones(self.uncertain)), np.zeros(len(self)))
        return Rows(np.vstack([np.hstack([np.eye(len(self))] * 2), dearest]), np.append(np.ones(len(self)), self.funds))

    def paid(self, xi: Array) -> Paid:
        revenue, cost = self.revenues_at(xi), self.costs_at(xi)
        rows = Rows(np.tile(cost, 2)[None], np.array([self.funds]))
        return Paid(-revenue, -self.late * revenue, rows, float((1.5 * self.revenue - revenue).sum()))

    def bounds(self) -> tuple[float, float]:
        return -1.5 * float(self.revenue.sum()), 0.0


@dataclass(frozen=True)
class Projects:
    """Random instances of one size."""

    items: int = hyperparameter(10, low=1, help="n: projects of an instance.")
    factors: int = hyperparameter(4, low=1, help="m: what moves costs and revenues.")

    def __post_init__(self) -> None:
        check(self)

    def draw(self, stream: np.random.Generator) -> CapitalBudgeting:
        """An instance with funds for half of what all projects are expected to cost."""
        cost = stream.uniform(1, 10, self.items)
        phi, psi = stream.dirichlet(np.ones(self.factors), (2, self.items))
        name = f"capital budgeting, n = {self.items}"
        return CapitalBudgeting(cost, cost / 5, phi, psi, 0.5 * cost.sum(), name=name)

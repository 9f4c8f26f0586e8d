"""Samples of the second stage's value: random instances, choices and ξ, each with the exact value.

    knapsack                                        # 250 instances of 8 items, 10 choices and 20 ξ of each
    knapsack:20,instances=60,losses=50,seed=7
    capital-budgeting:10                            # of 10 projects and 4 factors

A row is x (n), what of ξ is seen beside every item, then what is known of every item, such as c, p̄, p̂, f, t and C of a
knapsack; the target is the value of its second stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from surefoot.data.described_text import arguments
from surefoot.data.tables import Table
from surefoot.envs.recourse.budgeting import CapitalBudgeting, Projects
from surefoot.envs.recourse.exact import second_stage, table
from surefoot.envs.recourse.knapsack import Array, Family, Knapsack
from surefoot.envs.recourse.problem import Problem
from surefoot.hyperparameters import check, hyperparameter
from surefoot.seeding import numpy_stream

LISTED = 8  # items up to which listing all plans is faster than a dynamic programme for every row
MANY = 20  # items from which on Γ/n is the paper's


@dataclass(frozen=True)
class Sampled:
    """How much of it there is."""

    items: int = hyperparameter(8, low=1, help="n: items of every instance.")
    instances: int = hyperparameter(250, low=1, help="Random instances.")
    choices: int = hyperparameter(10, low=1, help="Random choices for each instance.")
    losses: int = hyperparameter(20, low=1, help="Random ξ for each choice.")
    seed: int = hyperparameter(7, low=0, help="Random seed.")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class SampledKnapsacks(Sampled):
    """How much there is of knapsacks."""

    budget: float | None = hyperparameter(None, low=0, high=1, help="Γ/n; by default one of several.")

    problem: ClassVar[type[Knapsack]] = Knapsack

    @property
    def family(self) -> Family:
        """The instances that are drawn: of few items, Γ/n must be larger for two losses at once."""
        usual = (0.1, 0.15, 0.2) if self.items >= MANY else (0.2, 0.3, 0.4)
        return Family(self.items, budgets=usual if self.budget is None else (self.budget,))


@dataclass(frozen=True)
class SampledProjects(Sampled):
    """How much there is of capital budgeting."""

    factors: int = hyperparameter(4, low=1, help="Factors that move costs and revenues.")

    problem: ClassVar[type[CapitalBudgeting]] = CapitalBudgeting

    @property
    def family(self) -> Projects:
        """The instances that are drawn."""
        return Projects(self.items, self.factors)


KINDS: dict[str, type[SampledKnapsacks | SampledProjects]] = {
    "knapsack": SampledKnapsacks,
    "capital-budgeting": SampledProjects,
}


def made(text: str) -> Table:
    """The table that a text such as knapsack:8,instances=100 describes.

    Raises:
        UsageError: an argument is not known or not allowed.
    """
    given = arguments(text, KINDS[text.partition(":")[0]], "items")
    parts = [_of_instance(given, number) for number in range(given.instances)]
    X, y = (np.concatenate(x) for x in zip(*parts, strict=True))
    names = [("x",), given.problem.seen, given.problem.known]
    return Table(
        X, y, text, tuple(f"{name}{i}" for some in names for i in range(given.items) for name in some), "value"
    )


def rows(problem: Problem, x: Array, xi: Array) -> Array:
    """Features of choices `[r, n]` and ξ `[r, k]` of an instance, `[r, ...]`."""
    items = problem.items().ravel()
    return np.hstack([x, xi @ problem.sight(), np.broadcast_to(items, (len(x), len(items)))])


def _of_instance(given: SampledKnapsacks | SampledProjects, number: int) -> tuple[Array, Array]:
    """The rows of one instance and their targets; every choice meets its own ξ."""
    stream = numpy_stream(given.seed, "two-stage samples", number)
    problem: Problem = given.family.draw(stream)
    x = problem.choices(stream, given.choices).repeat(given.losses, axis=0)
    xi = problem.scenarios(stream, len(x))
    if given.items <= LISTED:
        place = (x @ (1 << np.arange(given.items))).astype(int)
        value = table(problem, xi)[np.arange(len(x)), place]
    else:
        value = np.array([second_stage(problem, *one).value for one in zip(x, xi, strict=True)])
    return rows(problem, x, xi), value

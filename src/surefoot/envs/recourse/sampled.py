"""Samples of the second stage's value: random instances, choices and losses, each with the exact value.

    knapsack                                        # 250 instances of 8 items, 10 choices and 20 losses of each
    knapsack:20,instances=60,losses=50,seed=7

A row is x (n), ξ (n), then c, p̄, p̂, f, t and C of every item; the target is the value of its second stage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surefoot.data.described_text import arguments
from surefoot.data.tables import Table
from surefoot.envs.recourse.exact import second_stage, table
from surefoot.envs.recourse.knapsack import Array, Family, Knapsack, choices, losses
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
    losses: int = hyperparameter(20, low=1, help="Random losses ξ for each choice.")
    budget: float | None = hyperparameter(None, low=0, high=1, help="Γ/n; by default one of several.")
    seed: int = hyperparameter(7, low=0, help="Random seed.")

    def __post_init__(self) -> None:
        check(self)

    @property
    def family(self) -> Family:
        """The instances that are drawn: of few items, Γ/n must be larger for two losses at once."""
        usual = (0.1, 0.15, 0.2) if self.items >= MANY else (0.2, 0.3, 0.4)
        return Family(self.items, budgets=usual if self.budget is None else (self.budget,))


def made(text: str) -> Table:
    """The table that a text such as knapsack:8,instances=100 describes.

    Raises:
        UsageError: an argument is not known or not allowed.
    """
    given = arguments(text, Sampled, "items")
    parts = [_of_instance(given, number) for number in range(given.instances)]
    X, y = (np.concatenate(x) for x in zip(*parts, strict=True))
    n = range(given.items)
    known = [f"{name}{i}" for i in n for name in ("c", "p", "loss", "f", "t", "C")]
    return Table(X, y, text, (*(f"x{i}" for i in n), *(f"xi{i}" for i in n), *known), "value")


def rows(problem: Knapsack, x: Array, xi: Array) -> Array:
    """Features `[k, 8n]` of choices and losses `[k, n]` of an instance."""
    return np.hstack([x, xi, np.broadcast_to(problem.items().ravel(), (len(x), 6 * len(problem)))])


def _of_instance(given: Sampled, number: int) -> tuple[Array, Array]:
    """The rows of one instance and their targets; every choice meets its own losses."""
    stream = numpy_stream(given.seed, "two-stage samples", number)
    problem, n = given.family.draw(stream), given.items
    x = choices(stream, given.choices, n).repeat(given.losses, axis=0)
    xi = losses(stream, len(x), n, problem.budget)
    if n <= LISTED:
        place = (x @ (1 << np.arange(n))).astype(int)
        value = table(problem, xi)[np.arange(len(x)), place]
    else:
        value = np.array([second_stage(problem, *one).value for one in zip(x, xi, strict=True)])
    return rows(problem, x, xi), value

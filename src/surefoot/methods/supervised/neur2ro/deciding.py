"""The loop of constraint generation: from a learned value to a choice, and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from surefoot.ambiguity.budgeted import Array
from surefoot.envs.recourse.problem import Problem
from surefoot.hyperparameters import check, hyperparameter
from surefoot.methods.supervised.neur2ro.generation import (
    Known,
    ascended_losses,
    known,
    listed_choice,
    solved_choice,
    solved_losses,
)
from surefoot.models.set_model import SetModel
from surefoot.seeding import numpy_stream

LISTED = 10  # items up to which listing all choices is faster than HiGHS
SAME = 1e-3  # distance of losses below which they are the same


@dataclass(frozen=True)
class Search:
    """How choices and losses are searched for."""

    formulation: str = hyperparameter(
        "argmax",
        choices=("argmax", "max"),
        help="Cost: the true one of the scenario predicted worst, or that prediction.",
    )
    choices_by: str = hyperparameter(
        "auto", choices=("auto", "listing", "highs"), help="Search for choices; auto lists those of up to 10 items."
    )
    losses_by: str = hyperparameter(
        "ascent", choices=("ascent", "highs"), help="Search for losses: projected ascent, or HiGHS, exact and slow."
    )
    tolerance: float = hyperparameter(1e-4, low=0, help="Relative gain in the predicted worst case that ends it.")
    scenarios: int = hyperparameter(20, low=1, help="Most losses that a choice is made against.")
    starts: int = hyperparameter(20, low=0, help="Random starts of the ascent, beside the scenarios so far.")
    ascent_steps: int = hyperparameter(40, low=0, help="Steps of the ascent.")
    ascent_length: float = hyperparameter(0.2, above=0, help="Length of a step of the ascent.")
    gap: float = hyperparameter(1e-3, low=0, help="Relative gap at which HiGHS ends.")
    solver_seconds: float = hyperparameter(180.0, above=0, help="Seconds for each problem that HiGHS solves.")

    def __post_init__(self) -> None:
        check(self)

    def decide(self, model: SetModel, problem: Problem, seed: int = 0) -> Decision:
        """The choice for an instance, by the learned value of its second stage.

        The first choice is the best one if all goes as planned. It ends when the network fears nothing new, and the
        answer is the last choice; `surefoot.envs.recourse.exact.worst_case` finds what it really costs.
        """
        to, scenarios = known(model.network, problem), np.empty((0, problem.uncertain))
        for number in range(self.scenarios + 1):
            x = self._choice(to, scenarios)
            xi = self._losses(to, x, scenarios, seed, number)
            if number == self.scenarios or self._known(to, x, xi, scenarios):
                break
            scenarios = np.vstack([scenarios, xi])
        return Decision(x, xi, scenarios)

    def _choice(self, to: Known, scenarios: Array) -> Array:
        if self.choices_by == "highs" or (self.choices_by == "auto" and len(to.problem) > LISTED):
            return solved_choice(to, scenarios, self.formulation, self.gap, self.solver_seconds)
        return listed_choice(to, scenarios, self.formulation)

    def _losses(self, to: Known, x: Array, scenarios: Array, seed: int, number: int) -> Array:
        if self.losses_by == "highs":
            return solved_losses(to, x, self.gap, self.solver_seconds)
        stream = numpy_stream(seed, "starts of the ascent", number)
        starts = to.problem.scenarios(stream, self.starts)
        return ascended_losses(to, x, np.vstack([scenarios, starts]), self.ascent_steps, self.ascent_length)

    def _known(self, to: Known, x: Array, xi: Array, scenarios: Array) -> bool:
        """Whether the scenarios hold these losses, or some that the network fears as much."""
        if not len(scenarios):
            return False
        if np.abs(scenarios - xi).sum(-1).min() < SAME:
            return True
        with torch.no_grad():
            fears = to.predicted(torch.as_tensor(x), torch.as_tensor(np.vstack([xi, scenarios])))
        new, old = float(fears[0]), float(fears[1:].max())
        return new - old <= self.tolerance * abs(new)


class Decision(NamedTuple):
    """A choice `[n]`, the ξ `[k]` that the network fears most for it, and those `[s, k]` it was made against."""

    choice: Array
    losses: Array
    scenarios: Array

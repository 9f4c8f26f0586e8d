"""The base of methods on finite sums: what weighs the losses, the linear model, and the solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from surefoot.ambiguity import Ambiguity
from surefoot.data.tables import Table
from surefoot.hyperparameters import check, hyperparameter
from surefoot.loops.common.tables import check_several, classes_in
from surefoot.loops.finite_sum.problem import Array, Problem
from surefoot.loops.finite_sum.solvers import SOLVERS
from surefoot.models.linear_losses import NAMES, loss_of
from surefoot.models.linear_model import encoded


@dataclass(frozen=True)
class FiniteSum:
    """The base of every method on finite sums.

    A method declares its hyperparameters and defines `ambiguity_of`, the set of weights, and `risk_formula`. Where it
    subtracts something from the losses, it defines `offset` too.
    """

    loss: str = hyperparameter("squared", choices=tuple(NAMES), help="Loss: squared for numbers, logistic for classes.")
    l2: float = hyperparameter(1.0, low=0, help="Squared norm's price times the number of samples: μ = l2/n.")
    fit_intercept: bool = hyperparameter(True, help="Add a constant to the scores, on which no norm is paid.")
    solver: str = hyperparameter("auto", choices=("auto", *SOLVERS), help="Solver; auto is lbfgs, the fastest here.")
    learning_rate: float | None = hyperparameter(
        None, above=0, help="Step size; by default 1/(3·nσ·L) from the greatest weight and curvature of a sample."
    )
    batch_size: int = hyperparameter(64, low=1, help="Samples of a batch, for the solvers sgd and srda.")

    loop: ClassVar[str] = "finite-sum"
    default_steps: ClassVar[int] = 64

    def __post_init__(self) -> None:
        check(self)

    def ambiguity_of(self, n: int) -> Ambiguity:
        """The set of weights of n losses."""
        raise NotImplementedError

    def risk_formula(self) -> str:
        """The first term of the objective, in terms of ℓ_i."""
        raise NotImplementedError

    def offset(self, table: Table) -> Array | float:
        """What is subtracted from the losses `[n]` before they are weighed."""
        return 0.0

    @property
    def classifies(self) -> bool:
        """Whether targets are classes."""
        return self.loss == "logistic"

    def classes_of(self, table: Table) -> np.ndarray | None:
        """The classes `[c]` to learn; None for numbers.

        Raises:
            UsageError: there is only one, or the targets are measurements.
        """
        return classes_in(table) if self.classifies else None

    def problem(self, table: Table) -> Problem:
        """The finite sum over the rows of a table.

        Raises:
            UsageError: one row, or targets that the loss cannot take.
        """
        check_several(table)
        classes = self.classes_of(table)
        mu = np.full((table.X.shape[1] + self.fit_intercept, 1), self.l2 / len(table))
        X = np.hstack([table.X, np.ones((len(table), 1))]) if self.fit_intercept else table.X
        if self.fit_intercept:
            mu[-1] = 0.0
        outputs = 1 if classes is None or len(classes) == 2 else len(classes)
        loss = loss_of(self.loss, None if classes is None else len(classes))
        return Problem(X, encoded(table, classes), outputs, loss, self.ambiguity_of(len(table)), mu, self.offset(table))

    def chosen_solver(self) -> str:
        """The solver that runs. For linear models L-BFGS comes closer in the same time, at kinks of the risk too."""
        return "lbfgs" if self.solver == "auto" else self.solver

    def objective(self) -> str:
        """The objective as a formula."""
        classes = " (log-sum-exp for more classes)" if self.classifies else ""
        paid = "" if self.l2 == 0 else f" + ½·{self.l2:g}/n·‖w‖²"
        return f"minimise {self.risk_formula()}{paid},  ℓ_i = {NAMES[self.loss].formula}{classes}"

    def steps(self) -> list[str]:
        """An epoch in words."""
        name = self.chosen_solver()
        size = (
            "the step size is 1/(3·nσ·L)" if self.learning_rate is None else f"the step size is {self.learning_rate:g}"
        )
        lines = [f"{name}: {SOLVERS[name].words}"]
        return [*lines, size] if SOLVERS[name].has_step else [*lines, "an iteration counts as an epoch"]

    def algorithm(self) -> list[str]:
        """The lines of `explain`."""
        return self.steps()

    @property
    def pace(self) -> int:
        """Epochs per iteration."""
        return 1

    def gradient_steps(self, total_steps: int) -> float:
        """Gradient steps that a compiler could fuse: there are none."""
        return 0.0

"""A run of a method on a finite sum, for one or several seeds; an iteration is an epoch.

`surefoot train SLUG --data DATA --steps EPOCHS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.loops.common.kinds import Loop
from surefoot.loops.common.measures import by_group, measures, tail_mean
from surefoot.loops.common.states import check_fits
from surefoot.loops.common.tables import HELP, TableOptions, described, measured_on, parts, resolved
from surefoot.loops.finite_sum.method import FiniteSum
from surefoot.loops.finite_sum.solvers import SOLVERS, State
from surefoot.models.linear_model import LinearModel
from surefoot.seeding import numpy_stream


class FiniteSumLearner:
    """The states of one run of a method on a table, one a seed; `iterate()` takes each through an epoch."""

    def __init__(self, method: FiniteSum, table: Table, seeds: Sequence[int], held_out: Table | None = None) -> None:
        self.method, self.table, self.held_out = method, table, held_out
        self.seeds, self.iteration = list(seeds), 0
        self.problem, self.classes = method.problem(table), method.classes_of(table)
        self.solver = SOLVERS[method.chosen_solver()]
        self.states = [self.solver.start(self.problem) for _ in self.seeds]
        if held_out is not None:
            measures(self.agent(), held_out)  # refuses a class that the rows to learn from do not have

    @property
    def steps(self) -> int:
        """Epochs so far."""
        return self.iteration

    def iterate(self) -> list[dict[str, Any]]:
        """One epoch of every seed; returns one row of metrics per seed."""
        size = self.method.learning_rate or self.problem.step_size()
        for place, seed in enumerate(self.seeds):
            state, samples = self.states[place], self._samples(seed)
            with np.errstate(all="ignore"):  # `lost` finds what is not finite
                self.states[place] = self.solver.epoch(self.problem, state, samples, size, self.method.batch_size)
        self.iteration += 1
        with np.errstate(all="ignore"):
            return [self._row(place) for place in range(len(self.seeds))]

    def _samples(self, seed: int) -> np.ndarray:
        """The samples of an epoch `[n]`: a permutation for batches, else drawn with replacement."""
        stream, n = numpy_stream(seed, "samples", self.iteration), len(self.table)
        return stream.permutation(n) if self.solver.permutes else stream.integers(n, size=n)

    def _row(self, place: int) -> dict[str, Any]:
        """The metrics after an epoch. The return is minus the objective, so that more is better as everywhere."""
        point = self.problem.at(self.states[place]["W"])
        losses = point.losses + self.problem.offset
        row = {"objective": point.objective, "return_mean": -point.objective, "loss": float(losses.mean())}
        row |= {"tail_loss": tail_mean(losses), "grad_norm": float(np.linalg.norm(point.gradient))}
        row |= {"effective_samples": 1 / float(np.sum(point.q**2)), "passes": self.iteration * self.solver.passes}
        row |= {f"loss/{group}": value for group, value in by_group(losses, self.table).items()}
        if self.held_out is not None:
            row |= {f"held_out_{name}": x for name, x in measures(self.agent(place), self.held_out).items()}
        return row

    def state(self) -> dict[str, Tensor]:
        """The tensors of all seeds by name."""
        pairs = zip(self.seeds, self.states, strict=True)
        return {f"{seed}/{name}": torch.tensor(x) for seed, state in pairs for name, x in state.items()}

    def load(self, state: Mapping[str, Tensor], iteration: int, logged: int) -> None:
        """Load a saved state.

        Raises:
            UsageError: tensors are missing, unknown, or of another type or shape.
        """
        check_fits(self.state(), state, lambda x: (x.dtype, x.shape))
        self.states = [{n: state[f"{seed}/{n}"].numpy().copy() for n in mine} for seed, mine in self._pairs()]
        self.iteration = iteration

    def _pairs(self) -> list[tuple[int, State]]:
        return list(zip(self.seeds, self.states, strict=True))

    def lost(self) -> list[int]:
        """The seeds whose state is not finite."""
        return [seed for seed, state in self._pairs() if not all(np.isfinite(x).all() for x in state.values())]

    def flush(self) -> int:
        """Nothing is logged besides the checkpoints."""
        return 0

    def close(self) -> None:
        """Nothing is held open."""

    def agent(self, index: int = 0, **facts: Any) -> LinearModel:
        """The model of one seed."""
        W = self.states[index]["W"]
        coef, intercept = W.T, np.zeros(W.shape[1])
        if self.method.fit_intercept:
            coef, intercept = coef[:, :-1], coef[:, -1]
        return LinearModel(coef.copy(), intercept.copy(), self.method.loss, self.classes, facts)

    def results(self, index: int = 0) -> dict[str, Any]:
        """What an estimator shows after its fit, by name without the final underscore.

        weights: `[n]`, who counts how much at the end, summing to one; objective: its value.
        """
        point, model = self.problem.at(self.states[index]["W"]), self.agent(index)
        single = len(model.coef) == 1 and self.classes is None
        found = {"weights": point.q, "objective": point.objective, "solver": self.method.chosen_solver()}
        found |= {"coef": model.coef[0] if single else model.coef, "n_iter": self.iteration}
        return found | {"intercept": float(model.intercept[0]) if single else model.intercept}


# --- connecting a run and its table ----------------------------------------------------------------------------------


def _learner(
    method: FiniteSum,
    env: Any,
    seeds: Sequence[int],
    steps: int,
    *,
    compile: str = "off",
    log: Path | None = None,
    fingerprint: str | None = None,
    **options: Any,
) -> FiniteSumLearner:
    if compile == "on":
        raise UsageError(f"compile='on' is not allowed: {type(method).__name__} has no gradient step to compile.")
    given = TableOptions(**options)
    table, held_out = parts(resolved(env, fingerprint, given), given)
    return FiniteSumLearner(method, table, seeds, held_out)


LOOP = Loop(
    described,
    _learner,
    measured_on,
    measured="epochs",
    env_argument="data",
    env_help=HELP,
    options=TableOptions,
)

"""Attacks on the rows that a model of tables sees: along its gradient where it has one, or by search. Labels stay."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.perturbations.ascent import Damage, Moves, ascend, spread, steepest
from surefoot.perturbations.core import Graded, register
from surefoot.perturbations.interval import Interval

UNITS = ("deviation", "range", "one")


@dataclasses.dataclass(frozen=True)
class InputAttack(Graded):
    """The base: each row moves within a ball, by itself."""

    channel = "input"
    strength: float | Interval = hyperparameter(0.1, low=0, high=1e6, help="radius of the ball, in units")
    law: str = hyperparameter("linf", choices=("linf", "l2"), help="norm of the ball")
    unit: str = hyperparameter(
        "deviation", choices=UNITS, help="of a feature: its deviation in the data, the range of all features, or 1"
    )

    def units(self, X: np.ndarray) -> np.ndarray:
        """The unit of every feature `[d]`. One that never changes has the deviation 0, and is not attacked."""
        d = X.shape[1]
        return {"deviation": X.std(0), "range": np.full(d, np.ptp(X)), "one": np.ones(d)}[self.unit]

    def moves(self, damage: Damage, start: Moves, generator: torch.Generator) -> Moves:
        """Moves from `start` that do more damage, in units; `damage` has a gradient if the attack needs one."""
        raise NotImplementedError

    def radius(self, x: Tensor) -> Tensor:
        """The radius of every row, `[rows]`."""
        return torch.full((len(x),), float(self.fixed), dtype=x.dtype)

    def check_env(self, env: gymnasium.Env) -> None:
        raise UsageError(
            f"{self} moves the rows of a table, and there are none in an environment; attack what a policy sees with "
            f"obs-pgd:{self.strength}, or give data=(X, y)."
        )


@register
@dataclasses.dataclass(frozen=True)
class InputSearch(InputAttack):
    """The worst of several random moves, of which each changes fewer features of the worst so far: it asks the model
    for its predictions only."""

    name = "input-search"
    tries: int = hyperparameter(100, low=1, high=100_000, help="moves that are tried on every row")

    def moves(self, damage: Damage, start: Moves, generator: torch.Generator) -> Moves:
        (key, x), *_ = start.items()
        radius, best, highest = spread(self.radius(x), x), x, damage(start)
        for turn in range(self.tries):
            drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            share = max(0.5 ** (8 * turn / self.tries), 1 / x[0].numel())  # of the features that change
            change = torch.rand(x.shape, generator=generator) < share
            tried = radius * steepest(torch.where(change, drawn, best), self.law)
            found = damage({key: tried})
            better = found > highest
            best, highest = torch.where(spread(better, x), tried, best), torch.where(better, found, highest)
        return {key: best}


@register
@dataclasses.dataclass(frozen=True)
class InputPGD(InputAttack):
    """Projected ascent on the loss along its gradient; of a model without one, `input-search`."""

    name = "input-pgd"
    steps: int = hyperparameter(20, low=1, high=10_000, help="steps of ascent; 1 is FGSM")

    def moves(self, damage: Damage, start: Moves, generator: torch.Generator) -> Moves:
        ((key, x),) = start.items()
        drawn = {key: steepest(torch.randn(x.shape, generator=generator, dtype=x.dtype), self.law)}
        return ascend(damage, {key: drawn[key] * 1e-3}, self.radius(x), self.law, self.steps)

    def without_gradient(self) -> InputSearch:
        """What is done to a model that has no gradient."""
        return InputSearch(self.strength, self.law, self.unit)

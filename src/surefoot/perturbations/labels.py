"""Perturbations of labelled pairs: what a method is told about them, and whose they are. They act on examples, not in
environments.
"""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.perturbations.core import Graded, register
from surefoot.perturbations.interval import Interval
from surefoot.seeding import MAX_SEED, numpy_stream


@register
@dataclasses.dataclass(frozen=True)
class LabelFlip(Graded):
    """Of every pair the chosen and the rejected answer change places with probability `strength`.

    Whether a pair is turned depends on its number and the seed alone: it is the same in every epoch and every run, and
    what is turned at one strength is turned at any higher one.
    """

    name = "label-flip"
    channel = "label"
    strength: float | Interval = hyperparameter(0.1, low=0, high=1, help="probability of a turned pair")
    seed: int = hyperparameter(0, low=0, high=MAX_SEED, help="random seed of the pairs that are turned")

    def __post_init__(self) -> None:
        if isinstance(self.seed, float) and self.seed.is_integer():
            object.__setattr__(self, "seed", int(self.seed))
        super().__post_init__()

    def turned(self, index: int) -> bool:
        """Whether the pair of this number is turned."""
        return bool(numpy_stream(self.seed, self.name, index).random() < self.fixed)

    def check_env(self, env: gymnasium.Env) -> None:
        raise UsageError(
            f"{self} turns the labels of pairs, and there are none in an environment; use it with a method on pairs, "
            "such as surefoot train dpo --task pairs.jsonl --corrupt label-flip:0.2."
        )


@register
@dataclasses.dataclass(frozen=True)
class GroupShift(Graded):
    """Of the pairs that a model meets, a share `strength` is drawn from one group alone, the others as before.

    Groups are named by the column `group`. Nothing is trained again: held-out pairs of that group count for more.
    """

    name = "group-shift"
    channel = "label"
    strength: float | Interval = hyperparameter(1.0, low=0, high=1, help="share of pairs of that group alone")
    group: str = hyperparameter("", help="the group; by default the one in which a model does worst")

    def weights(self, inside: np.ndarray) -> np.ndarray:
        """The weight of every pair, of mean 1, given which are of the group."""
        return (1 - self.fixed) + self.fixed * inside / inside.mean()

    def check_env(self, env: gymnasium.Env) -> None:
        raise UsageError(
            f"{self} shifts the groups of held-out pairs, and there are none in an environment; use it with a run that "
            "learned from pairs with a column group, such as surefoot stress RUN --perturb group-shift."
        )

"""Perturbations of rewards, seen by a learner. They do not change a policy's return, so `stress` refuses them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from surefoot.hyperparameters import hyperparameter
from surefoot.perturbations.core import Batched, register
from surefoot.perturbations.interval import Interval


class RewardPerturbation(Batched):
    """Element by element on a batch of rewards of any shape."""

    channel = "reward"

    def pay(self, reward: Any, rng: np.random.Generator) -> Any:
        return reward if self.identity else float(self.alter(np.array([reward], np.float64), rng)[0])


@register
@dataclasses.dataclass(frozen=True)
class RewardNoise(RewardPerturbation):
    """Gaussian noise on every reward."""

    name = "reward-noise"
    strength: float | Interval = hyperparameter(0.1, low=0, help="standard deviation")

    def alter(self, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return (array + self.fixed * rng.standard_normal(array.shape)).astype(array.dtype)


@register
@dataclasses.dataclass(frozen=True)
class RewardFlip(RewardPerturbation):
    """The sign of a reward is flipped with probability `strength`."""

    name = "reward-flip"
    strength: float | Interval = hyperparameter(0.1, low=0, high=1, help="probability of a flipped sign")

    def alter(self, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.where(rng.random(array.shape) < self.fixed, -array, array)


@register
@dataclasses.dataclass(frozen=True)
class RewardShift(RewardPerturbation):
    """A constant is added to every reward."""

    name = "reward-shift"
    strength: float | Interval = hyperparameter(0.1, help="constant that is added")

    def alter(self, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return (array + self.fixed).astype(array.dtype)

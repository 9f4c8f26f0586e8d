"""What the policy sees: noise, dropout, delay."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.models.networks import MASK_KEY
from surefoot.perturbations.core import Batched, Graded, register
from surefoot.perturbations.interval import Interval

LAWS = ("gaussian", "linf", "l2")


def noise(shape: tuple[int, ...], strength: float, law: str, rng: np.random.Generator) -> np.ndarray:
    """Noise `[batch, ...]` in float64: Gaussian of standard deviation `strength`, or uniform in a ball of that radius.

    The balls, "linf" and "l2", are per batch row, over all its other axes.
    """
    if law == "gaussian":
        return strength * rng.standard_normal(shape)
    if law == "linf":
        return rng.uniform(-strength, strength, shape)
    direction = rng.standard_normal((shape[0], int(np.prod(shape[1:]))))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = strength * rng.random((shape[0], 1)) ** (1 / direction.shape[1])
    return (radius * direction).reshape(shape)


def add(array: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """`array + delta` in the array's type; for whole numbers `delta` is cut towards zero, so its norm stays bounded."""
    if np.issubdtype(array.dtype, np.integer):
        limits = np.iinfo(array.dtype)
        return np.clip(array + np.trunc(delta), limits.min, limits.max).astype(array.dtype)
    return (array + delta).astype(array.dtype)


class ObservationPerturbation(Batched):
    channel = "observation"

    def check_env(self, env: gymnasium.Env) -> None:
        if not isinstance(env.observation_space, spaces.Box):
            raise UsageError(
                f"{self} needs a Box observation space; this environment has {env.observation_space}. What fits every"
                " environment is observation-delay; sticky-action, action-delay and action-random fit most."
            )

    def observe(self, observation: Any, rng: np.random.Generator, memory: list[Any]) -> Any:
        return observation if self.identity else self.alter(np.asarray(observation)[None], rng)[0]


@register
@dataclasses.dataclass(frozen=True)
class ObservationNoise(ObservationPerturbation):
    """Fresh noise on every observation, in the observation's units."""

    name = "observation-noise"
    strength: float | Interval = hyperparameter(0.1, low=0, help="standard deviation (gaussian) or radius (linf, l2)")
    law: str = hyperparameter("gaussian", choices=LAWS, help="Gaussian, or uniform in an l-infinity or l2 ball")

    def alter(self, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return add(array, noise(array.shape, self.fixed, self.law, rng))


@register
@dataclasses.dataclass(frozen=True)
class ObservationDropout(ObservationPerturbation):
    """Every component reads zero with probability `strength`, independently at every step."""

    name = "observation-dropout"
    strength: float | Interval = hyperparameter(0.1, low=0, high=1, help="probability that a component reads zero")

    def alter(self, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.where(rng.random(array.shape) < self.fixed, np.zeros((), array.dtype), array)


@register
@dataclasses.dataclass(frozen=True)
class ObservationDelay(Graded):
    """The policy sees the observation of `strength` steps ago, and the first one until then; which actions are allowed
    it knows at once."""

    name = "observation-delay"
    channel = "observation"
    whole = True
    strength: float | Interval = hyperparameter(1, low=0, help="delay in steps")

    def observe(self, observation: Any, rng: np.random.Generator, memory: list[Any]) -> Any:
        memory.append(copy.deepcopy(observation))
        late = memory.pop(0) if len(memory) > self.fixed else copy.deepcopy(memory[0])
        return {**late, MASK_KEY: observation[MASK_KEY]} if isinstance(late, dict) and MASK_KEY in late else late

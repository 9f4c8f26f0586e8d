"""Perturbations of observations: noise, dropout, lost frames, delay."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import hyperparameter
from surefoot.models.spaces import MASK_KEY
from surefoot.perturbations.core import Batched, Graded, Perturbation, register
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


def add(array: np.ndarray, delta: np.ndarray, law: str) -> np.ndarray:
    """`array + delta` in the array's type, within its limits.

    For integers and booleans Gaussian noise is rounded to the nearest, so that its standard deviation is the requested
    one (for small ones √(σ² + 1/12), averaged over positions); in the balls it is truncated towards zero, so that its
    norm stays bounded.
    """
    if array.dtype.kind == "f":
        return (array + delta).astype(array.dtype)
    limits = (0, 1) if array.dtype.kind == "b" else (np.iinfo(array.dtype).min, np.iinfo(array.dtype).max)
    return np.clip(array + (np.rint if law == "gaussian" else np.trunc)(delta), *limits).astype(array.dtype)


def within(array: np.ndarray, change: np.ndarray) -> np.ndarray:
    """`array + change` in the array's type, in no component farther from `array` than the change is large."""
    if array.dtype.kind != "f":
        return add(array, change, "linf")
    moved = (array + change).astype(array.dtype)
    far = np.abs(moved.astype(np.float64) - array) > np.abs(change)
    return np.where(far, np.nextafter(moved, array), moved)


def boxes(space: gymnasium.Space) -> list[str]:
    """The Box entries of a Dict space, without the mask of allowed actions."""
    if not isinstance(space, spaces.Dict):
        return []
    return [key for key, one in space.spaces.items() if isinstance(one, spaces.Box) and key != MASK_KEY]


def check_boxes(perturbation: Perturbation, keys: str, space: gymnasium.Space) -> None:
    """Raise `UsageError` unless `space` is a Box, or a Dict with one, and `keys` names Boxes of it."""
    if keys and (unknown := sorted({*keys.split("/")} - {*boxes(space)})):
        raise UsageError(
            f"{perturbation}: {unknown[0]!r} is no Box entry of the environment's observations. "
            f"{nearest(unknown[0], boxes(space))}"
        )
    if not isinstance(space, spaces.Box) and not boxes(space):
        raise UsageError(
            f"{perturbation} needs a Box observation space, or a Dict with one; this environment has {space}. "
            "observation-delay fits every environment; sticky-action, action-delay and action-random fit most."
        )


def in_boxes(change: Callable[[str, Any, Any], Any], observation: Any, space: gymnasium.Space, keys: str) -> Any:
    """The observation after `change(key, entry, box)` of the Box that it is (key ""), or of those of a Dict that `keys`
    names, all by default."""
    if not isinstance(space, spaces.Dict):
        return change("", observation, space)
    names = keys.split("/") if keys else boxes(space)
    return {**observation, **{key: change(key, observation[key], space[key]) for key in names}}


class ObservationPerturbation(Batched):
    """Base of perturbations of a Box, or of every Box of a Dict separately, or of those that `keys` names."""

    channel = "observation"
    keys: str

    def check_env(self, env: gymnasium.Env) -> None:
        check_boxes(self, self.keys, env.observation_space)

    def observe(self, observation: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        if self.identity:
            return observation
        return in_boxes(lambda key, given, box: self._altered(given, box, rng), observation, space, self.keys)

    def _altered(self, observation: Any, space: gymnasium.Space, rng: np.random.Generator) -> np.ndarray:
        return self.alter(np.asarray(observation, space.dtype)[None], rng)[0]  # an environment may return integers


def masked_now(late: Any, observation: Any) -> Any:
    """A late observation with the mask of the actions that are allowed now."""
    return {**late, MASK_KEY: observation[MASK_KEY]} if isinstance(late, dict) and MASK_KEY in late else late


KEYS = "entries of a Dict observation, separated by /; all of its boxes if not given"


@register
@dataclasses.dataclass(frozen=True)
class ObservationNoise(ObservationPerturbation):
    """Fresh noise on every observation, in the observation's units; for a Dict, on each Box separately."""

    name = "observation-noise"
    strength: float | Interval = hyperparameter(0.1, low=0, help="standard deviation (gaussian) or radius (linf, l2)")
    law: str = hyperparameter("gaussian", choices=LAWS, help="Gaussian, or uniform in an l-infinity or l2 ball")
    _: dataclasses.KW_ONLY
    keys: str = hyperparameter("", help=KEYS)

    def alter(self, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return add(array, noise(array.shape, self.fixed, self.law, rng), self.law)


@register
@dataclasses.dataclass(frozen=True)
class RelativeNoise(ObservationPerturbation):
    """Gaussian noise on every component in units of its own standard deviation since the episode began, so that one
    strength fits sensors of any unit; a component that has been constant is not changed. In a batch, of its rows."""

    name = "relative-noise"
    strength: float | Interval = hyperparameter(0.1, low=0, help="standard deviation in units of the component's own")
    _: dataclasses.KW_ONLY
    keys: str = hyperparameter("", help=KEYS)

    def observe(self, observation: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        if not memory:
            memory.append({})
        if not isinstance(space, spaces.Dict):
            return self._noisy("", observation, space, rng, memory[0])
        keys = self.keys.split("/") if self.keys else boxes(space)
        noisy = {key: self._noisy(key, observation[key], space[key], rng, memory[0]) for key in keys}
        return {**observation, **noisy}

    def _noisy(self, key: str, given: Any, space: gymnasium.Space, rng: np.random.Generator, seen: dict) -> Any:
        array = np.asarray(given, space.dtype)
        count, mean, squares = seen.get(key, (0, 0.0, 0.0))  # Welford's running sums
        away = array.astype(np.float64) - mean
        mean = mean + away / (count + 1)
        squares = squares + away * (array - mean)
        seen[key] = count + 1, mean, squares
        noise = rng.standard_normal(array.shape)
        return given if self.identity else add(array, self.fixed * np.sqrt(squares / (count + 1)) * noise, "gaussian")

    def alter(self, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return add(array, self.fixed * array.std(axis=0) * rng.standard_normal(array.shape), "gaussian")


@register
@dataclasses.dataclass(frozen=True)
class FrameDrop(ObservationPerturbation):
    """The whole observation reads zero with probability `strength`; for a Dict, each Box separately."""

    name = "frame-drop"
    strength: float | Interval = hyperparameter(0.1, low=0, high=1, help="probability that an observation reads zero")
    _: dataclasses.KW_ONLY
    keys: str = hyperparameter("", help=KEYS)

    def alter(self, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        lost = rng.random((len(array), *[1] * (array.ndim - 1))) < self.fixed
        return np.where(lost, np.zeros((), array.dtype), array)


@register
@dataclasses.dataclass(frozen=True)
class ObservationDropout(ObservationPerturbation):
    """Every component reads zero with probability `strength`, independently at every step."""

    name = "observation-dropout"
    strength: float | Interval = hyperparameter(0.1, low=0, high=1, help="probability that a component reads zero")
    _: dataclasses.KW_ONLY
    keys: str = hyperparameter("", help=KEYS)

    def alter(self, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.where(rng.random(array.shape) < self.fixed, np.zeros((), array.dtype), array)


@register
@dataclasses.dataclass(frozen=True)
class ObservationDelay(Graded):
    """The policy sees the observation of `strength` steps ago, and the first one until then; masks of allowed actions
    are not delayed."""

    name = "observation-delay"
    channel = "observation"
    whole = True
    strength: float | Interval = hyperparameter(1, low=0, help="delay in steps")

    def observe(self, observation: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        memory.append(copy.deepcopy(observation))
        return masked_now(memory.pop(0) if len(memory) > self.fixed else copy.deepcopy(memory[0]), observation)

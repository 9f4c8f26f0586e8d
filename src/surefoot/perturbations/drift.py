"""Perturbations that drift: limited in size and in how much they change from one step to the next (arXiv:2307.12062).

    ‖p_t‖ ≤ ε,    ‖p_t − p_{t−1}‖ ≤ rate·ε,    p = 0 before an episode's first step

With rate ≥ 2 they are not coupled in time. `drifted` moves by a command, `followed` towards a point; both reach the
same.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.perturbations.action import check_box
from surefoot.perturbations.core import Graded, register
from surefoot.perturbations.interval import Interval
from surefoot.perturbations.observation import KEYS, add, check_boxes, in_boxes

RATE = "largest change from one step to the next, as a share of the budget; 2 is no limit"


def drifted(previous: np.ndarray, command: np.ndarray, budget: float, rate: float) -> np.ndarray:
    """`clip(previous + rate·budget·command, ±budget)`, for a command in [−1, 1] (clipped to it) and a previous
    perturbation within the budget, which is in the maximum norm. A command has an effect wherever it can have one."""
    return np.clip(previous + rate * budget * np.clip(command, -1.0, 1.0), -budget, budget)


class Drift(Graded):
    """Base of random drifts: the commands are uniform in [−1, 1] and independent of one another."""

    strength: float | Interval
    rate: float

    def further_on(self, key: str, shape: tuple[int, ...], rng: np.random.Generator, memory: list[Any]) -> np.ndarray:
        """The next perturbation of an entry, which `memory` keeps."""
        if not memory:
            memory.append({})
        previous = memory[0].get(key, np.zeros(shape))
        memory[0][key] = drifted(previous, rng.uniform(-1.0, 1.0, shape), self.fixed, self.rate)
        return memory[0][key]


@register
@dataclasses.dataclass(frozen=True)
class ObservationDrift(Drift):
    """A sensor's error that drifts, in the observation's units; for a Dict, of each Box separately."""

    name = "observation-drift"
    channel = "observation"
    strength: float | Interval = hyperparameter(0.1, low=0, help="largest error of a component")
    rate: float = hyperparameter(0.2, low=0, help=RATE)
    _: dataclasses.KW_ONLY
    keys: str = hyperparameter("", help=KEYS)

    def check_env(self, env: gymnasium.Env) -> None:
        check_boxes(self, self.keys, env.observation_space)

    def observe(self, observation: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        if self.identity:
            return observation

        def seen(key: str, given: Any, box: gymnasium.Space) -> Any:
            array = np.asarray(given, box.dtype)
            return add(array, self.further_on(key, array.shape, rng, memory), "linf")

        return in_boxes(seen, observation, space, self.keys)


@register
@dataclasses.dataclass(frozen=True)
class ActionDrift(Drift):
    """An actuator's error that drifts, in halves of the width of its range; actions stay in their box."""

    name = "action-drift"
    channel = "action"
    strength: float | Interval = hyperparameter(0.2, low=0, help="largest error, in halves of the width of the range")
    rate: float = hyperparameter(0.2, low=0, help=RATE)

    def check_env(self, env: gymnasium.Env) -> None:
        check_box(self, env)
        if not env.action_space.is_bounded():  # type: ignore[attr-defined]
            raise UsageError(f"{self} needs a bounded Box action space; this environment has {env.action_space}.")

    def act(self, action: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        if self.identity:
            return action
        assert isinstance(space, spaces.Box)
        action = np.asarray(action)
        half = (space.high.astype(np.float64) - space.low) / 2
        moved = action + half * self.further_on("", action.shape, rng, memory)
        return np.clip(moved, np.minimum(space.low, action), np.maximum(space.high, action)).astype(action.dtype)

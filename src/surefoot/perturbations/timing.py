"""Perturbations of timing: slow and irregular control, repeated frames, delays that vary from step to step.

A step of the policy normally is one step of the environment. Here an action may be held for several, whose rewards add
up, and the policy sees the last observation only.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import gymnasium
import numpy as np

from surefoot.hyperparameters import hyperparameter
from surefoot.perturbations.action import check_idle, idle, refuse_masks
from surefoot.perturbations.core import Graded, register
from surefoot.perturbations.interval import Interval
from surefoot.perturbations.observation import masked_now


def up_to(most: float, rng: np.random.Generator) -> int:
    """A uniformly random whole number in [0, most]; the same draw gives a larger one for a larger `most`."""
    return int(rng.random() * (most + 1))


def newest_arrived(item: Any, delay: int, memory: list[Any]) -> Any:
    """Send an item that arrives `delay` steps from now; the newest one that has arrived, None if none has.

    Older items that arrive after a newer one are never returned.
    """
    memory[:] = [*((left - 1, sent) for left, sent in memory), (delay, item)]
    arrived = [i for i, (left, _) in enumerate(memory) if left <= 0]
    if not arrived:
        return None
    del memory[: arrived[-1]]
    return memory[0][1]


class Held(Graded):
    """Base of perturbations that hold an action for several steps of the environment."""

    channel = "timing"

    def check_env(self, env: gymnasium.Env) -> None:
        refuse_masks(self, env)


@register
@dataclasses.dataclass(frozen=True)
class Speed(Held):
    """The environment takes `strength` steps per action: the control loop is that many times too slow."""

    name = "speed"
    neutral = 1.0
    whole = True
    strength: float | Interval = hyperparameter(2, low=1, help="steps of the environment per action")

    def further(self, rng: np.random.Generator) -> int:
        return int(self.fixed) - 1


@register
@dataclasses.dataclass(frozen=True)
class SpeedJitter(Held):
    """Every action is held for 0 to `strength` further steps, uniformly at random: an irregular control loop."""

    name = "speed-jitter"
    whole = True
    strength: float | Interval = hyperparameter(1, low=0, help="most further steps of the environment per action")

    def further(self, rng: np.random.Generator) -> int:
        return up_to(self.fixed, rng)


@register
@dataclasses.dataclass(frozen=True)
class SpeedSpike(Held):
    """With probability `strength` an action is held for `steps` further steps: the controller stalls now and then."""

    name = "speed-spike"
    strength: float | Interval = hyperparameter(0.05, low=0, high=1, help="probability of a stall")
    steps: int = hyperparameter(5, low=1, help="further steps of the environment in a stall")

    def __post_init__(self) -> None:
        if isinstance(self.steps, float) and self.steps.is_integer():  # as the grammar reads numbers
            object.__setattr__(self, "steps", int(self.steps))
        super().__post_init__()

    def further(self, rng: np.random.Generator) -> int:
        return self.steps if rng.random() < self.fixed else 0


@register
@dataclasses.dataclass(frozen=True)
class FrameRepeat(Graded):
    """With probability `strength` the policy sees the previous frame again; masks of allowed actions are current."""

    name = "frame-repeat"
    channel = "observation"
    strength: float | Interval = hyperparameter(0.1, low=0, high=1, help="probability of seeing the previous frame")

    def observe(self, observation: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        seen = memory[0] if rng.random() < self.fixed and memory else copy.deepcopy(observation)
        memory[:] = [seen]
        return observation if self.identity else masked_now(copy.deepcopy(seen), observation)


@register
@dataclasses.dataclass(frozen=True)
class ObservationDelayJitter(Graded):
    """Every observation after the first arrives 0 to `strength` steps late, uniformly at random. The policy sees the
    newest that has arrived, which is at most `strength` steps old. Masks of allowed actions are not delayed."""

    name = "observation-delay-jitter"
    channel = "observation"
    whole = True
    strength: float | Interval = hyperparameter(1, low=0, help="longest delay in steps")

    def observe(self, observation: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        delay = up_to(self.fixed, rng) if memory else 0
        return masked_now(copy.deepcopy(newest_arrived(copy.deepcopy(observation), delay, memory)), observation)


@register
@dataclasses.dataclass(frozen=True)
class ActionDelayJitter(Graded):
    """Every action arrives 0 to `strength` steps late, uniformly at random. The newest that has arrived is executed;
    until one has, it is zero in a Box, or the first Discrete action."""

    name = "action-delay-jitter"
    channel = "action"
    whole = True
    strength: float | Interval = hyperparameter(1, low=0, help="longest delay in steps")

    def check_env(self, env: gymnasium.Env) -> None:
        check_idle(self, env)

    def act(self, action: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        if self.identity:
            return action
        executed = newest_arrived(copy.deepcopy(action), up_to(self.fixed, rng), memory)
        return idle(space) if executed is None else executed

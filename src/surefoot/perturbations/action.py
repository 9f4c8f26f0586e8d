"""Perturbations of actions: noise, random, mixed and repeated actions, delay, scaling.

They never move an action further out of a Box than the policy did.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.models.spaces import MASK_KEY
from surefoot.perturbations.core import Batched, Control, Graded, register
from surefoot.perturbations.interval import Interval
from surefoot.perturbations.observation import LAWS, add, noise, within


def refuse_masks(perturbation: Graded, env: gymnasium.Env) -> None:
    """Raise `UsageError` if steps allow only some actions, since a perturbed action might not be allowed."""
    if isinstance(env.observation_space, spaces.Dict) and MASK_KEY in env.observation_space.spaces:
        raise UsageError(
            f"{perturbation} executes actions that the policy did not choose, but {env.unwrapped} does not allow all "
            "actions at every step. Use a perturbation of observations, or param: for the dynamics."
        )


def idle(space: gymnasium.Space) -> Any:
    """The action of doing nothing: zero in a Box, as far as it is allowed, or the first Discrete action."""
    if isinstance(space, spaces.Discrete):
        return space.start
    assert isinstance(space, spaces.Box)
    return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)


def check_idle(perturbation: Graded, env: gymnasium.Env) -> None:
    """Raise `UsageError` if there is no `idle` action, or if steps allow only some actions."""
    if not isinstance(env.action_space, (spaces.Box, spaces.Discrete)):
        raise UsageError(
            f"{perturbation} needs a Box or Discrete action space; this environment has {env.action_space}."
        )
    refuse_masks(perturbation, env)


def check_box(perturbation: Graded, env: gymnasium.Env) -> None:
    """Raise `UsageError` if actions are not a Box."""
    if not isinstance(env.action_space, spaces.Box):
        raise UsageError(
            f"{perturbation} needs a Box action space; this environment has {env.action_space}. For discrete actions "
            "use action-random, sticky-action or action-delay."
        )


def chosen(space: gymnasium.Space, move: np.ndarray) -> Any:
    """The action that a move in [−1, 1]^n names: a point of a bounded Box, from bound to bound, or the Discrete action
    of the largest component."""
    if isinstance(space, spaces.Discrete):
        return int(space.start + np.argmax(move))
    assert isinstance(space, spaces.Box)
    share = (np.clip(move, -1.0, 1.0).reshape(space.shape) + 1.0) / 2.0
    return space.low * (1.0 - share) + space.high * share


class BoxAction(Batched):
    channel = "action"

    def check_env(self, env: gymnasium.Env) -> None:
        check_box(self, env)

    def act(self, action: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        if self.identity:
            return action
        assert isinstance(space, spaces.Box)
        action = np.asarray(action)
        altered = self.alter(action[None], rng)[0]
        return np.clip(altered, np.minimum(space.low, action), np.maximum(space.high, action)).astype(action.dtype)


@register
@dataclasses.dataclass(frozen=True)
class ActionNoise(BoxAction):
    """Fresh noise on every action, in the action's units, clipped to the action space."""

    name = "action-noise"
    strength: float | Interval = hyperparameter(0.1, low=0, help="standard deviation (gaussian) or radius (linf, l2)")
    law: str = hyperparameter("gaussian", choices=LAWS, help="Gaussian, or uniform in an l-infinity or l2 ball")

    def alter(self, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return add(array, noise(array.shape, self.fixed, self.law, rng), self.law)

    def control(self, env: gymnasium.Env) -> Control:
        """The adversary adds `strength` times its move; in an l2 ball, its move projected into the unit ball."""
        self.check_env(env)
        space = env.action_space
        assert isinstance(space, spaces.Box)
        if self.law == "gaussian":
            raise UsageError(
                f"{self}: Gaussian noise has no bound within which an adversary could choose; use law=linf."
            )

        def act(action: Any, move: np.ndarray, rng: np.random.Generator) -> Any:
            action, unit = np.asarray(action), np.clip(np.asarray(move, np.float64), -1.0, 1.0)
            if self.law == "l2":
                unit = unit / max(1.0, float(np.linalg.norm(unit)))
            moved = within(action, self.fixed * unit.reshape(action.shape))
            return np.clip(moved, np.minimum(space.low, action), np.maximum(space.high, action)).astype(action.dtype)

        return Control(math.prod(space.shape), act)


@register
@dataclasses.dataclass(frozen=True)
class ActionScale(BoxAction):
    """Every action is multiplied by `strength`: weak, strong or (below zero) reversed actuators."""

    name = "action-scale"
    neutral = 1.0
    strength: float | Interval = hyperparameter(0.5, low=-10, high=10, help="factor; 1 changes nothing")

    def alter(self, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return (array * self.fixed).astype(array.dtype)


@register
@dataclasses.dataclass(frozen=True)
class ActionMix(Graded):
    """The executed action is 1 - `strength` times the policy's plus `strength` times a uniformly random one.

    Each component moves by at most `strength` times the width of its own range. The noisy action of arXiv:1901.09184
    with a random adversary; action-random is the probabilistic one.
    """

    name = "action-mix"
    channel = "action"
    strength: float | Interval = hyperparameter(0.1, low=0, high=1, help="weight of a random action")

    def check_env(self, env: gymnasium.Env) -> None:
        check_box(self, env)
        if not env.action_space.is_bounded():  # type: ignore[attr-defined]
            raise UsageError(f"{self} needs a bounded Box action space; this environment has {env.action_space}.")

    def act(self, action: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        assert isinstance(space, spaces.Box)
        other, action = rng.uniform(space.low, space.high), np.asarray(action)
        mixed = (action + self.fixed * (other - action)).astype(action.dtype)
        return action if self.identity else mixed

    def control(self, env: gymnasium.Env) -> Control:
        """The adversary chooses the other action, from bound to bound (the noisy-action MDP of arXiv:1901.09184)."""
        self.check_env(env)
        space = env.action_space

        def act(action: Any, move: np.ndarray, rng: np.random.Generator) -> Any:
            action = np.asarray(action)
            return (action + self.fixed * (chosen(space, move) - action)).astype(action.dtype)

        return Control(math.prod(space.shape or ()), act)


@register
@dataclasses.dataclass(frozen=True)
class ActionRandom(Graded):
    """With probability `strength` a step executes a uniformly random action instead."""

    name = "action-random"
    channel = "action"
    strength: float | Interval = hyperparameter(0.1, low=0, high=1, help="probability of a random action")

    def check_env(self, env: gymnasium.Env) -> None:
        space = env.action_space
        if not isinstance(space, spaces.Discrete) and not (isinstance(space, spaces.Box) and space.is_bounded()):
            raise UsageError(f"{self} needs a Discrete or bounded Box action space; this environment has {space}.")
        refuse_masks(self, env)

    def act(self, action: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        replace = rng.random() < self.fixed
        if isinstance(space, spaces.Discrete):
            other = space.start + rng.integers(space.n)
        else:
            assert isinstance(space, spaces.Box)
            other = rng.uniform(space.low, space.high).astype(space.dtype)
        return other if replace else action

    def control(self, env: gymnasium.Env) -> Control:
        """The adversary chooses the other action (the probabilistic-action MDP of arXiv:1901.09184); of Discrete ones
        it names that of its move's largest component."""
        self.check_env(env)
        space = env.action_space

        def act(action: Any, move: np.ndarray, rng: np.random.Generator) -> Any:
            if rng.random() >= self.fixed:
                return action
            other = chosen(space, move)
            return other if isinstance(space, spaces.Discrete) else other.astype(space.dtype)

        return Control(int(space.n) if isinstance(space, spaces.Discrete) else math.prod(space.shape or ()), act)


@register
@dataclasses.dataclass(frozen=True)
class StickyAction(Graded):
    """With probability `strength` a step repeats the action executed before it (arXiv:1709.06009)."""

    name = "sticky-action"
    channel = "action"
    strength: float | Interval = hyperparameter(0.25, low=0, high=1, help="probability of repeating the last action")

    def check_env(self, env: gymnasium.Env) -> None:
        refuse_masks(self, env)

    def act(self, action: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        executed = memory[0] if rng.random() < self.fixed and memory else copy.deepcopy(action)
        memory[:] = [executed]
        return action if self.identity else executed


@register
@dataclasses.dataclass(frozen=True)
class ActionDelay(Graded):
    """An action is executed `strength` steps late; until then it is zero in a Box, or the first Discrete action."""

    name = "action-delay"
    channel = "action"
    whole = True
    strength: float | Interval = hyperparameter(1, low=0, help="delay in steps")

    def check_env(self, env: gymnasium.Env) -> None:
        check_idle(self, env)

    def act(self, action: Any, space: gymnasium.Space, rng: np.random.Generator, memory: list[Any]) -> Any:
        if self.identity:
            return action
        memory.append(copy.deepcopy(action))
        if len(memory) > self.fixed:
            return memory.pop(0)
        return idle(space)

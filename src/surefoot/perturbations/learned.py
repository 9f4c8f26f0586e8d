"""Attacks on observations by a learned adversary: an agent that was trained, by any method, in the environment that
`surefoot.evaluate.adversary.adversary_env` makes of a frozen policy and its environment."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.models.networks import Observation
from surefoot.perturbations.ascent import Moves, alignment, ascend, project, spread
from surefoot.perturbations.attacks import Attack, Damage, GradientAttack, Target, compared
from surefoot.perturbations.core import register

ADVERSARY = "folder of the adversary's agent"


@functools.lru_cache(8)
def _loaded(folder: str) -> Any:
    from surefoot.models.agent import Agent  # not earlier: it imports environments, which import perturbations

    return Agent.load(folder)


class LearnedAttack(Attack):
    """Base of attacks by an adversary, which sees the true observation, and with a `rate` also the change of the step
    before, in units; its most likely action commands the change."""

    adversary: str

    def sees(self, observation_space: spaces.Box) -> spaces.Box:
        """The observations of an adversary."""
        if self.rate is None:
            return observation_space
        if len(observation_space.shape) != 1:
            raise UsageError(f"{self} needs observations that are one vector, not {observation_space}; leave rate out.")
        return spaces.Box(-np.inf, np.inf, (2 * observation_space.shape[0],), np.float32)

    def commands(self, target: Target) -> spaces.Box:
        """The actions of an adversary of this policy."""
        raise NotImplementedError

    def check_adversary(self, target: Target) -> None:
        """Raise `UsageError` unless the adversary was trained against such a policy."""
        if not self.adversary:
            raise UsageError(
                f"{self} needs an adversary: train one in surefoot.evaluate.adversary.adversary_env(policy, env, "
                f"'{self}') and give the folder of its agent, {self.name}:{self.strength},adversary=RUN/agent."
            )
        found = _loaded(self.adversary)
        for name, theirs, ours in (
            ("observations", found.observation_space, self.sees(target.observation_space)),  # type: ignore[arg-type]
            ("actions", found.action_space, self.commands(target)),
        ):
            if theirs.shape != ours.shape:
                raise UsageError(
                    f"{self}: the adversary has {name} {theirs}, but one of {target.name} here has {ours}; it was "
                    "trained against another policy or in another environment."
                )
        if getattr(found.module, "core_state", 0):
            raise UsageError(f"{self}: the adversary is recurrent; train one without a core.")

    def opposed(self, target: Target) -> Attack:
        """This attack on a policy before there is an adversary: its unit decided. Raises `UsageError` as `aimed`."""
        if not isinstance(target.observation_space, spaces.Box):
            raise UsageError(f"{self} needs observations that are one Box, not {target.observation_space}.")
        return super().aimed(target)

    def aimed(self, target: Target) -> Attack:
        attack = self.opposed(target)
        self.check_adversary(target)
        return attack

    def seen(self, observation: np.ndarray, last: dict[str, np.ndarray] | None) -> np.ndarray:
        """What an adversary sees of a batch of observations and of the changes of the step before."""
        if self.rate is None:
            return observation
        before = np.zeros(observation.shape) if last is None else last[""]
        return np.concatenate([observation, before], -1).astype(np.float32)

    def strike(
        self,
        target: Target,
        observation: Any,
        state: Any,
        starts: np.ndarray,
        radius: np.ndarray,
        rngs: Mapping[int, np.random.Generator],
        last: dict[str, np.ndarray] | None = None,
        **more: Any,
    ) -> Any:
        """The same by a `command [batch, ...]`, by default the adversary's."""
        if "command" not in more:
            action, _ = _loaded(self.adversary).predict(self.seen(observation, last), deterministic=True)
            more["command"] = torch.as_tensor(np.asarray(action)).double()
        return super().strike(target, observation, state, starts, radius, rngs, last, **more)


@register
@dataclasses.dataclass(frozen=True)
class StateAdversary(LearnedAttack):
    """SA-RL (arXiv:2101.08452): the adversary's action, clipped to [−1, 1], times the budget is the change itself."""

    name = "obs-sa-rl"
    _: dataclasses.KW_ONLY
    adversary: str = hyperparameter("", help=ADVERSARY)

    def commands(self, target: Target) -> spaces.Box:
        return spaces.Box(-1, 1, target.observation_space.shape, np.float32)

    def moves(
        self,
        target: Target,
        see: Callable[[Moves], Observation],
        drawn: Moves,
        radius: Tensor,
        state: Any,
        starts: Any,
        command: Tensor,
    ) -> Moves:
        """The changes that `command [batch, ...]` says."""
        sizes = spread(radius, command)
        return {"": project(sizes * command.clamp(-1, 1), sizes, self.law)}


@register
@dataclasses.dataclass(frozen=True)
class ActionDirector(LearnedAttack, GradientAttack):
    """PA-AD (arXiv:2106.05087): the adversary names a direction in which the action shall move, and one step along the
    gradient of `alignment` finds the change that does it.

    The gradient is taken without a change, as in the published code for Atari: there it points where the action moves
    in the named direction. At a random point, as in the code for MuJoCo, the cosine's gradient is perpendicular to the
    change at that point, so the direction is followed only on average, and not at all by a single action. That code
    also lowers the cosine, which makes no difference to a director that is learned; here it rises.
    """

    name = "obs-pa-ad"
    _: dataclasses.KW_ONLY
    adversary: str = hyperparameter("", help=ADVERSARY)

    def commands(self, target: Target) -> spaces.Box:
        match target.action_space:
            case spaces.Discrete():
                size = int(target.action_space.n)
            case spaces.MultiDiscrete():
                size = int(target.action_space.nvec.sum())
            case spaces.MultiBinary():
                size = 2 * int(math.prod(target.action_space.shape))
            case _:
                size = math.prod(target.action_space.shape or ())
        return spaces.Box(-1, 1, (size,), np.float32)

    def damage(self, target: Target, clean: Observation, state: Any, starts: Any) -> Damage:
        direction = torch.ones(1, *self.commands(target).shape, dtype=torch.float64)
        return compared(functools.partial(alignment, direction), target, clean, state, starts)

    def moves(
        self,
        target: Target,
        see: Callable[[Moves], Observation],
        drawn: Moves,
        radius: Tensor,
        state: Any,
        starts: Any,
        command: Tensor,
    ) -> Moves:
        """The changes towards the direction `command [batch, dim]`."""
        clean = see({"": torch.zeros_like(drawn[""])})
        damage = compared(functools.partial(alignment, command), target, clean, state, starts)
        return ascend(lambda moves: damage(see(moves)), {"": torch.zeros_like(drawn[""])}, radius, self.law, 1)

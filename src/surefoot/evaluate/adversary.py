"""The environment in which an adversary of a frozen policy is trained: by any method, as any other environment.

env = adversary_env(victim, "Hopper-v5", "obs-sa-rl:0.075")
run = sf.train("ppo", env=env, steps=1_000_000)
sf.stress(victim, "Hopper-v5", f"obs-sa-rl:0..0.075,adversary={run.path}/agent")
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

from surefoot.envs import make_single
from surefoot.envs.entrance import rounded
from surefoot.errors import UsageError
from surefoot.evaluate.deployed import Deployment
from surefoot.evaluate.rollout import EnvLike, actor, decide, fitted
from surefoot.models.ensemble import Ensemble
from surefoot.perturbations import parse
from surefoot.perturbations.attacks import Attack, Target
from surefoot.perturbations.learned import LearnedAttack
from surefoot.seeding import numpy_stream


class AdversaryEnv(gymnasium.Wrapper):
    """An environment as the adversary of a policy knows it: it sees the true observation, and the last change where the
    attack has a rate; its action commands the change of what the policy sees, and its reward is the negative of the
    policy's."""

    def __init__(self, env: gymnasium.Env, target: Target, attack: LearnedAttack) -> None:
        super().__init__(env)
        self.target, self.attack, self._act = target, attack, actor(target.policy)
        self._inner: Any = env.observation_space
        self.action_space, self.observation_space = attack.commands(target), attack.sees(self._inner)
        self._rng = numpy_stream(0, "attack", 0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._rng = numpy_stream(seed, "attack", 0)
        self._true, self._state, self._starts = observation, None, np.ones(1, bool)
        self._last = {"": np.zeros((1, *self._inner.shape))}
        if isinstance(self.target.policy, Deployment):
            self.target.policy.begin(0, int(self._rng.integers(2**31)), fresh=True)
        return self._seen(), info

    def _seen(self) -> Any:
        """What the adversary sees now."""
        return self._true if self.attack.rate is None else self.attack.seen(self._batch(), self._last)[0]

    def _batch(self) -> np.ndarray:
        return np.asarray(self._true, rounded(self._inner).dtype)[None]

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The policy takes its most likely action on what it sees."""
        told = torch.as_tensor(np.asarray(action, np.float64))[None]
        radius, space = np.array([self.attack.fixed]), self.env.action_space
        now, rngs = (self._batch(), self._state, self._starts), {0: self._rng}
        seen = self.attack.strike(self.target, *now, radius, rngs, self._last, command=told)
        (chosen,), self._state = decide(self._act, seen, self._state, self._starts, True, space, False)
        self._starts = np.zeros(1, bool)
        chosen = int(chosen) if isinstance(space, gymnasium.spaces.Discrete) else np.asarray(chosen)
        self._true, reward, terminated, truncated, info = self.env.step(chosen)
        return self._seen(), -float(reward), terminated, truncated, info


def adversary_env(policy: Any, env: EnvLike, attack: Attack | str) -> Callable[[], gymnasium.Env]:
    """A factory of environments for training an adversary of `policy` in `env`.

    `attack` is obs-sa-rl or obs-pa-ad with a fixed strength. Raises `UsageError` for anything else, and for a policy
    that the attack does not fit.
    """
    found = parse(attack) if isinstance(attack, str) else attack
    if not isinstance(found, LearnedAttack) or found.identity or not isinstance(found.strength, (int, float)):
        raise UsageError(f"attack={str(attack)!r} is not allowed; give one fixed strength of obs-sa-rl or obs-pa-ad.")
    make_one = functools.partial(_made, policy, env, found)
    make_one().close()
    return make_one


def _made(policy: Any, env: EnvLike, attack: LearnedAttack) -> gymnasium.Env:
    policy, single = fitted(policy, make_single(env))
    policy = Deployment(policy, 1) if isinstance(policy, Ensemble) else policy
    target = Target(policy, single.observation_space, single.action_space)
    return AdversaryEnv(single, target, attack.opposed(target))  # type: ignore[arg-type]

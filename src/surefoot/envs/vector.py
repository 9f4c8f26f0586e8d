"""Vector environments in next-step auto-reset mode: what all backends share, and the in-process backend.

All backends have the same contract. The observation returned with `terminated | truncated` is the true last one of the
episode; the next `step` ignores that environment's action and returns its reset observation with reward 0. Every
returned array is fresh, so a caller may store it. Float observations and rewards are float32, images stay uint8,
discrete observations are integers (`envs.entrance`). Actions of a Box space are clipped to the box here, in the number
type that the environment declares (to the nearest whole number if that is an integer type), so that a caller stores the
action that it sampled. The `info` of a step has the numbers in the infos of the episodes that ended: arrays `[B]` by
name, and under the name prefixed by `_` which environments have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from surefoot.envs.entrance import Observation, begun, empty, figures, rounded, stepped, write
from surefoot.errors import UsageError
from surefoot.seeding import check_seed, derive

EnvFactory = Callable[[], gymnasium.Env]


class EnvError(RuntimeError):
    """An environment failed while running: the message names the environment, the call, the cause and what to do."""


def env_seeds(seed: int | Sequence[int], num_envs: int) -> list[int]:
    """One seed per environment: derived from an int, or the given sequence, whose length is checked."""
    if isinstance(seed, (int, np.integer)):
        return [derive(check_seed(seed), "env", i) for i in range(num_envs)]
    if not isinstance(seed, (Sequence, np.ndarray)) or isinstance(seed, (str, bytes)):
        raise UsageError(f"seed={seed!r} is not allowed; give one whole number, or {num_envs} of them.")
    if len(seed) != num_envs:
        raise UsageError(f"seed has {len(seed)} entries for num_envs={num_envs}; give one int, or exactly {num_envs}.")
    return [check_seed(s) for s in seed]


def fail(index: int, call: str, error: BaseException, where: str = "", step: int | None = None) -> NoReturn:
    """Raise an environment's error as an `EnvError` that names the environment, the call and the step."""
    if isinstance(error, UsageError):  # raised by one of Surefoot's wrappers; it says what to do
        raise error
    at = "" if step is None else f" at step {step}"
    raise EnvError(
        f"Environment {index}{where} failed in {call}(): {cause(error)}{at}. The fault is in the "
        "environment or in a wrapper around it; run it alone with the same seed and actions to find it."
    ) from error


def cause(error: BaseException) -> str:
    """The type of an exception and its text, if it has one."""
    return f"{type(error).__name__}: {text}" if (text := str(error).strip().rstrip(".")) else type(error).__name__


def clipped(actions: np.ndarray, box: spaces.Box) -> np.ndarray:
    """Actions within the bounds of their Box, in its type; the nearest whole numbers if that is an integer type."""
    within = np.clip(actions, box.low, box.high)
    return (within if box.dtype.kind == "f" else np.rint(within)).astype(box.dtype, copy=False)


class Envs(VectorEnv):
    """What all backends share: spaces, seeds for the first reset, clipping."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs: int, seeds: Sequence[int], observation: gymnasium.Space, action: gymnasium.Space):
        self.num_envs = num_envs
        self.single_observation_space = rounded(observation)
        self.single_action_space = rounded(action)
        if isinstance(action, spaces.Dict):
            raise UsageError(f"A Dict action space ({action}) is not supported; flatten it into one Box or Discrete.")
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seeds: Sequence[int] | None = seeds
        self._box = action if isinstance(action, spaces.Box) else None
        self._action_shape = (num_envs, *self.single_action_space.shape)  # type: ignore[misc]

    def _reset_seeds(self, seed: int | Sequence[int] | None) -> Sequence[int] | None:
        """The caller's seeds; or those given at creation, once; or none, so that the environments' generators
        continue."""
        if seed is not None:
            self._seeds = env_seeds(seed, self.num_envs)
        seeds, self._seeds = self._seeds, None
        return seeds

    def _legal(self, actions: Any) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != self._action_shape:
            raise UsageError(
                f"actions have shape {actions.shape}; {self._action_shape} is needed: one action per environment, each "
                f"in the space {self.single_action_space}."
            )
        if self._box is not None:
            return clipped(actions, self._box)
        return actions.astype(self.single_action_space.dtype, copy=False)


class SyncEnvs(Envs):
    """Environments stepped one after the other in this process.

    Leaner than `gymnasium.vector.SyncVectorEnv`: no deep copies, infos of ended episodes only, and one fresh array per
    step, in which each environment writes its row.
    """

    def __init__(self, factories: Sequence[EnvFactory], seeds: Sequence[int]):
        self.envs = [factory() for factory in factories]
        first = self.envs[0]
        super().__init__(len(self.envs), seeds, first.observation_space, first.action_space)
        self.render_mode = first.render_mode
        self._ended, self._steps = np.zeros(self.num_envs, bool), 0

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        seeds = self._reset_seeds(seed) or [None] * self.num_envs
        observations = empty(self.single_observation_space, self.num_envs)
        for i, env in enumerate(self.envs):
            try:
                write(
                    observations, i, begun(env.reset(seed=seeds[i], options=options))[0], self.single_observation_space
                )
            except Exception as error:
                fail(i, "reset", error)
        self._ended, self._steps = np.zeros(self.num_envs, bool), 0
        return observations, {}

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        legal, space, infos = self._legal(actions), self.single_observation_space, dict[str, Any]()
        if legal.ndim > 1:
            rows: Any = legal
        else:  # for a Discrete space, which is fastest on ints, or a Box without axes
            rows = legal.tolist() if self._box is None else [np.asarray(action) for action in legal]
        observations = empty(space, self.num_envs)
        rewards = np.zeros(self.num_envs, np.float32)
        terminated = np.zeros(self.num_envs, bool)
        truncated = np.zeros(self.num_envs, bool)
        ended = self._ended.tolist()
        for i, env in enumerate(self.envs):
            try:
                if ended[i]:
                    observation, _ = begun(env.reset())
                else:
                    observation, rewards[i], terminated[i], truncated[i], info = stepped(env.step(rows[i]))
                    if terminated[i] or truncated[i]:
                        infos = self._add_info(infos, figures(info), i)
                write(observations, i, observation, space)
            except Exception as error:
                fail(i, "reset" if ended[i] else "step", error, step=self._steps)
        self._ended = terminated | truncated
        self._steps += 1
        return observations, rewards, terminated, truncated, infos

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The attribute `name` of every (wrapped) environment, called with the arguments if it is callable."""
        found = [env.get_wrapper_attr(name) for env in self.envs]
        return tuple(f(*args, **kwargs) if callable(f) else f for f in found)

    def render(self) -> tuple[Any, ...]:
        return tuple(env.render() for env in self.envs)

    def close_extras(self, **kwargs: Any) -> None:
        for env in self.envs:
            env.close()

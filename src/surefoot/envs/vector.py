"""Vector environments in next-step auto-reset mode: what all backends share, and the one in this process.

All backends keep one contract. The observation that comes with `terminated | truncated` is the true last one of the
episode; the next `step` ignores that environment's action and returns its reset observation with reward 0. Every
returned array is fresh, so a caller may keep it. Float observations and rewards are float32 (an environment's float64
is rounded once, here), images stay uint8, discrete observations are integers. Actions of a Box space are clipped to
the box here, in the number type that the environment gave it, so that what a caller stores is what it sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from surefoot.errors import UsageError
from surefoot.seeding import check_seed, derive

Observation = Any  # an array [B, ...] or a (nested) dict of such arrays
EnvFactory = Callable[[], gymnasium.Env]


class EnvError(RuntimeError):
    """An environment broke while it ran: the message names the environment, the call, the cause and what to do."""


def env_seeds(seed: int | Sequence[int], num_envs: int) -> list[int]:
    """One seed an environment: derived from an int, or the given sequence itself once its length is checked."""
    if isinstance(seed, (int, np.integer)):
        return [derive(check_seed(seed), "env", i) for i in range(num_envs)]
    if not isinstance(seed, (Sequence, np.ndarray)) or isinstance(seed, (str, bytes)):
        raise UsageError(f"seed={seed!r} is not allowed; give one whole number, or {num_envs} of them.")
    if len(seed) != num_envs:
        raise UsageError(f"seed has {len(seed)} entries for num_envs={num_envs}; give one int, or exactly {num_envs}.")
    return [check_seed(s) for s in seed]


def rounded(space: gymnasium.Space) -> gymnasium.Space:
    """`space` with every float Box in float32; a `UsageError` for a kind of space that arrays cannot carry."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: rounded(inner) for name, inner in space.spaces.items()})
    if isinstance(space, spaces.Box) and space.dtype.kind == "f" and space.dtype != np.float32:
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    if isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return space
    raise UsageError(
        f"A space of type {type(space).__name__} ({space}) is not supported; allowed are Box, Discrete, MultiDiscrete, "
        "MultiBinary and, for observations, a Dict of these. Convert it with a gymnasium.ObservationWrapper first, or "
        "try the wrapper 'flatten'."
    )


def _empty(space: gymnasium.Space, n: int) -> Observation:
    if isinstance(space, spaces.Dict):
        return {name: _empty(inner, n) for name, inner in space.spaces.items()}
    return np.empty((n, *space.shape), space.dtype)  # type: ignore[misc]


def _write(out: Observation, index: int, observation: Any) -> None:
    if isinstance(out, dict):
        for name, inner in out.items():
            _write(inner, index, observation[name])
    elif np.shape(observation) != out.shape[1:]:  # which NumPy would spread over the row
        raise ValueError(f"the observation {observation!r} has shape {np.shape(observation)}, not {out.shape[1:]}")
    else:
        out[index] = observation


def _fits(observation: Any, space: gymnasium.Space) -> bool:
    if isinstance(space, spaces.Dict):
        return isinstance(observation, Mapping) and all(
            name in observation and _fits(observation[name], inner) for name, inner in space.spaces.items()
        )
    return np.shape(observation) == space.shape


def fail(index: int, call: str, error: BaseException, where: str = "") -> NoReturn:
    if isinstance(error, UsageError):  # of a wrapper of ours, which says what to do
        raise error
    raise EnvError(
        f"Environment {index}{where} failed in {call}(): {type(error).__name__}: {error}. The fault is in the "
        "environment or in a wrapper around it; run that one alone with the same seed and actions to find it."
    ) from error


def clipped(actions: np.ndarray, box: spaces.Box) -> np.ndarray:
    """Actions within the bounds of their Box, in its type."""
    return np.clip(actions, box.low, box.high).astype(box.dtype, copy=False)


class Envs(VectorEnv):
    """What all kinds share: spaces, seeds for the first reset, clipping."""

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
        """The caller's seeds; else the maker's, once; else none, and the environments' own generators go on."""
        if seed is not None:
            self._seeds = env_seeds(seed, self.num_envs)
        seeds, self._seeds = self._seeds, None
        return seeds

    def _legal(self, actions: Any) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != self._action_shape:
            raise UsageError(
                f"actions have shape {actions.shape}; {self._action_shape} is needed: one action an environment, each "
                f"of the space {self.single_action_space}."
            )
        return actions if self._box is None else clipped(actions, self._box)


class SyncEnvs(Envs):
    """Environments stepped one after the other in this process.

    Leaner than `gymnasium.vector.SyncVectorEnv`: no deep copies, no merging of infos (`info` is always empty), one
    fresh array a step that each environment writes its row into.
    """

    def __init__(self, factories: Sequence[EnvFactory], seeds: Sequence[int]):
        self.envs = [factory() for factory in factories]
        first = self.envs[0]
        super().__init__(len(self.envs), seeds, first.observation_space, first.action_space)
        self.render_mode = first.render_mode
        self._ended = np.zeros(self.num_envs, bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        seeds = self._reset_seeds(seed) or [None] * self.num_envs
        observations = _empty(self.single_observation_space, self.num_envs)
        for i, env in enumerate(self.envs):
            try:
                observation, _ = env.reset(seed=seeds[i], options=options)
                if not _fits(observation, self.single_observation_space):
                    raise ValueError(f"the observation {observation!r} is not of the space {env.observation_space}")
                _write(observations, i, observation)
            except Exception as error:
                fail(i, "reset", error)
        self._ended = np.zeros(self.num_envs, bool)
        return observations, {}

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        legal = self._legal(actions)
        rows = legal.tolist() if legal.ndim == 1 and self._box is None else legal  # Discrete envs are fastest on ints
        observations = _empty(self.single_observation_space, self.num_envs)
        rewards = np.zeros(self.num_envs, np.float32)
        terminated = np.zeros(self.num_envs, bool)
        truncated = np.zeros(self.num_envs, bool)
        ended = self._ended.tolist()
        for i, env in enumerate(self.envs):
            try:
                if ended[i]:
                    observation, _ = env.reset()
                else:
                    observation, rewards[i], terminated[i], truncated[i], _ = env.step(rows[i])
                _write(observations, i, observation)
            except Exception as error:
                fail(i, "reset" if ended[i] else "step", error)
        self._ended = terminated | truncated
        return observations, rewards, terminated, truncated, {}

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The attribute `name` of every (wrapped) environment, called with the arguments where it is callable."""
        found = [env.get_wrapper_attr(name) for env in self.envs]
        return tuple(f(*args, **kwargs) if callable(f) else f for f in found)

    def render(self) -> tuple[Any, ...]:
        return tuple(env.render() for env in self.envs)

    def close_extras(self, **kwargs: Any) -> None:
        for env in self.envs:
            env.close()


def check_finite(observation: Observation, reward: Any, first_step: int = 0) -> None:
    """Raise `UsageError` for the first observation or reward that is NaN or infinite.

    `reward` is `[B]` (one step) or `[T, B]` (a rollout), arrays or CPU tensors; `observation` has the same leading
    axes, or is a dict of such arrays. `first_step` is added to the step that the message names.
    """
    parts = observation if isinstance(observation, Mapping) else {"": observation}
    axes = np.ndim(reward)
    for name, values in [
        *((f"observation {n!r}" if n else "observation", v) for n, v in parts.items()),
        ("reward", reward),
    ]:
        values = np.asarray(values)
        if values.dtype.kind != "f":
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum()):  # one pass, no temporary; a sum that overflows falls through
                continue
        bad = np.argwhere(~np.isfinite(values))
        if not len(bad):
            continue
        where = tuple(int(k) for k in bad[0])
        step, env, component = (where[0] if axes == 2 else 0), where[axes - 1], where[axes:]
        raise UsageError(
            f"{name}{list(component) if component else ''} is {values[where]} in environment {env} at step "
            f"{first_step + step}: the environment produced a number that is not finite. Clip or scale it in the "
            "environment (a gymnasium.ObservationWrapper or RewardWrapper), or end the episode before it diverges."
        )

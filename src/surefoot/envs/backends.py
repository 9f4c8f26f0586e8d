"""The other backends: a process for each environment, EnvPool, and what a caller has made."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from surefoot.envs.vector import EnvError, EnvFactory, Envs, Observation, env_seeds, fail
from surefoot.errors import UsageError


def available_threads() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def converted(observation: Any, space: gymnasium.Space) -> Observation:
    """A batched observation in the types of `space` (a single-environment space)."""
    if isinstance(space, spaces.Dict):
        return {name: converted(observation[name], inner) for name, inner in space.spaces.items()}
    return np.asarray(observation, space.dtype)


def _first(observation: Observation) -> Any:
    """What the first environment of a batch has observed."""
    if isinstance(observation, dict):
        return {name: _first(inner) for name, inner in observation.items()}
    return observation[0]


class _Named(gymnasium.Wrapper):
    """In a worker process: turns what an environment raises into an `EnvError` that knows which one it was."""

    def __init__(self, env: gymnasium.Env, index: int):
        super().__init__(env)
        self._index = index

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        try:
            return self.env.reset(**kwargs)
        except Exception as error:
            fail(self._index, "reset", error)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            observation, reward, terminated, truncated, _ = self.env.step(action)
            return observation, reward, terminated, truncated, {}
        except Exception as error:
            fail(self._index, "step", error)


def _named(factory: EnvFactory, index: int, caller: int) -> gymnasium.Env:
    """What a worker makes. Signals that a terminal sends to all processes reach the caller alone, which ends the
    workers once it has written down what was learned."""
    if os.getpid() != caller and hasattr(os, "setpgid"):  # the caller makes one too, to see its spaces
        os.setpgid(0, 0)
    return _Named(factory(), index)


class ProcessEnvs(Envs):
    """Every environment in a process of its own (Gymnasium's `AsyncVectorEnv`): for slow ones.

    Handing a step over costs about 0.2 ms, so that it pays from about 0.3 ms a step on, given the processors.
    """

    def __init__(self, factories: Sequence[EnvFactory], seeds: Sequence[int]):
        self._workers = AsyncVectorEnv(
            [functools.partial(_named, f, i, os.getpid()) for i, f in enumerate(factories)], autoreset_mode="NextStep"
        )
        observation, action = self._workers.single_observation_space, self._workers.single_action_space
        try:
            super().__init__(len(factories), seeds, observation, action)
        except UsageError:
            self._workers.close()
            raise

    def _ask(self, call: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(self._workers, call)(*args, **kwargs)
        except (EOFError, ConnectionError, OSError) as error:
            self.close(terminate=True)
            dead = {i: p.exitcode for i, p in enumerate(self._workers.processes) if p.exitcode not in (0, -15)}
            raise EnvError(
                f"A worker process died during {call}(): environment index -> exit code {dead}. Memory running out is "
                "the usual cause; fewer environments, or backend='gymnasium', shows the reason in this process."
            ) from error
        except (EnvError, UsageError):
            self.close(terminate=True)
            raise

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        seeds = self._reset_seeds(seed)
        observation, _ = self._ask("reset", seed=None if seeds is None else list(seeds), options=options)
        return converted(observation, self.single_observation_space), {}

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self._ask("step", self._legal(actions))
        observation = converted(observation, self.single_observation_space)
        return observation, reward.astype(np.float32), terminated, truncated, {}

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return self._ask("call", name, *args, **kwargs)

    def close_extras(self, **kwargs: Any) -> None:
        try:
            self._workers.close(**kwargs)
        except (EOFError, ConnectionError):  # they are gone already, by a signal that all processes got
            self._workers.close(terminate=True)


class PoolEnvs(Envs):
    """EnvPool's C++ environments: the fastest where it has the environment, and the only one for its Atari games.

    EnvPool hands out fresh arrays, so that none is copied here. It reports a step that both terminates and reaches the
    time limit as truncated only.
    """

    def __init__(self, env_id: str, num_envs: int, seeds: Sequence[int], kwargs: Mapping[str, Any], threads: int):
        self._build = {"num_envs": num_envs, "num_threads": threads, **kwargs}
        self._id = env_id
        self._pool = self._make(seeds)
        super().__init__(num_envs, seeds, self._pool.observation_space, self._pool.action_space)
        self._seeds = None  # the pool has them

    def _make(self, seeds: Sequence[int]) -> Any:
        import envpool

        with warnings.catch_warnings():  # about bounds that its own spaces round
            warnings.simplefilter("ignore")
            try:
                pool: Any = envpool.make_gymnasium(self._id, seed=list(seeds), **self._build)
            except (ImportError, RuntimeError) as error:
                raise UsageError(f"env={self._id!r}: EnvPool cannot make it here: {error}") from error
            _ = pool.observation_space, pool.action_space
        return pool

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        seeds = self._reset_seeds(seed)
        if options:
            raise UsageError(f"options={options!r}: EnvPool environments take none; use backend='gymnasium'.")
        if seeds is not None:  # a pool is seeded when it is made
            self._pool.close()
            self._pool = self._make(seeds)
        observation, _ = self._pool.reset()
        return converted(observation, self.single_observation_space), {}

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        try:
            observation, reward, terminated, truncated, _ = self._pool.step(self._legal(actions))
        except RuntimeError as error:
            raise EnvError(f"EnvPool failed in step() of {self._id!r}: {error}.") from error
        observation = converted(observation, self.single_observation_space)
        return observation, np.asarray(reward, np.float32), np.asarray(terminated), np.asarray(truncated), {}

    def render(self) -> Any:
        return self._pool.render()

    def close_extras(self, **kwargs: Any) -> None:
        self._pool.close()


class PoolEnv(gymnasium.Env):
    """One environment that EnvPool alone has, for whoever needs it by itself: evaluations, perturbations, wrappers."""

    def __init__(self, env_id: str, render_mode: str | None = None, **kwargs: Any):
        from envpool.registration import registry

        if render_mode and registry.specs[env_id][0].startswith("envpool.mujoco"):
            raise UsageError(
                f"env={env_id!r} cannot be filmed: EnvPool draws it with OpenGL, and ends the process where there is "
                "none. Film an environment that Gymnasium has."
            )
        drawn = {} if render_mode is None else {"render_mode": render_mode}
        self._envs = PoolEnvs(env_id, 1, env_seeds(0, 1), {**kwargs, **drawn}, threads=1)
        self.observation_space, self.action_space = self._envs.single_observation_space, self._envs.single_action_space
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, _ = self._envs.reset(seed=None if seed is None else [seed], options=options)
        return _first(observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self._envs.step(np.asarray(action)[None])
        return _first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> Any:
        return self._envs.render()[0]

    def close(self) -> None:
        self._envs.close()


class ReadyEnvs(Envs):
    """A vector environment that a caller has made, held to what the others keep.

    Gymnasium's own ones take a seed for each environment; another is given the first of them alone.
    """

    def __init__(self, envs: VectorEnv, seeds: Sequence[int]):
        self._ready = envs
        super().__init__(envs.num_envs, seeds, envs.single_observation_space, envs.single_action_space)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        seeds: Any = self._reset_seeds(seed)
        if seeds is not None:
            each = isinstance(self._ready.unwrapped, (SyncVectorEnv, AsyncVectorEnv))
            seeds = list(seeds) if each else seeds[0]
        observation, _ = self._ready.reset(seed=seeds, options=options)
        return converted(observation, self.single_observation_space), {}

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self._ready.step(self._legal(actions))
        observation = converted(observation, self.single_observation_space)
        return observation, np.asarray(reward, np.float32), np.asarray(terminated), np.asarray(truncated), {}

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return self._ready.call(name, *args, **kwargs)  # type: ignore[attr-defined]

    def close_extras(self, **kwargs: Any) -> None:
        self._ready.close(**kwargs)

"""The other backends: one process per environment, EnvPool, and a caller's own vector environment."""

from __future__ import annotations

import functools
import multiprocessing
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from surefoot.envs.entrance import (
    Observation,
    batch_figures,
    batch_of_numbers,
    begun,
    converted,
    empty,
    figures,
    rounded,
    stepped,
    write,
)
from surefoot.envs.vector import EnvError, EnvFactory, Envs, cause, env_seeds, fail
from surefoot.errors import UsageError


def available_threads() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _first(observation: Observation) -> Any:
    """The observation of the first environment in a batch."""
    if isinstance(observation, dict):
        return {name: _first(inner) for name, inner in observation.items()}
    return observation[0]


class _Worker(gymnasium.Env):
    """The environment in a worker process, made at the first reset, so that a constructor that fails or hangs is
    reported like any other call. Errors are returned in `info["failure"]` rather than raised, because Gymnasium would
    print the worker's traceback.
    """

    def __init__(self, factory: EnvFactory, index: int, caller: int, observation: gymnasium.Space, action: Any):
        if os.getpid() != caller and hasattr(os, "setpgid"):
            # Workers ignore the signals that a terminal sends to all processes; the caller ends the workers once it
            # has saved its state.
            os.setpgid(0, 0)
        self._factory, self._index, self._env, self._steps = factory, index, None, 0
        self.observation_space, self.action_space = observation, action
        self._discrete = isinstance(action, spaces.Discrete)

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        step = None if arguments else self._steps  # without arguments it is the auto-reset after an episode
        self._steps = 0 if arguments else self._steps + 1
        try:
            if self._env is None:
                self._env = self._factory()
            return self._row(begun(self._env.reset(**arguments))[0]), {}
        except Exception as error:
            return self._blank(), self._failure("reset", error, step)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self._env is not None
        self._steps += 1
        try:
            answer = self._env.step(int(action) if self._discrete else np.asarray(action))
            observation, reward, terminated, truncated, info = stepped(answer)
            final = figures(info) if terminated or truncated else {}
            return self._row(observation), reward, terminated, truncated, final
        except Exception as error:
            return self._blank(), 0.0, False, False, self._failure("step", error, self._steps - 1)

    def _row(self, observation: Any) -> Any:
        batch = empty(self.observation_space, 1)
        write(batch, 0, observation, self.observation_space)
        return _first(batch)

    def _blank(self) -> Any:
        return _first(empty(self.observation_space, 1))

    def _failure(self, call: str, error: Exception, step: int | None) -> dict[str, Any]:
        try:
            fail(self._index, call, error, step=step)
        except (EnvError, UsageError) as told:
            return {"failure": (type(told).__name__, str(told))}

    def get_wrapper_attr(self, name: str) -> Any:
        if self._env is None and not hasattr(self, name):
            self._env = self._factory()
        return getattr(self, name) if self._env is None else self._env.get_wrapper_attr(name)

    def close(self) -> None:
        if self._env is not None:
            self._env.close()


class ProcessEnvs(Envs):
    """Every environment in its own process (Gymnasium's `AsyncVectorEnv`), for slow environments.

    Communication costs about 0.2 ms per step, so this saves time from about 0.3 ms per step, given enough processors. A
    process that does not answer within `timeout` seconds is killed.
    """

    def __init__(self, factories: Sequence[EnvFactory], seeds: Sequence[int], timeout: float):
        first = factories[0]()  # in this process, so that errors of its constructor are raised here
        observation, action = rounded(first.observation_space), first.action_space
        first.close()
        super().__init__(len(factories), seeds, observation, action)
        self._timeout, self._steps = timeout, 0
        self._workers = AsyncVectorEnv(
            [functools.partial(_Worker, f, i, os.getpid(), observation, action) for i, f in enumerate(factories)],
            autoreset_mode="NextStep",
        )

    def _ask(self, call: str, *args: Any, **kwargs: Any) -> Any:
        at = f" at step {self._steps}" if call == "step" else ""
        try:
            getattr(self._workers, f"{call}_async")(*args, **kwargs)
            answer = getattr(self._workers, f"{call}_wait")(self._timeout)
        except multiprocessing.TimeoutError as error:
            silent = [i for i, pipe in enumerate(self._workers.parent_pipes) if not pipe.poll()]
            for i in silent:
                self._workers.processes[i].kill()  # it may ignore milder signals
            self.close(terminate=True)
            raise EnvError(
                f"Environment {', '.join(map(str, silent))} has not answered {call}(){at} for {self._timeout:g} "
                "seconds and is assumed to hang. Increase step_timeout, or run that environment alone to find out "
                "why it does not return."
            ) from error
        except (EOFError, ConnectionError, OSError) as error:
            self.close(terminate=True)
            dead = {i: p.exitcode for i, p in enumerate(self._workers.processes) if p.exitcode not in (0, -15)}
            raise EnvError(
                f"A worker process died during {call}(){at}: environment index -> exit code {dead}. The usual cause "
                "is a lack of memory: use fewer environments. backend='gymnasium' shows the reason in this process."
            ) from error
        failures = [f for f in answer[-1].get("failure", ()) if f] if call != "call" else []
        if failures:
            self.close(terminate=True)
            kind, text = failures[0]
            raise (UsageError if kind == "UsageError" else EnvError)(text)
        return answer

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        seeds = self._reset_seeds(seed)
        observation, _ = self._ask("reset", seed=None if seeds is None else list(seeds), options=options)
        self._steps = 0
        return observation, {}

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._ask("step", self._legal(actions))
        self._steps += 1
        return observation, reward.astype(np.float32), terminated, truncated, info

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return self._ask("call", name, *args, **kwargs)

    def close_extras(self, **kwargs: Any) -> None:
        with warnings.catch_warnings():  # about a pending call
            warnings.simplefilter("ignore")
            try:
                self._workers.close(**kwargs)
            except (EOFError, ConnectionError):  # they have already ended, by a signal sent to all processes
                self._workers.close(terminate=True)


class PoolEnvs(Envs):
    """EnvPool's C++ environments: the fastest backend for the environments it has, and the only one for its Atari
    games.

    EnvPool returns fresh arrays, so none is copied here. It reports a step that both terminates and reaches the
    time limit as truncated only.
    """

    def __init__(self, env_id: str, num_envs: int, seeds: Sequence[int], kwargs: Mapping[str, Any], threads: int):
        self._build = {"num_envs": num_envs, "num_threads": threads, **kwargs}
        self._id = env_id
        self._pool = self._make(seeds)
        super().__init__(num_envs, seeds, self._pool.observation_space, self._pool.action_space)
        self._seeds, self._steps = None, 0  # the pool already has the seeds

    def _make(self, seeds: Sequence[int]) -> Any:
        import envpool

        with warnings.catch_warnings():  # about rounded bounds of its own spaces
            warnings.simplefilter("ignore")
            try:
                pool: Any = envpool.make_gymnasium(self._id, seed=list(seeds), **self._build)
            except (ImportError, RuntimeError) as error:
                raise UsageError(f"env={self._id!r}: EnvPool cannot make it: {error}") from error
            _ = pool.observation_space, pool.action_space
        return pool

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        seeds = self._reset_seeds(seed)
        if options:
            raise UsageError(f"options={options!r}: EnvPool environments take none; use backend='gymnasium'.")
        if seeds is not None:  # a pool can be seeded only when it is made
            self._pool.close()
            self._pool = self._make(seeds)
        observation, _ = self._pool.reset()
        self._steps = 0
        return self._read(observation), {}

    def _read(self, observation: Any) -> Observation:
        try:
            return converted(observation, self.single_observation_space, (self.num_envs,))
        except ValueError as error:
            raise EnvError(f"EnvPool's {self._id!r}, step {self._steps}: {error}.") from error

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        try:
            observation, reward, terminated, truncated, info = self._pool.step(self._legal(actions))
        except RuntimeError as error:
            raise EnvError(f"EnvPool failed in step() of {self._id!r} at step {self._steps}: {error}.") from error
        observation, ended = self._read(observation), terminated | truncated
        self._steps += 1
        return observation, np.asarray(reward, np.float32), terminated, truncated, batch_figures(info, ended)

    def render(self) -> Any:
        return self._pool.render()

    def close_extras(self, **kwargs: Any) -> None:
        self._pool.close()


class PoolEnv(gymnasium.Env):
    """A single environment that only EnvPool has, for evaluations, perturbations and wrappers."""

    def __init__(self, env_id: str, render_mode: str | None = None, **kwargs: Any):
        from envpool.registration import registry

        if render_mode and registry.specs[env_id][0].startswith("envpool.mujoco"):
            raise UsageError(
                f"env={env_id!r} cannot be filmed: EnvPool renders it with OpenGL, and ends the process if that is "
                "missing. Film an environment that Gymnasium has."
            )
        drawn = {} if render_mode is None else {"render_mode": render_mode}
        self._envs = PoolEnvs(env_id, 1, env_seeds(0, 1), {**kwargs, **drawn}, threads=1)
        self.observation_space, self.action_space = self._envs.single_observation_space, self._envs.single_action_space
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, _ = self._envs.reset(seed=None if seed is None else [seed], options=options)
        return _first(observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._envs.step(np.asarray(action)[None])
        final = {name: float(values[0]) for name, values in info.items() if not name.startswith("_")}
        return _first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), final

    def render(self) -> Any:
        return self._envs.render()[0]

    def close(self) -> None:
        self._envs.close()


class ReadyEnvs(Envs):
    """A vector environment made by the caller, checked against the contract of all backends.

    Gymnasium's own ones take a seed per environment; any other is given only the first seed.
    """

    def __init__(self, envs: VectorEnv, seeds: Sequence[int]):
        self._ready, self._steps = envs, 0
        super().__init__(envs.num_envs, seeds, envs.single_observation_space, envs.single_action_space)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        seeds: Any = self._reset_seeds(seed)
        if seeds is not None:
            each = isinstance(self._ready.unwrapped, (SyncVectorEnv, AsyncVectorEnv))
            seeds = list(seeds) if each else seeds[0]
        self._steps = 0
        return self._checked("reset", lambda: self._read(begun(self._ready.reset(seed=seeds, options=options))[0])), {}

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        legal = self._legal(actions)

        def take() -> Any:
            observation, reward, terminated, truncated, info = self._ready.step(legal)
            named = (("reward", reward, np.float32), ("terminated", terminated, bool), ("truncated", truncated, bool))
            numbers = [batch_of_numbers(values, self.num_envs, name, dtype) for name, values, dtype in named]
            return self._read(observation), *numbers, batch_figures(info, numbers[1] | numbers[2])

        taken = self._checked("step", take)
        self._steps += 1
        return taken

    def _read(self, observation: Any) -> Observation:
        return converted(observation, self.single_observation_space, (self.num_envs,))

    def _checked(self, call: str, take: Callable[[], Any]) -> Any:
        """The result of the call; an error in it, or an invalid result, raises `EnvError` with the name of the call."""
        try:
            return take()
        except (EnvError, UsageError):
            raise
        except Exception as error:
            at = f" at step {self._steps}" if call == "step" else ""
            raise EnvError(f"The given vector environment failed in {call}(){at}: {cause(error)}.") from error

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return self._ready.call(name, *args, **kwargs)  # type: ignore[attr-defined]

    def close_extras(self, **kwargs: Any) -> None:
        self._ready.close(**kwargs)

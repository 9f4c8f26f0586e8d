"""Making every kind of environment, and the description from which a run can remake it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from surefoot.envs.backends import PoolEnvs, ProcessEnvs, ReadyEnvs, available_threads
from surefoot.envs.names import check_origin, creator, name_of, origin_of, pool_ids, same_in_pool
from surefoot.envs.runners import ENDLESS, RunnerEnvs, is_runner
from surefoot.envs.vector import SyncEnvs, cause, env_seeds
from surefoot.envs.wrappers import Wrappers, normalised, wrap
from surefoot.errors import UsageError, nearest

MOST = 2**16  # environments in parallel
PATIENCE = 600.0  # seconds to wait for a worker process
BACKENDS = ("auto", "gymnasium", "process", "envpool")
EnvLike = str | Callable[..., gymnasium.Env] | type[gymnasium.Env] | VectorEnv


def make(
    env: EnvLike,
    num_envs: int = 8,
    *,
    seed: int | Sequence[int] = 0,
    backend: str = "auto",
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Wrappers = (),
    threads: int | None = None,
    step_timeout: float = PATIENCE,
    origin: Mapping[str, Any] | None = None,
) -> VectorEnv:
    """A vector environment in next-step auto-reset mode.

    `env`: a Gymnasium id, an EnvPool id, `"module:name"` of a factory or class, a factory or an Env class
    (called with `env_kwargs`), or a ready next-step VectorEnv, which receives the seeds and legal actions.
    `seed`: an int, from which environment i gets `derive(seed, "env", i)`, or one seed per environment. They are
    used at the first `reset()`; a later one without a seed continues with the environments' generators.
    `backend`: `"gymnasium"` steps in this process, `"process"` gives each environment its own process (for slow
    ones), `"envpool"` is C++ on `threads` threads (default: the number of processors this process may use). `"auto"`
    takes EnvPool if it has the environment as requested, and this process otherwise. With one thread, EnvPool makes
    about 1.3 to 1.8 times as many steps per second on MuJoCo tasks, as many on CartPole, 5 times as many on Acrobot.
    `wrappers`: names, or pairs of a name and keyword arguments; the first one is innermost.
    `step_timeout`: seconds that a process of `"process"` may take for a step or a reset before it is assumed to hang.
    `origin`: the recorded package and version of the environment; another package's environment of the same name is
    refused.
    Raises `UsageError` for arguments that cannot work, and later `EnvError` for an environment that fails while
    running.
    """
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or not 1 <= num_envs <= MOST:
        raise UsageError(f"num_envs={num_envs!r} is not allowed; it must be a whole number in [1, {MOST}].")
    check_origin(env, origin)
    if isinstance(env, VectorEnv):
        _check_ready(env, num_envs, env_kwargs, wrappers)
        return ReadyEnvs(env, env_seeds(seed, num_envs))
    seeds, kwargs, pairs = env_seeds(seed, num_envs), dict(env_kwargs or {}), normalised(wrappers)
    if _backend(env, backend, kwargs, pairs) == "envpool":
        threads = threads or min(num_envs, available_threads())
        return PoolEnvs(str(env), num_envs, seeds, kwargs, threads)
    factory = functools.partial(make_single, env, kwargs, pairs)
    if backend == "process":
        return ProcessEnvs([factory] * num_envs, seeds, step_timeout)
    return (RunnerEnvs if is_runner(env, kwargs, pairs) else SyncEnvs)([factory] * num_envs, seeds)


def make_single(env: EnvLike, env_kwargs: Mapping[str, Any] | None = None, wrappers: Wrappers = ()) -> gymnasium.Env:
    """One `gymnasium.Env`, without Gymnasium's checking wrappers."""
    kwargs = dict(env_kwargs or {})
    make_it = creator(env) if isinstance(env, str) else env
    if not callable(make_it):
        raise UsageError(f"env={env!r} is not allowed; give an id, a factory or an Env class (not an instance).")
    try:
        single = make_it(**kwargs)
    except UsageError:
        raise
    except Exception as error:  # a constructor may raise anything
        raise UsageError(f"env={env!r} cannot be made with env_kwargs={kwargs!r}: {cause(error)}.") from error
    if not isinstance(single, gymnasium.Env):
        raise UsageError(
            f"env={env!r} returned {single!r} of type {type(single).__name__}; a factory must return a gymnasium.Env."
        )
    return wrap(single, wrappers)


def make_as(env: EnvLike, env_kwargs: Mapping[str, Any], wrappers: Wrappers, **more: Any) -> gymnasium.Env:
    """`make_single` with additional arguments; with `partial` it gives a factory whose environment is known."""
    return make_single(env, {**env_kwargs, **more}, wrappers)


def describe(
    env: EnvLike,
    num_envs: int = 8,
    *,
    seed: int | Sequence[int] = 0,
    backend: str = "auto",
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Wrappers = (),
    step_timeout: float = PATIENCE,
    origin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The arguments of `make` in JSON form, with "auto" replaced by the actual backend: `make(**describe(…))`.

    `origin` is present if the environment comes from a package other than the backend's own, Gymnasium or Surefoot:
    that package and its version, which `make` checks.
    A factory or class is recorded as `"module:name"`. One that has no importable name (a lambda, a local function, a
    ready VectorEnv) is recorded too, and `make` then says that it must be given again.
    """
    kwargs, pairs = _plain("env_kwargs", dict(env_kwargs or {})), _plain("wrappers", normalised(wrappers))
    chosen = backend if isinstance(env, VectorEnv) else _backend(env, backend, kwargs, pairs)
    found = {
        "env": name_of(env),
        "num_envs": num_envs,
        "seed": int(seed) if isinstance(seed, int) else [int(s) for s in seed],
        "backend": chosen,
        "env_kwargs": kwargs,
        "wrappers": pairs,
    }
    origin = origin_of(env, chosen) if origin is None else dict(origin)
    beside = {"step_timeout": step_timeout} if step_timeout != PATIENCE else {}
    return found | beside | ({"origin": origin} if origin else {})


def _plain(name: str, value: Any) -> Any:
    """The value after a round trip through JSON; NumPy numbers become Python numbers."""

    def number(part: Any) -> Any:
        if isinstance(part, np.generic):
            return part.item()
        raise UsageError(
            f"{name}={value!r} cannot be recorded with a run: it contains a {type(part).__name__}. Give numbers, "
            "texts, lists and dicts of them, or give env as a factory that creates the rest itself."
        )

    return json.loads(json.dumps(value, default=number))


def _check_ready(env: VectorEnv, num_envs: int, env_kwargs: Mapping[str, Any] | None, wrappers: Wrappers) -> None:
    mode = env.metadata.get("autoreset_mode")
    if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP.value):
        raise UsageError(
            f"The given VectorEnv has autoreset_mode={mode!r}; only AutoresetMode.NEXT_STEP separates the last "
            "observation of an episode from the first of the next. Make it in that mode, or give its id or factory."
        )
    if env.num_envs != num_envs:
        raise UsageError(f"num_envs={num_envs}, but the given VectorEnv has {env.num_envs}; give the same number.")
    if env_kwargs or wrappers:
        raise UsageError("env_kwargs and wrappers do not apply to a ready VectorEnv; build them into it.")


@functools.cache
def _pool_options(env_id: str) -> frozenset[str]:
    import envpool

    return frozenset(envpool.make_spec(env_id)._config_keys) - {"num_envs", "num_threads", "seed", "env_seed"}


def _backend(env: EnvLike, backend: str, kwargs: Mapping[str, Any], wrappers: Wrappers) -> str:
    """The backend that will step `env`: "auto" resolved, and impossible requests refused."""
    if backend not in BACKENDS:
        raise UsageError(f"backend={backend!r} is not known; it must be one of {', '.join(map(repr, BACKENDS))}.")
    if backend in ("gymnasium", "process"):
        return backend
    if not isinstance(env, str):
        obstacle = "it does not run factories and classes"
    elif not pool_ids():
        obstacle = "EnvPool is not installed (pip install envpool)"
    elif backend == "auto" and not same_in_pool(env):
        obstacle = "it is not known to have the same environment"
    elif env not in pool_ids():
        obstacle = f"it does not have that one. {nearest(env, pool_ids())}"
    elif backend == "auto" and is_runner(env, kwargs, wrappers) and available_threads() == 1:
        obstacle = "it is slower on one processor"
    elif wrappers:
        obstacle = "it takes no wrappers"
    elif ENDLESS.items() <= kwargs.items():
        obstacle = "it needs a time limit"
    elif unknown := sorted(set(kwargs) - _pool_options(env)):
        obstacle = f"it has no option {unknown[0]!r}. {nearest(unknown[0], _pool_options(env))}"
    else:
        return "envpool"
    if backend == "envpool":
        raise UsageError(f"env={env!r} cannot run on backend='envpool': {obstacle}; use 'auto' or 'gymnasium'.")
    return "gymnasium"

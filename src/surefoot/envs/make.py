"""One maker for every environment, and the description from which a run can make it again."""

from __future__ import annotations

import copy
import functools
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from surefoot.envs.backends import PoolEnv, PoolEnvs, ProcessEnvs, ReadyEnvs, available_threads
from surefoot.envs.registered import make_registered
from surefoot.envs.runners import ENDLESS, RunnerEnvs, is_runner
from surefoot.envs.vector import SyncEnvs, env_seeds
from surefoot.envs.wrappers import Wrappers, normalised, wrap
from surefoot.errors import UsageError, nearest

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
) -> VectorEnv:
    """A vector environment in next-step auto-reset mode.

    `env`: a Gymnasium id, an id that EnvPool has, `"module:name"` of a factory or class, a factory or an Env class
    (called with `env_kwargs`), or a ready next-step VectorEnv, which is given the seeds and legal actions.
    `seed`: an int, from which environment i gets `derive(seed, "env", i)`, or one seed an environment. They are used
    at the first `reset()`; a later one without a seed goes on with the environments' generators.
    `backend`: `"gymnasium"` steps in this process, `"process"` gives each environment its own (for slow ones),
    `"envpool"` is C++ on `threads` threads (default: the processors this process may use). `"auto"` takes EnvPool
    where it has the environment as asked for, and this process otherwise. Of the steps a second that one thread
    makes, EnvPool has about 1.3 to 1.8 times as many on MuJoCo tasks, as many on CartPole, 5 times as many on Acrobot.
    `wrappers`: names, or pairs of a name and keyword arguments; the first one is innermost.
    Raises `UsageError` for what cannot work, and `EnvError` later for an environment that breaks as it runs.
    """
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise UsageError(f"num_envs={num_envs!r} is not allowed; it must be a whole number of at least 1.")
    if isinstance(env, VectorEnv):
        _check_ready(env, num_envs, env_kwargs, wrappers)
        return ReadyEnvs(env, env_seeds(seed, num_envs))
    seeds, kwargs, pairs = env_seeds(seed, num_envs), dict(env_kwargs or {}), normalised(wrappers)
    if _backend(env, backend, kwargs, pairs) == "envpool":
        threads = threads or min(num_envs, available_threads())
        return PoolEnvs(str(env), num_envs, seeds, kwargs, threads)
    factory = functools.partial(make_single, env, kwargs, pairs)
    if backend == "process":
        return ProcessEnvs([factory] * num_envs, seeds)
    return (RunnerEnvs if is_runner(env, kwargs, pairs) else SyncEnvs)([factory] * num_envs, seeds)


def make_single(env: EnvLike, env_kwargs: Mapping[str, Any] | None = None, wrappers: Wrappers = ()) -> gymnasium.Env:
    """One `gymnasium.Env`, without Gymnasium's checking wrappers."""
    kwargs = dict(env_kwargs or {})
    creator = _creator(env) if isinstance(env, str) else env
    if not callable(creator):
        raise UsageError(f"env={env!r} is not allowed; give an id, a factory or an Env class (not an instance).")
    try:
        single = creator(**kwargs)
    except (TypeError, gymnasium.error.Error) as error:
        raise UsageError(f"env={env!r} cannot be made with env_kwargs={kwargs!r}: {error}") from error
    if not isinstance(single, gymnasium.Env):
        raise UsageError(
            f"env={env!r} returned {single!r} of type {type(single).__name__}; a factory must return a gymnasium.Env."
        )
    return wrap(single, wrappers)


def make_as(env: EnvLike, env_kwargs: Mapping[str, Any], wrappers: Wrappers, **more: Any) -> gymnasium.Env:
    """`make_single` with arguments that can be added to; partly applied it is a factory whose environment is known."""
    return make_single(env, {**env_kwargs, **more}, wrappers)


def describe(
    env: EnvLike,
    num_envs: int = 8,
    *,
    seed: int | Sequence[int] = 0,
    backend: str = "auto",
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Wrappers = (),
) -> dict[str, Any]:
    """The arguments of `make` as JSON holds them, with the backend that "auto" stands for: `make(**describe(…))`.

    A factory or class is recorded as `"module:name"`. One that has no importable name (a lambda, a local function, a
    ready VectorEnv) is recorded all the same, and `make` then says that it has to be given again.
    """
    kwargs, pairs = _plain("env_kwargs", dict(env_kwargs or {})), _plain("wrappers", normalised(wrappers))
    if isinstance(env, str):
        name, chosen = env, _backend(env, backend, kwargs, pairs)
    elif isinstance(env, VectorEnv):
        name, chosen = f"{type(env).__module__}:<instance of {type(env).__qualname__}>", backend
    else:
        qualified = getattr(env, "__qualname__", f"<instance of {type(env).__qualname__}>")
        name, chosen = f"{env.__module__}:{qualified}", _backend(env, backend, kwargs, pairs)
    seed = int(seed) if isinstance(seed, int) else [int(s) for s in seed]
    return {"env": name, "num_envs": num_envs, "seed": seed, "backend": chosen, "env_kwargs": kwargs, "wrappers": pairs}


def _plain(name: str, value: Any) -> Any:
    """What JSON gives back of it; NumPy's numbers become Python's."""

    def number(part: Any) -> Any:
        if isinstance(part, np.generic):
            return part.item()
        raise UsageError(
            f"{name}={value!r} cannot be written down with a run: it holds a {type(part).__name__}. Give numbers, "
            "texts, lists and dicts of them, or env as a factory that makes the rest itself."
        )

    return json.loads(json.dumps(value, default=number))


def _check_ready(env: VectorEnv, num_envs: int, env_kwargs: Mapping[str, Any] | None, wrappers: Wrappers) -> None:
    mode = env.metadata.get("autoreset_mode")
    if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP.value):
        raise UsageError(
            f"The given VectorEnv has autoreset_mode={mode!r}; only AutoresetMode.NEXT_STEP keeps the last observation "
            "of an episode apart from the first of the next. Make it in that mode, or give its id or factory instead."
        )
    if env.num_envs != num_envs:
        raise UsageError(f"num_envs={num_envs}, but the given VectorEnv has {env.num_envs}; give the same number.")
    if env_kwargs or wrappers:
        raise UsageError("env_kwargs and wrappers do not apply to a ready VectorEnv; build them into it.")


@functools.cache
def _pool_ids() -> frozenset[str]:
    import envpool

    return frozenset(envpool.list_all_envs())


@functools.cache
def _pool_options(env_id: str) -> frozenset[str]:
    import envpool

    return frozenset(envpool.make_spec(env_id)._config_keys) - {"num_envs", "num_threads", "seed", "env_seed"}


def _backend(env: EnvLike, backend: str, kwargs: Mapping[str, Any], wrappers: Wrappers) -> str:
    """The backend that will step `env`: "auto" resolved, and a demand that cannot be met refused."""
    if backend not in BACKENDS:
        raise UsageError(f"backend={backend!r} is not known; it must be one of {', '.join(map(repr, BACKENDS))}.")
    if backend in ("gymnasium", "process"):
        return backend
    if not isinstance(env, str):
        obstacle = "it has no factories and classes"
    elif backend == "auto" and not _same_in_pool(env):
        obstacle = "it is not known to have the same environment"
    elif env not in _pool_ids():
        obstacle = f"it does not have that one. {nearest(env, _pool_ids())}"
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


def _same_in_pool(env_id: str) -> bool:
    """Whether EnvPool's environment of this name is Gymnasium's own one, or the only one of this name."""
    spec = gymnasium.registry.get(env_id)
    return spec is None or str(spec.entry_point).startswith("gymnasium.envs.")


def _creator(env: str) -> Callable[..., gymnasium.Env]:
    """What makes the environment of this id or `"module:name"`."""
    module, _, name = env.rpartition(":")
    if "<" in name:
        raise UsageError(
            f"env={env!r} was recorded from something that cannot be imported by name (a lambda, a local function or a "
            "ready environment); give that same factory again, or move it to the top level of a module."
        )
    if module:
        try:
            found: Any = importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"env={env!r}: the module {module!r} cannot be imported: {error}") from error
        if name not in gymnasium.registry:
            try:
                return functools.reduce(getattr, name.split("."), found)
            except AttributeError as error:
                raise UsageError(f"env={env!r}: {error}, and it registers no environment of that id.") from error
    if name not in gymnasium.registry:
        if name in _pool_ids():
            return functools.partial(PoolEnv, name)
        raise UsageError(f"env={env!r} is not a known id. {nearest(env, {*gymnasium.registry, *_pool_ids()})}")
    spec = copy.copy(gymnasium.spec(name))
    spec.order_enforce = False
    return functools.partial(make_registered, spec)

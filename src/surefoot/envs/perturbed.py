"""Making environments under a perturbation that is given as text, and interpreting that text for an environment."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from surefoot.envs.constructed import EnvLike, constructor_numbers, make_settable
from surefoot.envs.make import make_as, make_single
from surefoot.envs.names import check_origin
from surefoot.envs.rrls import TASKS, named_bounds
from surefoot.envs.wrappers import Wrappers
from surefoot.errors import UsageError
from surefoot.perturbations import Composition, Driven, Parameters, Perturbation, parameters, parse

Made = tuple[EnvLike, Mapping[str, Any], Wrappers]


def perturbation_for(perturbation: Perturbation | str, env: EnvLike) -> Perturbation:
    """The perturbation that a text means for `env`, including the sets of the robust MuJoCo tasks."""
    if isinstance(perturbation, str):
        return parse(perturbation, boxes={"rrls": functools.partial(_box, env)})
    if not isinstance(perturbation, Perturbation):
        raise UsageError(f"perturbation={perturbation!r} is not allowed; give a Perturbation or its text.")
    return perturbation


def settable(env: EnvLike, perturbation: Perturbation | None) -> EnvLike:
    """`env`, in a form with settable parameters if the perturbation needs them: the robust form of a MuJoCo task, or
    one that is remade with other constructor arguments."""
    if perturbation is None or "dynamics" not in perturbation.channels:
        return env
    single, kwargs, wrappers = _parts(env)
    robust = isinstance(single, str) and single in TASKS
    single = f"rrls/{single}" if robust else single
    found = perturbation.parts if isinstance(perturbation, Composition) else (perturbation,)
    parts = [part.inner if isinstance(part, Driven) else part for part in found]
    names = {name for part in parts if isinstance(part, Parameters) for name, _ in part.values}
    if names & constructor_numbers(single, kwargs).keys():
        return functools.partial(make_settable, single, kwargs, wrappers)
    return functools.partial(make_as, single, kwargs, wrappers) if robust else env


def settable_parameters(env: EnvLike) -> dict[str, float]:
    """The parameters of `env` that a perturbation can set, with their present values: those of the environment and the
    numbers that its constructor takes."""
    single, kwargs, wrappers = _parts(env)
    numbers = constructor_numbers(single, kwargs)
    made = make_settable(single, kwargs, wrappers) if numbers else make_single(env)
    try:
        return parameters(made)
    finally:
        made.close()


def make_perturbed(
    env: EnvLike, perturbation: str, env_kwargs: Mapping[str, Any], wrappers: Wrappers = ()
) -> gymnasium.Env:
    """One environment under a perturbation, which is sampled anew in every episode."""
    made = functools.partial(make_as, env, env_kwargs, wrappers)
    attack = perturbation_for(perturbation, made)
    return attack.wrap(make_single(settable(made, attack)))


def under(
    env: EnvLike | VectorEnv,
    perturb: str | None = None,
    *,
    backend: str = "auto",
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Wrappers = (),
    origin: Mapping[str, Any] | None = None,
    **more: Any,
) -> tuple[EnvLike | VectorEnv, dict[str, Any]]:
    """The arguments of `envs.make` for training under a perturbation: the environment, and the other arguments.

    Perturbations act on Gymnasium environments, so "auto" never selects EnvPool's vector environments.
    Raises `UsageError` for a backend or a ready environment that cannot be perturbed.
    """
    if perturb is None:
        return env, {"backend": backend, "env_kwargs": env_kwargs, "wrappers": wrappers, "origin": origin, **more}
    check_origin(env, origin)
    if isinstance(env, VectorEnv):
        raise UsageError(
            f"perturb={perturb!r} does not apply to a ready VectorEnv; build it in: "
            "surefoot.perturbations.parse(text).wrap(env) around each of its environments."
        )
    if backend == "envpool":
        raise UsageError(
            f"perturb={perturb!r} cannot run on backend='envpool', whose environments are stepped in C++; use 'auto', "
            "'gymnasium' or 'process'."
        )
    factory = functools.partial(make_perturbed, env, perturb, env_kwargs or {}, wrappers)
    return factory, {"backend": "gymnasium" if backend == "auto" else backend, **more}


def _parts(env: EnvLike) -> Made:
    """The arguments of one of Surefoot's own factories; any other environment by itself."""
    if isinstance(env, functools.partial) and env.func is make_as:
        single, kwargs, wrappers = env.args
        return single, kwargs, wrappers
    return env, {}, ()


def _box(env: EnvLike, text: str) -> Any:
    single = _parts(env)[0]
    if not isinstance(single, str) or single.removeprefix("rrls/") not in TASKS:
        own = parameters(make_single(env))
        fitting = ", ".join(f"{k}=low..high" for k in sorted(own) if "." not in k)
        raise UsageError(
            f"rrls:{text} does not fit env={single!r}: it is defined for {', '.join(TASKS)}. For this environment use"
            f" param: with any of {fitting or 'its numeric attributes (it has none)'}."
        )
    return named_bounds(single, text)

"""Environments under a perturbation that is given as text: what the text means there, and how they are made."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium

from surefoot.envs.constructed import constructor_numbers, make_settable
from surefoot.envs.make import EnvLike, make_as, make_single
from surefoot.envs.rrls import TASKS, named_bounds
from surefoot.envs.wrappers import Wrappers
from surefoot.errors import UsageError
from surefoot.perturbations import Composition, Parameters, Perturbation, parameters, parse

Made = tuple[EnvLike, Mapping[str, Any], Wrappers]


def perturbation_for(perturbation: Perturbation | str, env: EnvLike) -> Perturbation:
    """The perturbation that a text means for `env`, the sets of the robust MuJoCo tasks among them."""
    if isinstance(perturbation, str):
        return parse(perturbation, boxes={"rrls": functools.partial(_box, env)})
    if not isinstance(perturbation, Perturbation):
        raise UsageError(f"perturbation={perturbation!r} is not allowed; give a Perturbation or its text.")
    return perturbation


def settable(env: EnvLike, perturbation: Perturbation | None) -> EnvLike:
    """`env`, in the form whose parameters can be set where the perturbation needs it: the robust form of a MuJoCo task,
    or one that is made anew with other arguments of its constructor."""
    if perturbation is None or "dynamics" not in perturbation.channels:
        return env
    single, kwargs, wrappers = _parts(env)
    robust = isinstance(single, str) and single in TASKS
    single = f"rrls/{single}" if robust else single
    parts = perturbation.parts if isinstance(perturbation, Composition) else (perturbation,)
    names = {name for part in parts if isinstance(part, Parameters) for name, _ in part.values}
    if names & constructor_numbers(single, kwargs).keys():
        return functools.partial(make_settable, single, kwargs, wrappers)
    return functools.partial(make_as, single, kwargs, wrappers) if robust else env


def make_perturbed(
    env: EnvLike, perturbation: str, env_kwargs: Mapping[str, Any], wrappers: Wrappers = ()
) -> gymnasium.Env:
    """One environment under a perturbation, which is drawn anew in every episode."""
    made = functools.partial(make_as, env, env_kwargs, wrappers)
    attack = perturbation_for(perturbation, made)
    return attack.wrap(make_single(settable(made, attack)))


def _parts(env: EnvLike) -> Made:
    """What a factory of ours makes an environment of; any other is itself."""
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

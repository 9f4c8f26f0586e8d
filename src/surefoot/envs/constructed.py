"""Environments that can be remade with other numbers for their constructor, so that perturbations can set them."""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from surefoot.envs.make import make_single
from surefoot.envs.names import creator as creator_of
from surefoot.envs.registered import make_registered
from surefoot.envs.wrappers import Wrappers, wrap
from surefoot.errors import UsageError
from surefoot.seeding import derive

EnvLike = str | Callable[..., gymnasium.Env]


def constructor_numbers(env: EnvLike, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The numeric arguments of the function or class that makes `env`, with their defaults or their values in
    `env_kwargs`.

    Arguments that are accepted only through `**kwargs` are unknown and not included.
    """
    creator: Any = creator_of(env) if isinstance(env, str) else env
    given = dict(env_kwargs)
    if isinstance(creator, functools.partial) and creator.func is make_registered:
        spec = creator.args[0]
        given = {**spec.kwargs, **given}
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    try:
        expected = inspect.signature(creator).parameters.values()
    except (TypeError, ValueError):  # it is written in C
        return {}
    named = [p for p in expected if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    values = {p.name: given.get(p.name, p.default) for p in named}
    return {k: v for k, v in values.items() if isinstance(v, numbers.Real) and not isinstance(v, bool)}


class Constructed(gymnasium.Wrapper):
    """An environment whose constructor's numbers can be changed between episodes; it is then remade.

    `make(**arguments)` makes it, `arguments` are its numeric arguments with their nominal values. The environment made
    last is reused while its numbers are unchanged; the first one, with the nominal numbers, is always reused.
    """

    def __init__(self, make: Callable[..., gymnasium.Env], arguments: Mapping[str, Any]) -> None:
        super().__init__(make())
        self.arguments = dict(arguments)
        self._make, self._nominal, self._first = make, dict(arguments), self.env
        self._last: gymnasium.Env | None = None
        self._last_arguments: dict[str, Any] = {}
        self._begun: list[gymnasium.Env] = []  # those that were reset with a seed, whose generators continue
        self._seed, self._made = 0, 0

    def remake(self, **values: Any) -> None:
        """Make the environment with these numbers, and the nominal values of all others."""
        self.arguments = {**self._nominal, **values}
        if self.arguments == self._nominal:
            self.env = self._first
        elif self._last is None or self.arguments != self._last_arguments:
            changed = {name: x for name, x in self.arguments.items() if x != self._nominal[name]}
            made = self._make(**changed)
            first = self._first
            for name, same in (  # bounds matter only for actions
                ("observation_space", _size(made.observation_space) == _size(first.observation_space)),
                ("action_space", made.action_space == first.action_space),
            ):
                if not same:
                    made.close()
                    raise UsageError(f"{changed} changes the {name} of the environment, for which a policy is made.")
            self._drop()
            self._last = self.env = made
            self._last_arguments = self.arguments
        else:
            self.env = self._last

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; a newly made environment that is given no seed gets one derived from the last seed."""
        if seed is not None:
            self._seed, self._made = seed, 0
        elif not any(env is self.env for env in self._begun):
            self._made += 1
            seed = derive(self._seed, "made anew", self._made)
        if not any(env is self.env for env in self._begun):
            self._begun.append(self.env)
        return self.env.reset(seed=seed, options=options)

    def close(self) -> None:
        self._drop()
        self._first.close()

    def _drop(self) -> None:
        if self._last is not None:
            self._begun = [env for env in self._begun if env is not self._last]
            self._last.close()
        self._last = None


def _size(space: gymnasium.Space) -> tuple[type, int]:
    return type(space), gymnasium.spaces.flatdim(space)


def make_settable(env: EnvLike, env_kwargs: Mapping[str, Any], wrappers: Wrappers, **more: Any) -> gymnasium.Env:
    """`make_as`, with the constructor's numbers as parameters that a perturbation can set."""
    given = {**env_kwargs, **more}
    arguments = constructor_numbers(env, given)
    make = functools.partial(make_single, env)
    if not arguments:
        return make_single(env, given, wrappers)
    return wrap(Constructed(lambda **values: make({**given, **values}), arguments), wrappers)

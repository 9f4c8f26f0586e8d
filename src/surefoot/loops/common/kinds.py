"""The kinds of loops: what the machinery of runs asks of each, and where each is.

A method names its kind (`method.loop`); the module of a kind ends with `LOOP = Loop(…)`. Folder, configuration,
checkpoints, logs, time limits and signals are the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Protocol

from surefoot.envs.names import import_origin
from surefoot.errors import UsageError, nearest
from surefoot.loops.common.train import Trainable

LOOPS = {
    "on-policy": "surefoot.loops.on_policy.learner",
    "tabular": "surefoot.loops.tabular.learner",
    "group-rollout": "surefoot.loops.group_rollout.language",
}


class Method(Protocol):
    """What the machinery of runs reads of a method: a frozen dataclass of hyperparameters."""

    loop: ClassVar[str]  # its kind, a name of `LOOPS`
    default_steps: ClassVar[int]  # of a run that names none

    @property
    def pace(self) -> int: ...  # steps of one iteration

    def objective(self) -> Any: ...  # prints as a formula

    def algorithm(self) -> list[str]: ...  # one iteration in words, a line a step

    def gradient_steps(self, total_steps: int) -> float: ...  # how many a compiler could fuse


@dataclass(frozen=True)
class NoOptions:
    """Of a kind that needs to know nothing besides what it learns in."""


@dataclass(frozen=True)
class Loop:
    """How a kind of methods meets what it learns in.

    `describe(env, **options)` is `env` as JSON holds it, under the key "env" its name; the rest are options again.
    `learner(method, env, seeds, steps, compile=…, log=…, **options)` is a fresh learner.
    `single(env, **options)` is what an agent is evaluated in: the name of an environment, or a factory.
    `measured` says what steps are; `place` is what the argument is called that says what it learns
    in, and `options` the dataclass of what `describe`, `learner` and `single` take besides. The command line has those
    of its fields that are hyperparameters. `many_seeds` is whether a run can train several seeds.
    `check_recorded(env, **options)` raises `UsageError` where making again what a folder describes would import or call
    something that the user has not named.
    """

    describe: Callable[..., dict[str, Any]]
    learner: Callable[..., Trainable]
    single: Callable[..., Any]
    measured: str
    place: str = "env"
    place_help: str = ""
    options: type = NoOptions
    many_seeds: bool = True
    check_recorded: Callable[..., None] = lambda env, **options: None


def loop(name: str) -> Loop:
    """The kind of that name, imported on demand."""
    if name not in LOOPS:
        raise UsageError(f"loop={name!r} is not known. {nearest(name, LOOPS)}")
    return import_module(LOOPS[name]).LOOP


def check_trust(kind: Loop, description: Any, trust: bool) -> None:
    """Nothing that only a folder names is imported or called, except with `trust`."""
    if not isinstance(description, Mapping) or "env" not in description:
        raise UsageError(
            f"env={description!r} in the files of the run does not say what it was trained in; give env=…."
        )
    if trust:
        import_origin(**description)
    else:
        kind.check_recorded(**description)

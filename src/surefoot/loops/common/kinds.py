"""The kinds of loops: the interface that each provides for running it, and its module.

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
    "on-policy-game": "surefoot.loops.on_policy.game",
    "hybrid": "surefoot.loops.on_policy.hybrid",
    "guided": "surefoot.loops.on_policy.guided",
    "off-policy": "surefoot.loops.off_policy.learner",
    "offline": "surefoot.loops.offline.learner",
    "population": "surefoot.loops.population.learner",
    "tabular": "surefoot.loops.tabular.learner",
    "group-rollout": "surefoot.loops.group_rollout.language",
    "supervised": "surefoot.loops.supervised.learner",
    "finite-sum": "surefoot.loops.finite_sum.learner",
    "per-instance": "surefoot.loops.per_instance",
}


class Method(Protocol):
    """The interface of a method: a frozen dataclass of hyperparameters."""

    loop: ClassVar[str]  # its kind, a key of `LOOPS`
    default_steps: ClassVar[int]  # used if a run gives none

    @property
    def pace(self) -> int: ...  # steps per iteration

    def objective(self) -> Any: ...  # prints as a formula

    def algorithm(self) -> list[str]: ...  # one iteration in words, one line per step

    def gradient_steps(self, total_steps: int) -> float: ...  # number that a compiler could fuse


@dataclass(frozen=True)
class Loop:
    """How methods of one kind are connected to their environments.

    `describe(env, **options)` returns `env` in a JSON form, its name under the key "env", the rest again options.
    `learner(method, env, seeds, steps, compile=…, log=…, **options)` returns a fresh learner.
    `single(env, **options)` returns what an agent is evaluated in: the name of an environment, or a factory.
    `measured` says what steps are, `env_argument` is the name of the argument that takes the environment, `env_help`
    its help text, `env_aliases` are other names of its option on the command line, and `options` is the dataclass of
    the other arguments of `describe`, `learner` and `single`; its hyperparameter fields are command-line options.
    `many_seeds` is whether a run can train several seeds.
    `check_recorded(env, **options)` raises `UsageError` if remaking what a folder describes would import or call
    something that the user has not named; `check_method(method, env, **options)` if the method cannot train with what
    the user has chosen.
    """

    describe: Callable[..., dict[str, Any]]
    learner: Callable[..., Trainable]
    single: Callable[..., Any]
    measured: str
    options: type
    env_argument: str = "env"
    env_help: str = ""
    env_aliases: tuple[str, ...] = ()
    many_seeds: bool = True
    check_recorded: Callable[..., None] = lambda env, **options: None
    check_method: Callable[..., None] = lambda method, env, **options: None


def loop(name: str) -> Loop:
    """The kind with this name, imported on demand."""
    if name not in LOOPS:
        raise UsageError(f"loop={name!r} is not known. {nearest(name, LOOPS)}")
    return import_module(LOOPS[name]).LOOP


def check_trust(kind: Loop, description: Any, trust: bool) -> None:
    """Raise `UsageError` if something that only a folder names would be imported or called, unless `trust` is set."""
    if not isinstance(description, Mapping) or "env" not in description:
        raise UsageError(f"env={description!r} in the files of the run does not name its environment; give env=….")
    if trust:
        import_origin(**description)
    else:
        kind.check_recorded(**description)

"""Methods without training: they answer for single rows, given models that somebody has trained.

Such a method has its place in the catalogue, its hyperparameters, `explain` and its claim; a run of it is refused, and
the refusal says how it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from surefoot.errors import UsageError
from surefoot.hyperparameters import check
from surefoot.loops.common.kinds import Loop


@dataclass(frozen=True)
class PerInstance:
    """The base of these methods; `usage` is how one is called."""

    loop: ClassVar[str] = "per-instance"
    default_steps: ClassVar[int] = 1
    usage: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check(self)

    def objective(self) -> str:
        """The objective as a formula."""
        raise NotImplementedError

    def steps(self) -> list[str]:
        """What is done for a row, in words."""
        raise NotImplementedError

    def algorithm(self) -> list[str]:
        """The lines of `explain`."""
        return self.steps()

    @property
    def pace(self) -> int:
        """Steps per iteration."""
        return 1

    def gradient_steps(self, total_steps: int) -> float:
        """Gradient steps that a compiler could fuse: there are none."""
        return 0.0


@dataclass(frozen=True)
class NoOptions:
    """There is nothing to choose about a run that there is not."""


def _refuse(method: Any = None, *_: Any, **__: Any) -> NoReturn:
    if not isinstance(method, PerInstance):
        raise UsageError("a method of the kind 'per-instance' has no runs; it is used from Python.")
    raise UsageError(f"{type(method).__name__} is not trained, so it has no runs. In Python: {method.usage}")


LOOP = Loop(
    _refuse,
    _refuse,
    _refuse,
    measured="rows",
    env_argument="models",
    env_help="These methods are not trained: they take trained models, in Python.",
    options=NoOptions,
    check_recorded=_refuse,
    check_method=_refuse,
)

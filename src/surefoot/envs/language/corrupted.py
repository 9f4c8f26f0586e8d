"""Tasks whose training data are corrupted; what is held out stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from surefoot.envs.language.pairs import turned
from surefoot.envs.language.task import Example, OfAnother, Task
from surefoot.errors import UsageError
from surefoot.perturbations import Interval, LabelFlip, parse


@dataclass(frozen=True)
class Mislabelled(OfAnother):
    """A task of pairs some of whose training examples are turned."""

    flip: LabelFlip

    def example(self, index: int, split: str = "train") -> Example:
        found = super().example(index, split)
        return turned(found) if split == "train" and self.flip.turned(index) else found

    def __str__(self) -> str:
        return f"{self.task} under {self.flip}"


def of_data(given: Any) -> LabelFlip:
    """The perturbation of data with this text.

    Raises:
        UsageError: it is another kind of perturbation, or a range.
    """
    found = given if isinstance(given, LabelFlip) else parse(given)
    if not isinstance(found, LabelFlip) or isinstance(found.strength, Interval):
        raise UsageError(
            f"corrupt={str(given)!r} is not allowed for a language model; its data can be corrupted by a fixed share "
            "of turned pairs, such as label-flip:0.2."
        )
    return found


def under(task: Task, corrupt: Any, method: str | None) -> Task:
    """The task with its training data corrupted, for a method of this name; None if it learns from no labels.

    Raises:
        UsageError: it would have no effect.
    """
    if corrupt is None:
        return task
    if method is None:
        raise UsageError(
            f"corrupt={str(corrupt)!r} turns pairs, and the method does not learn which of two answers was chosen; use "
            "one that does, such as dpo."
        )
    flip = of_data(corrupt)
    return task if flip.identity else Mislabelled(task, flip)

"""The tasks of reasoning-gym, each with its own generator, difficulty and verifier."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from surefoot.envs.language.answers import final_answer
from surefoot.envs.language.task import Example, Task, number
from surefoot.errors import UsageError, nearest

FAR = 2**30  # number of the first held-out example
FEW = 10_000, 1_000  # training and held-out examples of tasks that generate theirs in advance


@dataclass(frozen=True)
class ReasoningGym(Task):
    """A task of reasoning-gym by name, such as `reasoning_gym:chain_sum,max_terms=3`; `options` are its settings.

    The reward is the task's own score of the answer in a completion, which may be partial.
    """

    name: ClassVar[str] = "reasoning_gym"

    dataset: str = "chain_sum"
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if _parsed(str(self).removeprefix(f"{self.name}:")) != (self.dataset, self.options):
            raise UsageError(
                f"task {str(self)!r} is not allowed: a setting is a number, True, False, or a text without a comma."
            )
        _ = self._made  # raises an error for an unknown name or setting now

    @classmethod
    def from_text(cls, text: str) -> ReasoningGym:
        return cls(*_parsed(text))

    def __str__(self) -> str:
        return ",".join([f"{self.name}:{self.dataset}", *(f"{name}={value}" for name, value in self.options)])

    @cached_property
    def _made(self) -> tuple[Any, bool]:
        """The data set, and whether it is infinite."""
        try:
            from reasoning_gym.factory import DATASETS, create_dataset
        except ImportError as error:
            raise UsageError('reasoning-gym is not installed: pip install "surefoot[language]".') from error
        if self.dataset not in DATASETS:
            raise UsageError(f"reasoning-gym has no task {self.dataset!r}. {nearest(self.dataset, DATASETS)}")
        try:
            made = create_dataset(self.dataset, seed=0, size=FEW[0], **dict(self.options))
            _ = made[0]  # some settings fail only here
        except (TypeError, AssertionError, ValueError) as error:
            raise UsageError(f"task {str(self)!r} is not allowed: {error}.") from error
        try:
            _ = made[FAR]
        except IndexError:
            return made, False
        return made, True

    @property
    def held_out_size(self) -> int | None:  # type: ignore[override]
        return None if self._made[1] else FEW[1]

    def example(self, index: int, split: str = "train") -> Example:
        made, endless = self._made
        held_out = self.held_out(split)
        if endless:
            place = FAR + index if held_out else index
        else:
            place = FEW[0] - 1 - index % FEW[1] if held_out else index % (FEW[0] - FEW[1])
        entry = made[place]
        answer = "" if entry["answer"] is None else str(entry["answer"])
        return Example(entry["question"], answer, answer or None, {"entry": entry})

    def reward(self, example: Example, completion: str) -> float:
        try:
            return float(self._made[0].score_answer(final_answer(completion), example.fields["entry"]))
        except Exception:  # verifiers raise various errors on unreadable answers, which count as none
            return 0.0


def _parsed(text: str) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """The name of a data set, and its settings."""
    dataset, *options = text.split(",")
    pairs = [option.partition("=") for option in options]
    return dataset, tuple((name, number(value)) for name, _, value in pairs)

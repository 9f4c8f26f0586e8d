"""The definition of a language task: examples by number, and the reward of a completion."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from surefoot.envs.language.answers import final_answer
from surefoot.errors import UsageError
from surefoot.hyperparameters import build, check
from surefoot.seeding import numpy_stream

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Example:
    """One problem. `prompt` is text, or a list of chat messages; `fields` are passed to reward functions by name."""

    prompt: Any
    answer: str = ""
    demonstration: str | None = None  # a completion that solves it
    fields: Mapping[str, Any] = field(default_factory=dict)
    scored: tuple[tuple[str, float], ...] = ()  # completions that somebody wrote, and their scores


@dataclass(frozen=True)
class Task:
    """Examples by number, always the same for the same number, and a reward in [0, 1] for completions.

    A subclass defines `make(rng)` (or `example`, if the examples come from elsewhere) and, if the reward is not simply
    whether the answer is right, `reward`. Its fields set its difficulty.
    """

    name: ClassVar[str] = ""
    size: ClassVar[int | None] = None  # number of training examples; None: infinite
    held_out_size: ClassVar[int | None] = None  # number of held-out examples; None: infinite
    verified: ClassVar[bool] = True  # whether it has its own verifier

    def __post_init__(self) -> None:
        check(self)

    def make(self, rng: np.random.Generator) -> Example:
        """A random example."""
        raise NotImplementedError

    def example(self, index: int, split: str = "train") -> Example:
        """The example with this number; the two splits use different random streams."""
        self.held_out(split)
        return self.make(numpy_stream(0, f"{self} {split}", index))

    @staticmethod
    def held_out(split: str) -> bool:
        """Whether a split is the held-out one."""
        if split not in SPLITS:
            raise UsageError(f"split={split!r} is not allowed; it must be one of {', '.join(SPLITS)}.")
        return split == "test"

    @classmethod
    def from_text(cls, text: str) -> Task:
        """The task with the fields in a text, such as `digits=2,terms=3`; the first one needs no name."""
        values: dict[str, Any] = {}
        fields = [f.name for f in dataclasses.fields(cls)]
        for part in filter(None, text.split(",")):
            name, equals, value = part.partition("=")
            if not equals:
                name, value = next((f for f in fields if f not in values), part), part
            values[name] = number(value)
        return build(cls, values)

    @property
    def judge(self) -> str:
        """The source of the rewards, for reports."""
        return f"the verifier of {self}"

    def reward(self, example: Example, completion: str) -> float:
        """1 for the answer (see `final_answer`), 0 for anything else."""
        return float(final_answer(completion) == example.answer)

    def label(self, index: int, split: str = "train") -> str:
        """The name of an example in messages."""
        return f"{self}, example {index}"

    def __str__(self) -> str:
        """The text that `resolve` reads."""
        changed = [f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self)]
        return ":".join([self.name, ",".join(changed)]) if changed else self.name


@dataclass(frozen=True)
class OfAnother(Task):
    """The base of tasks that change something of another task, and have all else from it."""

    task: Task

    @property
    def size(self) -> int | None:  # type: ignore[override]
        return self.task.size

    @property
    def held_out_size(self) -> int | None:  # type: ignore[override]
        return self.task.held_out_size

    @property
    def verified(self) -> bool:  # type: ignore[override]
        return self.task.verified

    @property
    def judge(self) -> str:
        return self.task.judge

    def example(self, index: int, split: str = "train") -> Example:
        return self.task.example(index, split)

    def reward(self, example: Example, completion: str) -> float:
        return self.task.reward(example, completion)

    def label(self, index: int, split: str = "train") -> str:
        return self.task.label(index, split)


def number(text: str) -> Any:
    """The number or boolean that a text represents, otherwise the text."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def as_text(prompt: Any) -> str:
    """A prompt as one text; chat messages as JSON."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt)


def messages(prompt: Any) -> bool:
    """Whether a prompt is a list of chat messages."""
    return isinstance(prompt, list) and all(isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in prompt)

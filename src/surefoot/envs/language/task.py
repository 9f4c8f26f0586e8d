"""What a language task is: examples by number, and how well a completion solves one."""

from __future__ import annotations

import dataclasses
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
    """One problem. `prompt` is text, or a list of chat messages; `fields` go to reward functions by name."""

    prompt: Any
    answer: str = ""
    demonstration: str | None = None  # a completion that solves it
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """Examples by number, the same for the same number, and a reward in [0, 1] for what is written.

    A subclass writes `make(rng)` (or `example`, where the examples come from elsewhere) and, where writing the answer
    is not all there is to it, `reward`. Its fields are its difficulty.
    """

    name: ClassVar[str] = ""
    size: ClassVar[int | None] = None  # how many training examples there are; None: as many as are asked for
    held_out_size: ClassVar[int | None] = None  # how many there are that nothing learns from
    verified: ClassVar[bool] = True  # whether it knows itself what a completion is worth

    def __post_init__(self) -> None:
        check(self)

    def make(self, rng: np.random.Generator) -> Example:
        """A random example."""
        raise NotImplementedError

    def example(self, index: int, split: str = "train") -> Example:
        """The example of that number; those of the two splits come from different streams."""
        self.held_out(split)
        return self.make(numpy_stream(0, f"{self} {split}", index))

    @staticmethod
    def held_out(split: str) -> bool:
        """Whether a split is the one that nothing learns from."""
        if split not in SPLITS:
            raise UsageError(f"split={split!r} is not allowed; it must be one of {', '.join(SPLITS)}.")
        return split == "test"

    @classmethod
    def from_text(cls, text: str) -> Task:
        """The task whose fields a text names, such as `digits=2,terms=3`; the first may stand without its name."""
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
        """Who says what a completion is worth, as a report names it."""
        return f"the verifier of {self}"

    def reward(self, example: Example, completion: str) -> float:
        """1 for the answer (see `final_answer`), 0 for anything else."""
        return float(final_answer(completion) == example.answer)

    def label(self, index: int, split: str = "train") -> str:
        """What a message calls an example."""
        return f"{self}, example {index}"

    def __str__(self) -> str:
        """The text that `resolve` reads."""
        changed = [f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self)]
        return ":".join([self.name, ",".join(changed)]) if changed else self.name


def number(text: str) -> Any:
    """A number or truth value if the text is one, the text if not."""
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text

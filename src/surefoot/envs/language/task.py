"""What a language task is: examples by number, and how well a completion solves one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from surefoot.errors import UsageError, nearest
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

    def reward(self, example: Example, completion: str) -> float:
        """1 for the answer, 0 for anything else."""
        return float(completion.strip() == example.answer)

    def __str__(self) -> str:
        """The text that `resolve` reads."""
        changed = [f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self)]
        return ":".join([self.name, ",".join(changed)]) if changed else self.name


MADE_HERE: dict[str, str] = {
    "arithmetic": "surefoot.envs.language.synthetic:Arithmetic",
    "countdown": "surefoot.envs.language.synthetic:Countdown",
    "sorting": "surefoot.envs.language.synthetic:Sorting",
    "reasoning_gym": "surefoot.envs.language.reasoning:ReasoningGym",
}
FILES = (".jsonl", ".json", ".csv", ".parquet")


def tasks() -> list[str]:
    """The names of the tasks."""
    return list(MADE_HERE)


def resolve(given: Any) -> Task:
    """The task itself, or the one that a text stands for: `name`, `name:field=value,…`, or a file of prompts.

    Raises:
        UsageError: there is no such task, or a value is out of range.
    """
    if isinstance(given, Task):
        return given
    if not isinstance(given, (str, Path)):
        raise UsageError(f"task={given!r} is not allowed; give a Task, its name, or a file of prompts.")
    text = str(given)
    if text.endswith(FILES):
        return import_module("surefoot.envs.language.files").read(Path(text))
    name, _, rest = text.partition(":")
    if name not in MADE_HERE:
        raise UsageError(f"task {name!r} is unknown. {nearest(name, MADE_HERE)} A file of prompts ends in .jsonl.")
    module, _, made = MADE_HERE[name].partition(":")
    return getattr(import_module(module), made).from_text(rest)


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

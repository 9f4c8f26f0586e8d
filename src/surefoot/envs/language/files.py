"""Prompts from files: JSON lines, JSON, CSV or Parquet, one problem a row."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from surefoot.envs.language.task import Example, Task
from surefoot.errors import UsageError

LOOKED_AT = 10_000  # rows that are checked before anything starts; the others when they are used
HELD_OUT = 0.1  # the share of the rows, the last ones, that nothing learns from
PROMPT, ANSWER, DEMONSTRATION = ("prompt", "question"), ("answer", "solution"), ("demonstration", "completion")


@dataclass(frozen=True, eq=False)
class Rows(Task):
    """Rows with a prompt (text, or a list of chat messages), and if they have them an answer and a demonstration.

    The last tenth of the rows is held out. All other columns go to the reward functions by their names. Without any
    reward function the reward is that of `mathematics`: whether the completion's last formula equals the answer.
    """

    name: ClassVar[str] = "rows"

    rows: Sequence[Mapping[str, Any]] = ()
    source: str = "rows"

    def __post_init__(self) -> None:
        if len(self.rows) < 2:
            raise UsageError(f"{self.source} has {len(self.rows)} rows; one is learned from and one held out at least.")
        if not set(PROMPT) & set(self.rows[0]):
            raise UsageError(
                f"{self.source} has no column {' or '.join(map(repr, PROMPT))}; its columns are "
                f"{', '.join(map(repr, self.rows[0]))}."
            )
        for place in range(min(len(self.rows), LOOKED_AT)):
            self._prompt(place)

    @property
    def size(self) -> int:  # type: ignore[override]
        """How many rows are learned from."""
        return len(self.rows) - max(1, round(HELD_OUT * len(self.rows)))

    def _prompt(self, place: int) -> Any:
        prompt = _first(self.rows[place], PROMPT)
        if prompt is None:
            raise UsageError(f"{self.source}, row {place + 1}: the prompt is empty; remove the row or fill it in.")
        return prompt

    def example(self, index: int, split: str = "train") -> Example:
        held_out = self.held_out(split)
        place = self.size + index % (len(self.rows) - self.size) if held_out else index % self.size
        row = self.rows[place]
        known = {*PROMPT, *ANSWER, *DEMONSTRATION}
        shown = _first(row, DEMONSTRATION)
        fields = {name: value for name, value in row.items() if name not in known}
        answer = _first(row, ANSWER)
        return Example(self._prompt(place), "" if answer is None else str(answer), shown, fields)

    def reward(self, example: Example, completion: str) -> float:
        if not example.answer:
            raise UsageError(f"{self.source} has no answers to compare with; give reward functions: reward=[…].")
        return mathematics(completion, example.answer)

    def __str__(self) -> str:
        return self.source


def read(path: Path) -> Rows:
    """The rows of a file.

    Raises:
        UsageError: it cannot be read, or a row of it is damaged.
    """
    readers = {".jsonl": _lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    try:
        return Rows(readers[path.suffix](path), str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error


def _lines(path: Path) -> list[Any]:
    return list(_parsed_lines(path))


def _parsed_lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for place, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{path}, line {place} is not JSON ({error}); mend or remove it.") from error
            if not isinstance(row, dict):
                raise UsageError(f"{path}, line {place} is a {type(row).__name__}; every line must be an object.")
            yield row


def _json(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}).") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{path} must hold a list of objects, one a problem.")
    return rows


def _csv(path: Path) -> list[Any]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _parquet(path: Path) -> Any:
    try:
        from datasets import Dataset
    except ImportError as error:
        raise UsageError('Parquet files need datasets: pip install "surefoot[language]".') from error
    return Dataset.from_parquet(str(path))  # stays on disk: rows are read when they are asked for


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "", [])), None)


def mathematics(completion: str, answer: str) -> float:
    """1 if the completion's last formula equals the answer, by math-verify where it is installed, else as text."""
    try:
        from math_verify import parse, verify
    except ImportError:
        return float(completion.strip() == answer.strip())
    if completion.strip() == answer.strip():
        return 1.0
    return float(verify(parse(answer), parse(completion)))

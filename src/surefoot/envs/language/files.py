"""Prompts from files: JSON lines, JSON, CSV or Parquet, one problem a row."""

from __future__ import annotations

import csv
import json
import threading
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from surefoot.envs.language.task import Example, Task
from surefoot.errors import UsageError

LOOKED_AT = 10_000  # rows that are checked before anything starts; the others when they are used
HELD_OUT = 0.1  # the share of the rows, the last ones, that nothing learns from
PROMPT, ANSWER, DEMONSTRATION = ("prompt", "question"), ("answer", "solution"), ("demonstration", "completion")
GIVEN = {"prompt", "prompts", "completion", "completions"}  # under these names reward functions get no columns


@dataclass(frozen=True, eq=False)
class Rows(Task):
    """Rows with a prompt (text, or a list of chat messages), and if they have them an answer and a demonstration.

    The last tenth of the rows is held out. The columns go to the reward functions by their names. Without any reward
    function the reward is that of `mathematics`: whether the completion's last formula equals the answer.
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
                f"{', '.join(map(repr, self.rows[0]))}. Rename the one that holds the prompts."
            )
        for place in range(min(len(self.rows), LOOKED_AT)):
            self._read(place)

    @property
    def size(self) -> int:  # type: ignore[override]
        """How many rows are learned from."""
        return len(self.rows) - max(1, round(HELD_OUT * len(self.rows)))

    @property
    def held_out_size(self) -> int:  # type: ignore[override]
        return len(self.rows) - self.size

    @property
    def verified(self) -> bool:  # type: ignore[override]
        """Whether the rows have answers."""
        return self._has[ANSWER]

    @cached_property
    def _has(self) -> dict[Sequence[str], bool]:
        """Which of the two that may be missing the rows have: what the first one has, all must have."""
        return {names: _first(self.rows[0], names) is not None for names in (ANSWER, DEMONSTRATION)}

    def _read(self, place: int) -> Example:
        row, where = self.rows[place], f"{self.source}, row {place + 1}"
        prompt, answer, shown = (_first(row, names) for names in (PROMPT, ANSWER, DEMONSTRATION))
        if prompt is None:
            raise UsageError(f"{where}: the prompt is empty; remove the row or fill it in.")
        if not isinstance(prompt, str) and not _messages(prompt):
            raise UsageError(
                f"{where}: the prompt {prompt!r} is not allowed; it must be a text, or a list of messages "
                '{"role": …, "content": …}.'
            )
        for names, value in ((ANSWER, answer), (DEMONSTRATION, shown)):
            if (value is not None) != self._has[names]:
                raise UsageError(
                    f"{where}: the {names[0]} is {'missing' if value is None else 'there'}, in row 1 it is not; fill "
                    f"in all rows or none, or give the column another name than {' or '.join(map(repr, names))}."
                )
        if not isinstance(shown, str | None):
            raise UsageError(f"{where}: the demonstration {shown!r} is not allowed; it must be the text to be written.")
        fields = {name: value for name, value in row.items() if name not in GIVEN}
        return Example(prompt, "" if answer is None else str(answer), shown, fields)

    def example(self, index: int, split: str = "train") -> Example:
        return self._read(self.size + index % self.held_out_size if self.held_out(split) else index % self.size)

    def reward(self, example: Example, completion: str) -> float:
        if not self.verified:
            raise UsageError(f"{self.source} has no answers to compare with; give reward functions: reward=[…].")
        return mathematics(completion, example.answer)

    def __str__(self) -> str:
        return self.source


def read(path: Path) -> Rows:
    """The rows of a file. Of JSON lines and Parquet only those that are asked for are in memory.

    Raises:
        UsageError: it cannot be read, or a row of it is damaged.
    """
    readers: dict[str, Callable[[Path], Any]] = {".jsonl": Lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    try:
        return Rows(readers[path.suffix](path), str(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error


class Lines(Sequence[Mapping[str, Any]]):
    """A file of JSON lines: where each begins is remembered, what it says is read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path, self.starts, self.numbers, start = path, array("Q"), array("Q"), 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    self.starts.append(start)
                    self.numbers.append(number)
                start += len(line)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, place: Any) -> Any:
        with self.path.open("rb") as file:
            file.seek(self.starts[place])
            line = file.readline()
        where = f"{self.path}, line {self.numbers[place]}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{where} is not JSON ({error}); mend or remove it.") from error
        if not isinstance(row, dict):
            raise UsageError(f"{where} is a {type(row).__name__}; every line must be an object.")
        return row


def _json(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}); mend it.") from error
    if not isinstance(rows, list):
        raise UsageError(f"{path} is a {type(rows).__name__}; it must hold a list of objects, one a problem.")
    if wrong := [i for i, row in enumerate(rows, 1) if not isinstance(row, dict)]:
        kind = type(rows[wrong[0] - 1]).__name__
        raise UsageError(f"{path}, row {wrong[0]} is a {kind}; every row must be an object.")
    return rows


def _csv(path: Path) -> list[Any]:
    rows = list[Any]()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                if None in row:
                    raise UsageError(
                        f"{path}, row {len(rows) + 1} has more cells than the {len(row) - 1} columns; put cells with a "
                        "comma in quotes."
                    )
                rows.append(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}, row {len(rows) + 1} cannot be read ({error}); mend or remove it.") from error
    return rows


def _parquet(path: Path) -> Any:
    try:
        from datasets import Dataset
        from datasets.exceptions import DatasetGenerationError
    except ImportError as error:
        raise UsageError('Parquet files need datasets: pip install "surefoot[language]".') from error
    try:
        return Dataset.from_parquet(str(path))  # stays on disk: rows are read when they are asked for
    except (DatasetGenerationError, ValueError) as error:
        raise UsageError(f"{path} is not a Parquet file ({error}); write it anew.") from error


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "", [])), None)


def _messages(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in prompt)


def mathematics(completion: str, answer: str) -> float:
    """1 if the completion's last formula equals the answer, by math-verify where it is installed, else as text."""
    if completion.strip() == answer.strip():
        return 1.0
    try:
        from math_verify import parse, verify
    except ImportError:
        return 0.0
    seconds = 5 if threading.current_thread() is threading.main_thread() else None  # its alarm is for the main thread
    gold, found = (parse(text, parsing_timeout=seconds) for text in (answer, completion))  # type: ignore[arg-type]
    gold = gold or parse(f"${answer}$", parsing_timeout=seconds)  # type: ignore[arg-type]
    return float(verify(gold, found, timeout_seconds=seconds))

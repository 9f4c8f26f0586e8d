"""Rows of prompts: files of JSON lines, JSON, CSV or Parquet, or rows in memory; one problem per row."""

from __future__ import annotations

import csv
import json
import math
from array import array
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from surefoot.envs.language import sources
from surefoot.envs.language.answers import mathematics
from surefoot.envs.language.pairs import paired
from surefoot.envs.language.task import Example, Task, messages
from surefoot.errors import UsageError
from surefoot.seeding import numpy_stream

LOOKED_AT = 10_000  # rows checked at the start; further rows are checked when used
HELD_OUT = 0.1  # the share of the rows held out from training
ORDERS = ("random", "last")  # which rows are held out
ENCODING = "utf-8-sig"  # of every text file; skips a byte-order mark at its beginning
PROMPT, ANSWER, DEMONSTRATION = ("prompt", "question"), ("answer", "solution"), ("demonstration", "completion")
SCORES = ("scores", "rewards")  # of the texts in the column "completions"
GIVEN = {"prompt", "prompts", "completion", "completions"}  # columns of these names are not passed to reward functions


@dataclass(frozen=True, eq=False)
class Rows(Task):
    """Rows with a prompt (text, or a list of chat messages), and optionally an answer, a demonstration, and completions
    with their scores.

    A tenth of the rows is held out: chosen at random, always the same for the same number of rows, or the last ones; or
    all the rows of `tested`. The columns are passed to reward functions by name. Without any reward function the reward
    is that of `mathematics`: whether the completion's answer is the row's.
    """

    name: ClassVar[str] = "rows"

    rows: Sequence[Mapping[str, Any]] = ()
    source: str = "rows"
    held_out_rows: str = "random"
    tested: Rows | None = None

    def __post_init__(self) -> None:
        if self.held_out_rows not in ORDERS:
            raise UsageError(f"held_out={self.held_out_rows!r} is not allowed; it must be one of {', '.join(ORDERS)}.")
        if len(self.rows) < 2 and self.tested is None:
            raise UsageError(f"{self.source} has {len(self.rows)} rows; it needs one to learn from and one held out.")
        if not set(PROMPT) & set(self.rows[0]):
            raise UsageError(
                f"{self.source} has no column {' or '.join(map(repr, PROMPT))}; its columns are "
                f"{', '.join(map(repr, self.rows[0]))}. Rename the column with the prompts."
            )
        for place in range(min(len(self.rows), LOOKED_AT)):
            self._read(place)

    def tested_on(self, other: Rows) -> Rows:
        """The same rows, all of them for training, with all the rows of another set held out."""
        if other.verified != self.verified:
            has, lacks = (self, other) if self.verified else (other, self)
            raise UsageError(f"{lacks} has no answers, but {has} has; both must have them, or neither.")
        return replace(self, tested=other)

    @property
    def size(self) -> int:  # type: ignore[override]
        """The number of training rows."""
        return len(self.rows) - (0 if self.tested is not None else self._few)

    @property
    def held_out_size(self) -> int:  # type: ignore[override]
        return self._few if self.tested is None else len(self.tested.rows)

    @property
    def _few(self) -> int:
        return max(1, round(HELD_OUT * len(self.rows)))

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """The indices of the training rows and of the held-out rows, each in row order."""
        count = len(self.rows)
        order = np.arange(count)
        if self.held_out_rows == "random":
            order = numpy_stream(0, "held-out rows", count).permutation(count)
        return np.sort(order[: count - self._few]), np.sort(order[count - self._few :])

    def _place(self, index: int, split: str) -> tuple[Rows, int]:
        """The location of an example: its rows, and its index there."""
        held_out = self.held_out(split)
        if self.tested is not None:
            return (self.tested, index % len(self.tested.rows)) if held_out else (self, index % len(self.rows))
        places = self._places[held_out]
        return self, int(places[index % len(places)])

    @property
    def verified(self) -> bool:  # type: ignore[override]
        """Whether the rows have answers."""
        return self._has[ANSWER]

    @cached_property
    def _has(self) -> dict[Sequence[str], bool]:
        """Which of the two optional columns the rows have: all rows must have those of the first one."""
        return {names: _first(self.rows[0], names) is not None for names in (ANSWER, DEMONSTRATION)}

    def _read(self, place: int) -> Example:
        row, where = self.rows[place], f"{self.source}, row {place + 1}"
        prompt, answer, shown = (_first(row, names) for names in (PROMPT, ANSWER, DEMONSTRATION))
        if prompt is None:
            raise UsageError(f"{where}: the prompt is empty; remove the row or fill it in.")
        if not isinstance(prompt, str) and not messages(prompt):
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
        return Example(prompt, "" if answer is None else str(answer), shown, fields, _scored(row, where))

    def example(self, index: int, split: str = "train") -> Example:
        rows, place = self._place(index, split)
        return rows._read(place)

    def label(self, index: int, split: str = "train") -> str:
        rows, place = self._place(index, split)
        return f"{rows.source}, row {place + 1}"

    def reward(self, example: Example, completion: str) -> float:
        if not self.verified:
            raise UsageError(f"{self.source} has no answers to compare with; give reward functions: reward=[…].")
        return mathematics(completion, example.answer)

    def __str__(self) -> str:
        return self.source


def read(path: Path, held_out: str = "random") -> Rows:
    """The rows of a file. From JSON lines and Parquet files, only the rows that are used are loaded.

    Raises:
        UsageError: it cannot be read, or one of its rows is damaged.
    """
    try:
        return Rows(paired(READERS[path.suffix.lower()](path), str(path)), str(path), held_out)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error


def made(given: Any, held_out: str = "random", name: str | None = None) -> Rows:
    """Rows in memory: a list of dictionaries or any other sequence of them, a data frame, a stream, or splits."""
    given, tested = sources.splits(given)
    rows = sources.sequence(given)
    if wrong := [i for i in range(min(len(rows), LOOKED_AT)) if not isinstance(rows[i], Mapping)]:
        kind = type(rows[wrong[0]]).__name__
        raise UsageError(f"row {wrong[0] + 1} of the task is a {kind}; every row must be a dictionary.")
    name = name or f"<{len(rows)} rows>"
    found = Rows(paired(rows, name), name, held_out)
    return found if tested is None else found.tested_on(made(tested))


def rows(given: Any) -> Rows:
    """Rows from a file, in memory or of the hub, of any number; where there are splits, those to learn from."""
    if isinstance(given, Rows):
        return given
    if not isinstance(given, (str, Path)):
        return made(given)
    if str(given).startswith(sources.HUB):
        return made(sources.from_hub(str(given)), name=str(given))
    if not readable(str(given)):
        raise UsageError(f"test_data={str(given)!r} is not allowed; it must be a file: {', '.join(READERS)}.")
    return read(Path(given))


def readable(name: str) -> bool:
    """Whether a name has the extension of a file of prompts."""
    return name.lower().endswith(tuple(READERS))


class Lines(Sequence[Mapping[str, Any]]):
    """A file of JSON lines: the start of each line is stored, its content is read when it is used."""

    def __init__(self, path: Path) -> None:
        self.path, self.starts, self.numbers, start = path, array("Q"), array("Q"), 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.removeprefix(BOM_UTF8).strip():
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
            row = json.loads(line.decode(ENCODING))
        except ValueError as error:
            raise UsageError(f"{where} is not JSON ({error}); correct or remove it.") from error
        if not isinstance(row, dict):
            raise UsageError(f"{where} is a {type(row).__name__}; every line must be an object.")
        return row


def _json(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_text(encoding=ENCODING))
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}); correct it.") from error
    if not isinstance(rows, list):
        raise UsageError(f"{path} is a {type(rows).__name__}; it must be a list of objects, one per problem.")
    if wrong := [i for i, row in enumerate(rows, 1) if not isinstance(row, dict)]:
        kind = type(rows[wrong[0] - 1]).__name__
        raise UsageError(f"{path}, row {wrong[0]} is a {kind}; every row must be an object.")
    return rows


def _csv(path: Path) -> list[Any]:
    rows = list[Any]()
    try:
        with path.open(encoding=ENCODING, newline="") as file:
            for row in csv.DictReader(file):
                if None in row:
                    raise UsageError(
                        f"{path}, row {len(rows) + 1} has more cells than the {len(row) - 1} columns; put cells with a "
                        "comma in quotes."
                    )
                rows.append(row)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}, row {len(rows) + 1} cannot be read ({error}); correct or remove it.") from error
    return rows


def _parquet(path: Path) -> Any:
    try:
        from datasets import Dataset
        from datasets.exceptions import DatasetGenerationError
    except ImportError as error:
        raise UsageError('Parquet files need datasets: pip install "surefoot[language]".') from error
    try:
        return Dataset.from_parquet(str(path))  # stays on disk: rows are read when they are used
    except (DatasetGenerationError, ValueError) as error:
        raise UsageError(f"{path} is not a Parquet file ({error}); write it again.") from error


READERS: dict[str, Callable[[Path], Any]] = {
    ".jsonl": Lines,
    ".ndjson": Lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}


def _scored(row: Mapping[str, Any], where: str) -> tuple[tuple[str, float], ...]:
    """The completions of a row with their scores; none if one of the two columns is missing."""
    texts, scores = row.get("completions"), _first(row, SCORES)
    if texts is None or scores is None:
        return ()
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UsageError(f"{where}: the completions {texts!r} are not allowed; they must be a list of texts.")
    numbers = isinstance(scores, list) and all(isinstance(x, Real) and math.isfinite(x) for x in scores)
    if not numbers or len(scores) != len(texts):
        raise UsageError(
            f"{where}: the scores {scores!r} are not allowed; they must be a list of {len(texts)} finite numbers, one "
            "per completion."
        )
    return tuple(zip(texts, map(float, scores), strict=True))


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "", [])), None)

"""Logging of metrics: always to `metrics.jsonl`, optionally to TensorBoard, Weights & Biases and trackio."""

from __future__ import annotations

import importlib
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from surefoot.errors import UsageError, nearest
from surefoot.files import parsed_json, read_bytes

Row = dict[str, Any]
LARGEST = 2**63 - 1  # greatest whole number in a row


class Sink(Protocol):
    """Takes the rows of one iteration, one per seed."""

    def __call__(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


def read_rows(path: Path) -> list[Row]:
    """The rows of a `metrics.jsonl`; an incomplete last line, left by a killed process, is ignored.

    Raises:
        UsageError: the file is missing or has another content.
    """
    return [row for row, _ in _read(path)]


def _read(path: Path) -> list[tuple[Row, int]]:
    """The rows of a file, each with the number of bytes up to its end."""
    try:
        data = read_bytes(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error}); give the folder of a run.") from error
    rows, end = list[tuple[Row, int]](), 0
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        end += len(line)
        try:
            rows.append((_row(parsed_json(line.decode())), end))
        except ValueError as error:
            raise UsageError(f"{path}, line {number} is not a row of metrics ({error}); remove that line.") from error
    return rows


def check_row(found: Any) -> None:
    """Raise `ValueError` unless it is a row of metrics: an object of finite numbers and texts."""
    if not isinstance(found, dict):
        raise ValueError("it is not an object")
    for name, value in found.items():
        large = abs(value) > LARGEST if type(value) is int else isinstance(value, float) and not math.isfinite(value)
        if large or not isinstance(value, (int, float, str, NoneType)):
            raise ValueError(f"its {name} is neither a finite number nor a text")


def _row(found: Any) -> Row:
    """The row, if it has its counters; `ValueError` otherwise."""
    check_row(found)
    for name in ("iteration", "step", "seed"):
        if type(found.get(name)) is not int or found[name] < 0:
            raise ValueError(f"its {name} is {found.get(name)!r}")
    return found


class JsonLines:
    """One JSON object per line. On resuming, rows after the checkpoint are removed, so that none appears twice."""

    def __init__(self, path: Path, iteration: int) -> None:
        rows = _read(path) if path.exists() else []
        before = [(row["iteration"], end) for row, end in rows if row["iteration"] <= iteration]
        if iteration and (not before or before[-1][0] < iteration):
            warnings.warn(f"{path} lacks the last rows before iteration {iteration}.", stacklevel=2)
        self._file = open(path, "a")  # noqa: SIM115 (it stays open for the whole run)
        self._file.truncate(before[-1][1] if before else 0)  # unlike rewriting, safe against a kill

    def __call__(self, rows: Sequence[Row]) -> None:
        self._file.write(_text(rows))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def plain(row: Mapping[str, Any]) -> Row:
    """The row with NumPy and torch scalars as Python numbers; a `UsageError` for values that a row cannot hold."""
    found = {
        k: v.item() if isinstance(v, (np.generic, np.ndarray, Tensor)) and v.shape == () else v for k, v in row.items()
    }
    for name, value in found.items():
        if not isinstance(value, (int, float, str, NoneType)):
            raise UsageError(f"A callback put {name}={value!r} into a row of metrics; give a number or a text.")
    return found


def _text(rows: Sequence[Row]) -> str:
    """Rows as lines of ASCII, without numbers that are not finite."""
    finite = ({k: v for k, v in row.items() if not (isinstance(v, float) and not math.isfinite(v))} for row in rows)
    return "".join(json.dumps(row) + "\n" for row in finite)


class TensorBoard:
    """TensorBoard events under `tensorboard/`: one tag per metric, and one sub-folder per seed if there are several.

    The first event marks where the run (re)starts: TensorBoard then discards later events of an earlier process.
    """

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        several = len(config["seeds"]) > 1
        places = {s: run / "tensorboard" / (f"seed-{s}" if several else "") for s in config["seeds"]}
        self._writers = {seed: EventFileWriter(str(place)) for seed, place in places.items()}
        self._event, self._summary, self._started = Event, Summary, set[int]()
        self._start = SessionLog(status=SessionLog.START)

    def __call__(self, rows: Sequence[Row]) -> None:
        for row in rows:
            writer, about = self._writers[row["seed"]], {"step": int(row["step"]), "wall_time": row["time"]}
            if row["seed"] not in self._started:
                writer.add_event(self._event(session_log=self._start, **about))
                self._started.add(row["seed"])
            numbers = {k: v for k, v in row.items() if isinstance(v, (int, float)) and k not in ("step", "seed")}
            values = [self._summary.Value(tag=k, simple_value=float(v)) for k, v in numbers.items()]
            values += [self._text(k, v) for k, v in row.items() if isinstance(v, str)]
            writer.add_event(self._event(summary=self._summary(value=values), **about))
            writer.flush()

    def _text(self, tag: str, text: str) -> Any:
        """A text, for TensorBoard's plugin for texts."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        return text_pb(tag, text).value[0]

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class Tracker:
    """Weights & Biases, or trackio, which has the same interface: one run, in which several seeds are told apart by a
    prefix. Step and time are the tracker's own.

    A resumed run continues in the same place, under the same `config["id"]`.
    """

    def __init__(self, module: str, run: Path, config: Mapping[str, Any]) -> None:
        identity = f"{run.resolve().name}-{config['id']}"
        places = {"wandb": {"id": config["id"], "dir": str(run)}, "trackio": {}}
        try:
            self._run: Any = importlib.import_module(module).init(
                project="surefoot", name=identity, config=dict(config), resume="allow", **places[module]
            )
        except Exception as error:
            raise UsageError(
                f"loggers={module!r}: {module}.init failed ({type(error).__name__}: {error}). Log in first, or use it "
                f"offline ({OFFLINE[module]}), or leave it out of loggers."
            ) from error

    def __call__(self, rows: Sequence[Row]) -> None:
        numbers = {}
        for row in rows:
            prefix = "" if len(rows) == 1 else f"seed-{row['seed']}/"
            numbers |= {prefix + k: v for k, v in row.items() if k not in ("step", "seed", "time")}
        self._run.log(numbers, step=int(rows[0]["step"]))

    def close(self) -> None:
        self._run.finish()


class Progress:
    """One live line in a terminal, nothing elsewhere."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("training", total=total, facts="")
        self._bar.start()

    def __call__(self, rows: Sequence[Row]) -> None:
        returns = [row["return_mean"] for row in rows if "return_mean" in row]
        facts = f"{rows[0]['step']:,} steps · {rows[0]['steps_per_second']:,.0f}/s"
        if returns:
            facts += f" · return {sum(returns) / len(returns):,.1f}"
        self._bar.update(self._task, completed=rows[0]["step"], facts=facts)

    def close(self) -> None:
        self._bar.stop()


SINKS: dict[str, Callable[[Path, Mapping[str, Any]], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": partial(Tracker, "wandb"),
    "trackio": partial(Tracker, "trackio"),
}
OFFLINE = {"wandb": "WANDB_MODE=offline", "trackio": "without TRACKIO_SPACE_ID"}


def check_loggers(names: Sequence[str]) -> None:
    """Raise `UsageError` for a logger that is unknown or whose package is missing."""
    for name in names:
        if name not in SINKS:
            raise UsageError(f"loggers={name!r} is unknown. {nearest(name, SINKS)}")
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(
                f"loggers={name!r} needs the package {name}; install it with: pip install {name}"
            ) from error


def sinks(names: Sequence[str], run: Path, config: Mapping[str, Any], iteration: int) -> Iterator[Sink]:
    """The sinks of a run, `metrics.jsonl` first; `names` are the optional ones."""
    yield JsonLines(run / "metrics.jsonl", iteration)
    for name in names:
        yield SINKS[name](run, config)
    if sys.stderr.isatty():
        yield Progress(config["steps"])

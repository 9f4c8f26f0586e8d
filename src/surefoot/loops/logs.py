"""Where metrics go: always `metrics.jsonl`; TensorBoard, Weights & Biases and trackio where asked for."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from surefoot.errors import UsageError, nearest

Row = dict[str, Any]


class Sink(Protocol):
    """Takes the rows of one iteration, one a seed."""

    def __call__(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One JSON object a line. On resume the rows after the checkpoint are cut off, so that they are not there twice."""

    def __init__(self, path: Path, iteration: int) -> None:
        kept = [line for line in _lines(path) if json.loads(line)["iteration"] <= iteration]
        path.write_text("".join(kept))
        self._file = open(path, "a")  # noqa: SIM115 (it stays open for the whole run)

    def __call__(self, rows: Sequence[Row]) -> None:
        for row in rows:
            finite = {k: v for k, v in row.items() if not (isinstance(v, float) and not math.isfinite(v))}
            self._file.write(json.dumps(finite) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; a last one that a kill cut short is dropped."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.exists() else []


class TensorBoard:
    """TensorBoard events under `tensorboard/`, a tag a metric, a sub-folder a seed when there are several."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined]
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        several = len(config["seeds"]) > 1
        places = {s: run / "tensorboard" / (f"seed-{s}" if several else "") for s in config["seeds"]}
        self._writers = {seed: EventFileWriter(str(place)) for seed, place in places.items()}
        self._event, self._summary = Event, Summary

    def __call__(self, rows: Sequence[Row]) -> None:
        for row in rows:
            numbers = {k: v for k, v in row.items() if isinstance(v, (int, float)) and k not in ("step", "seed")}
            values = [self._summary.Value(tag=k, simple_value=float(v)) for k, v in numbers.items()]
            event = self._event(step=int(row["step"]), wall_time=row["time"], summary=self._summary(value=values))
            self._writers[row["seed"]].add_event(event)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class Tracker:
    """Weights & Biases, or trackio, which has the same calls; one run a seed."""

    def __init__(self, module: str, run: Path, config: Mapping[str, Any]) -> None:
        try:
            self._module = __import__(module)
        except ImportError as error:
            raise UsageError(
                f"loggers={module!r} needs the package {module}; install it with: pip install {module}"
            ) from error
        self._config, self._name, self._run = dict(config), run.name, None

    def __call__(self, rows: Sequence[Row]) -> None:
        if self._run is None:
            self._run = self._module.init(project="surefoot", name=self._name, config=self._config)
        prefixed = {(k if len(rows) == 1 else f"seed-{row['seed']}/{k}"): v for row in rows for k, v in row.items()}
        self._run.log(prefixed)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


class Progress:
    """One live line in a terminal, silence elsewhere."""

    def __init__(self, total: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, transient=True)
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
    "wandb": lambda run, config: Tracker("wandb", run, config),
    "trackio": lambda run, config: Tracker("trackio", run, config),
}


def sinks(names: Sequence[str], run: Path, config: Mapping[str, Any], iteration: int, total: int) -> list[Sink]:
    """The sinks of a run; `names` are the optional ones."""
    for name in names:
        if name not in SINKS:
            raise UsageError(f"loggers={name!r} is unknown. {nearest(name, SINKS)}")
    made: list[Sink] = [JsonLines(run / "metrics.jsonl", iteration), *(SINKS[name](run, config) for name in names)]
    return [*made, Progress(total)] if sys.stderr.isatty() else made

"""The outer loop of every run: iterate, log, checkpoint, stop cleanly."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from surefoot.envs import EnvError
from surefoot.errors import UsageError
from surefoot.loops.common import checkpoint, distributed
from surefoot.loops.common.logs import Row, Sink, plain


class Trainable(Protocol):
    """The interface of a learner for the outer loop."""

    seeds: list[int]
    iteration: int

    @property
    def steps(self) -> int: ...

    def iterate(self) -> list[Row]: ...

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: Mapping[str, Tensor], iteration: int, logged: int) -> None: ...

    def lost(self) -> list[int]: ...  # the seeds whose weights are no longer finite

    def flush(self) -> int: ...  # how many logged steps, which `load` replays, are safely on disk

    def close(self) -> None: ...

    def agent(self, index: int = 0, **facts: Any) -> Any: ...


ENDINGS = {int(signal.SIGINT): "interrupted", int(signal.SIGTERM): "terminated"}


Callback = Callable[[Any, list[Row]], bool | None]
"""Called after every iteration with the learner and its rows of metrics, to which it may add; True ends the run."""


def train(
    learner: Trainable,
    run: Path,
    total_steps: int,
    *,
    sinks: Sequence[Sink],
    callbacks: Sequence[Callback] = (),
    checkpoint_every: int,
    time_limit: float | None = None,
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Iterate until `total_steps` per seed, or until a learner is `finished` before that, and return why it ended:
    "finished", "stopped" (by a callback or the time limit), "interrupted" (Ctrl-C) or "terminated" (SIGTERM).

    A checkpoint is written at the start of a new run, every `checkpoint_every` steps and at the end, whatever ends it
    except a kill; `facts` go into its JSON. A signal ends the run after the current iteration, a second one
    immediately.

    Raises:
        UsageError, EnvError: the environment failed, numbers are not finite, or the disk is full; the message names
            the last checkpoint.
    """
    began, due, reason = time.monotonic(), learner.steps + checkpoint_every, "finished"
    saved = learner.iteration  # that of the checkpoint from which a run is resumed
    if saved == 0:
        _checkpoint(learner, run, facts)
    with _signals() as caught:
        while learner.steps < total_steps and reason == "finished" and not getattr(learner, "finished", False):
            before, tick = learner.steps, time.monotonic()
            rows = _iterate(learner, run)
            pace = (learner.steps - before) * len(rows) / (time.monotonic() - tick)
            for seed, row in zip(learner.seeds, rows, strict=True):
                clock = {"time": time.time(), "steps_per_second": round(pace, 1)}
                row.update({"iteration": learner.iteration, "step": learner.steps, "seed": seed, **clock})
            learned = [dict(row) for row in rows]
            try:
                stop = any([callback(learner, rows) for callback in callbacks])  # noqa: C419 (every one is called)
                rows = [plain(row) for row in rows]
            except Exception as error:  # raised by a callback; what was learned so far is saved
                _log(sinks, learned, run)
                _checkpoint(learner, run, facts)
                error.add_note(checkpoint.resumable(run))
                raise
            _log(sinks, rows, run)
            if distributed.anywhere(stop or (time_limit is not None and time.monotonic() - began > time_limit)):
                reason = "stopped"
            reason = _ended_by(caught) or reason
            if learner.steps >= due and reason == "finished":
                _checkpoint(learner, run, facts)
                saved, due = learner.iteration, learner.steps + checkpoint_every
        if learner.iteration != saved:
            _checkpoint(learner, run, facts)
        return _ended_by(caught) or reason


def _ended_by(caught: Sequence[int]) -> str | None:
    """Why the run ends, if any of the processes received a signal."""
    return ENDINGS.get(distributed.largest(max(caught, default=0)))


def check_ended(reason: str, run: Path) -> None:
    """End the script after a signal, once its run is saved; the error has the folder as its attribute `run`.

    Raises:
        KeyboardInterrupt: Ctrl-C ended the run.
        SystemExit: SIGTERM ended the run; the exit code is 143.
    """
    resumed = f"{run} was interrupted; resume it with: surefoot train --resume {run}"
    errors = {"interrupted": KeyboardInterrupt(resumed), "terminated": SystemExit(128 + signal.SIGTERM)}
    if reason in errors:
        error: Any = errors[reason]
        error.run = run
        raise error


def _log(sinks: Sequence[Sink], rows: Sequence[Row], run: Path) -> None:
    with checkpoint.writing(run / "metrics", run):
        for sink in sinks:
            sink(rows)


def _iterate(learner: Trainable, run: Path) -> list[Row]:
    """One iteration; errors name the last checkpoint, and how to resume where that can help."""
    with checkpoint.writing(run / "actions.bin", run):
        try:
            rows = learner.iterate()
        except UsageError as error:
            raise UsageError(f"{error} {checkpoint.last_saved(run)}") from error
        except EnvError as error:
            raise EnvError(
                f"{error} {checkpoint.last_saved(run)} Once the environment is fixed, resume with: surefoot train "
                f"--resume {run}"
            ) from error
        except (EOFError, ConnectionError) as error:  # a pipe to a process that has died
            raise EnvError(
                f"A worker process of the environments died ({type(error).__name__}). The usual cause is a lack "
                f"of memory: use fewer environments. backend='gymnasium' shows the reason. {checkpoint.resumable(run)}"
            ) from error
    _check_finite(learner, run)
    return rows


def _checkpoint(learner: Trainable, run: Path, facts: Mapping[str, Any] | None) -> None:
    with checkpoint.writing(run / "actions.bin", run):
        logged = learner.flush()
    counters = {"iteration": learner.iteration, "steps": learner.steps, "logged": logged, "seeds": learner.seeds}
    state = learner.state()
    if distributed.rank() == 0:
        checkpoint.write(run, state, {**counters, **(facts or {})})


def _check_finite(learner: Trainable, run: Path) -> None:
    lost = learner.lost()
    if not lost:
        return
    raise UsageError(
        f"The weights of seed {', '.join(map(str, lost))} are no longer finite after {learner.steps:,} steps; the run "
        f"stops here. {checkpoint.last_saved(run)} A smaller learning_rate, a smaller max_grad_norm, or normalised "
        "rewards and observations usually help."
    )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that collects the signals to end; from the second one on, signals have their usual effect."""
    caught: list[int] = []

    def note(number: int, frame: Any) -> None:
        caught.append(number)
        signal.signal(number, previous[number] or signal.SIG_DFL)

    previous: dict[int, Any] = {}
    for number in ENDINGS:
        try:
            previous[number] = signal.signal(number, note)
        except ValueError:  # not in the main thread, which handles the signals
            break
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)

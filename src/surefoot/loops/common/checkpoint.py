"""Checkpoints: one safetensors file and one JSON file in a folder that is written atomically.

Nothing is pickled and loading runs no code. A checkpoint is written next to its final place, flushed to disk and
renamed, and an old one is renamed before it is removed: if the process is killed at any moment, the last complete
checkpoint remains.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.files import opened, read_bytes, read_json, sync, write_durably

FORMAT = "surefoot-checkpoint-1"
KEEP = 2
COUNTERS = ("iteration", "steps", "logged")


class Checkpoint(NamedTuple):
    """A complete checkpoint: its folder, its tensors by name, and the content of its `meta.json`."""

    place: Path
    state: dict[str, Tensor]
    facts: dict[str, Any]


def write(run: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write a checkpoint of `run` for `facts["iteration"]`, and remove all but the newest two. If the same checkpoint
    already exists, nothing is written.

    Raises:
        UsageError: it could not be written (a full disk, no permission); earlier checkpoints are untouched.
    """
    place = run / "checkpoints" / f"{facts['iteration']:08d}"
    draft, aside = _draft(place), _backup(place)
    with writing(place, run):
        data = save({name: x.contiguous() for name, x in state.items()})
        meta = {"format": FORMAT, "sha256": hashlib.sha256(data).hexdigest(), **facts}
        meta = json.loads(json.dumps({**meta, "meta_sha256": _digest(meta)}))
        with suppress(UsageError):
            if _facts(place) == meta:
                return place
        try:
            for rest in (draft, aside):
                shutil.rmtree(rest, ignore_errors=True)
            draft.mkdir(parents=True)
            for name in ("metrics.jsonl", "actions.bin"):
                sync(run / name)  # what a checkpoint refers to must be on disk before it
            write_durably(draft / "state.safetensors", data)
            write_durably(draft / "meta.json", json.dumps(meta, indent=2))
            sync(draft)
            if place.exists():
                os.replace(place, aside)
            os.replace(draft, place)
            sync(place.parent)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            if aside.exists() and not place.exists():
                os.replace(aside, place)
            raise
    for old in found(run)[:-KEEP]:
        with suppress(OSError):
            os.replace(old, old.with_name(f".{_number(old)}.removed"))
    for rest in (run / "checkpoints").glob(".*"):
        shutil.rmtree(rest, ignore_errors=True)
    return place


def _draft(place: Path) -> Path:
    return place.with_name(f".{place.name}.part")


def _backup(place: Path) -> Path:
    """The name of a checkpoint while it is being replaced."""
    return place.with_name(f".{place.name}.old")


def _digest(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


@contextmanager
def writing(what: Path, run: Path) -> Iterator[None]:
    """Turn a failure to write (a full disk, no permission) into a `UsageError` that says what the run has saved."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{what} could not be written: {error}. Free disk space or correct the permissions. {resumable(run)}"
        ) from error


def resumable(run: Path) -> str:
    """How to resume a run that stopped for a reason that need not recur, and from which checkpoint."""
    last = latest(run)
    if last is None:
        return "Nothing had been trained yet; start the run again."
    if not int(last.name):
        return f"Nothing had been trained yet; start it with: surefoot train --resume {run}"
    return f"Nothing before the checkpoint {last} is lost; resume from it with: surefoot train --resume {run}"


def last_saved(run: Path) -> str:
    """What a run has saved that stopped for a reason that would recur."""
    last = latest(run)
    if last is None or not int(last.name):
        return "Nothing had been trained yet."
    return f"The last checkpoint is {last}."


def found(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, including damaged ones."""
    folder = run / "checkpoints"
    places = {p.name: p for p in folder.glob("[0-9]*") if p.name.isdecimal()}
    for aside in folder.glob(".[0-9]*.old"):  # left by a kill between the two renames of a replacement
        if (name := aside.name.split(".")[1]).isdecimal():
            places.setdefault(name, aside)
    return [places[name] for name in sorted(places, key=int)]


def latest(run: Path) -> Path | None:
    """The newest complete checkpoint of a run, if there is one."""
    for place in reversed(found(run)):
        with suppress(UsageError):
            _facts(place)
            return place
    return None


def newest(run: Path) -> Checkpoint | None:
    """The newest complete checkpoint of a run; None if it has no checkpoints. Damaged ones are skipped with a warning
    that names them.

    Raises:
        UsageError: there are checkpoints, and all of them are damaged.
    """
    damaged: list[str] = []
    for place in reversed(found(run)):
        try:
            checkpoint = Checkpoint(place, *read(place))
        except UsageError as error:
            damaged.append(str(error))
            continue
        if damaged:
            warnings.warn(f"{' '.join(damaged)} The run is resumed from {place}.", stacklevel=4)
        return checkpoint
    if damaged:
        raise UsageError(f"{run} has no undamaged checkpoint. {' '.join(damaged)} Start a new run.")
    return None


def set_aside(run: Path, iteration: int) -> None:
    """Rename the damaged checkpoints that are newer than the one from which the run is resumed."""
    for place in found(run):
        if _number(place) > iteration:
            os.replace(place, place.with_name(f"damaged-{place.name.strip('.')}-{os.getpid()}"))


def _number(place: Path) -> int:
    return int(place.name.strip(".").partition(".")[0])


def read(place: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state and the facts of a checkpoint.

    Raises:
        UsageError: a file is missing, damaged, or was not written by Surefoot.
    """
    facts = _facts(place)
    try:
        return load(read_bytes(place / "state.safetensors")), facts
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UsageError(f"{place}/state.safetensors is damaged: {error}.") from error


def _facts(place: Path) -> dict[str, Any]:
    """The content of `meta.json`, once the checksums of both files are verified; the state is not loaded."""
    try:
        facts = read_json(place / "meta.json")
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        if lacking := sorted({*COUNTERS, "seeds", "sha256", "meta_sha256"} - facts.keys()):
            raise ValueError(f"it lacks {', '.join(lacking)}")
        if _digest({name: x for name, x in facts.items() if name != "meta_sha256"}) != facts["meta_sha256"]:
            raise ValueError("its checksum is not the recorded one")
        if wrong := [name for name in COUNTERS if type(facts[name]) is not int or facts[name] < 0]:
            raise ValueError(f"{wrong[0]}={facts[wrong[0]]!r} is not a count")
        if facts["iteration"] != _number(place):
            raise ValueError(f"it belongs to iteration {facts['iteration']}")
    except (OSError, ValueError) as error:
        raise UsageError(f"{place}/meta.json is damaged: {error}.") from error
    try:
        with opened(place / "state.safetensors") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"]:
                raise ValueError("its checksum is not the recorded one")
    except (OSError, ValueError) as error:
        raise UsageError(f"{place}/state.safetensors is damaged: {error}.") from error
    return facts

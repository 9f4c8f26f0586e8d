"""Checkpoints: one safetensors file and one JSON file in a folder that appears whole or not at all.

Nothing is pickled and loading runs no code. A checkpoint is written beside its final place, flushed to the disk and
renamed, so a kill at any moment leaves the last good one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from surefoot.errors import UsageError

FORMAT = "surefoot-checkpoint-1"
KEEP = 2


def write(run: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write a checkpoint of `run` for `facts["iteration"]`, and remove all but the newest two.

    Raises:
        UsageError: it could not be written (a full disk, no permission); earlier checkpoints are untouched.
    """
    place = run / "checkpoints" / f"{facts['iteration']:08d}"
    draft = place.with_name(f".{place.name}.part")
    with writing(place, run):
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            data = save({name: x.contiguous() for name, x in state.items()})
            _durable(draft / "state.safetensors", data)
            meta = {"format": FORMAT, "sha256": hashlib.sha256(data).hexdigest(), **facts}
            _durable(draft / "meta.json", json.dumps(meta, indent=2).encode())
            shutil.rmtree(place, ignore_errors=True)
            os.replace(draft, place)
        except OSError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    for old in found(run)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return place


@contextmanager
def writing(what: Path, run: Path) -> Iterator[None]:
    """Turns a failure to write (a full disk, no permission) into a `UsageError` that says what a run keeps."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{what} could not be written: {error}. Make room or set the permissions right. {kept(run)}"
        ) from error


def kept(run: Path) -> str:
    """What is not lost when a run breaks off, and how to go on with it."""
    last = latest(run)
    if last is None:
        return "Nothing had been trained yet; start the run again."
    return f"Nothing up to the checkpoint {last} is lost; go on from there with: surefoot train --resume {run}"


def _durable(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def found(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(p for p in (run / "checkpoints").glob("[0-9]*") if (p / "meta.json").exists())


def latest(run: Path) -> Path | None:
    """The newest checkpoint of a run, if there is one."""
    every = found(run)
    return every[-1] if every else None


def read(place: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state and the facts of a checkpoint.

    Raises:
        UsageError: a file is missing, damaged, or was not written by Surefoot.
    """
    try:
        facts = json.loads((place / "meta.json").read_text())
        data = (place / "state.safetensors").read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"{place} is not a readable checkpoint ({error}); {instead(place)}") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise UsageError(f"{place}/meta.json is not of the format {FORMAT!r}, so it is not loaded; {instead(place)}")
    try:
        if hashlib.sha256(data).hexdigest() != facts.get("sha256"):
            raise SafetensorError("its checksum is not the recorded one")
        return load(data), facts
    except SafetensorError as error:
        raise UsageError(f"{place}/state.safetensors is damaged: {error}; {instead(place)}") from error


def instead(place: Path) -> str:
    """What to do where a checkpoint cannot be used."""
    others = [p for p in found(place.parent.parent) if p != place]
    return f"remove it to resume from {others[-1]}." if others else "start a new run."

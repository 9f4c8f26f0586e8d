"""Data that an experiment reads and that do not come with the package: files in the folder that the reader names.

surefoot claim prospect --tier instance --data FOLDER
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from surefoot.errors import UsageError

_FOLDER: ContextVar[Path | None] = ContextVar("folder of given data", default=None)


@contextmanager
def folder(path: Path | None) -> Iterator[None]:
    """Experiments within read their data in this folder."""
    token = _FOLDER.set(path)
    try:
        yield
    finally:
        _FOLDER.reset(token)


def file(name: str, what: str) -> Path:
    """The file of this name in the given folder.

    Raises:
        UsageError: no folder was given, or it lacks the file; `what` says where the file comes from.
    """
    place = _FOLDER.get()
    if place is None or not (place / name).is_file():
        where = "no folder was given" if place is None else f"{place} does not have it"
        raise UsageError(f"this experiment reads {name} ({what}), and {where}. Give its folder with --data FOLDER.")
    return place / name

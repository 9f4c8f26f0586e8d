"""Reading files of unknown origin, which must be regular files, and writing files atomically."""

from __future__ import annotations

import errno
import json
import os
import stat
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

DEEPEST = 100  # levels of nested JSON; Surefoot itself writes fewer than ten


def opened(path: str | Path) -> BufferedReader:
    """The file, open for reading.

    Raises:
        OSError: it is missing, unreadable, or not a regular file (reading a named pipe blocks, a device has no end).
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "It is not a regular file", str(path))
    return file


def read_bytes(path: str | Path) -> bytes:
    """All bytes of a regular file; `OSError` for anything else."""
    with opened(path) as file:
        return file.read()


def read_text(path: str | Path) -> str:
    """The text of a regular file in UTF-8; `OSError` for anything else, `ValueError` for another encoding."""
    return read_bytes(path).decode()


def parsed_json(text: str) -> Any:
    """The value of a JSON text; `ValueError` if it is not JSON or is nested more than a hundred levels deep."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level = [found]
    for _ in range(DEEPEST):
        inner = (x.values() if isinstance(x, dict) else x for x in level if isinstance(x, (dict, list)))
        level = [x for values in inner for x in values if isinstance(x, (dict, list))]
        if not level:
            return found
    raise ValueError("it is nested too deeply")


def read_json(path: str | Path) -> Any:
    """The value in a regular JSON file; `OSError` or `ValueError` if there is none."""
    return parsed_json(read_text(path))


def write_whole(path: str | Path, data: str | bytes) -> None:
    """Write a file atomically: after a crash at any moment it has either the old content or the new. A draft is written
    next to it, flushed to disk, and renamed.

    Raises:
        OSError: it could not be written; the draft is removed and the old content remains.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write_durably(draft, data)
        os.replace(draft, path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def is_draft(path: Path) -> bool:
    """Whether a file is a draft, which a killed process leaves behind."""
    return path.name.startswith(".") and path.name.endswith(".part")


def write_durably(path: Path, data: str | bytes) -> None:
    """Write a file and flush it to disk."""
    with open(path, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Flush the content of a file or the entries of a folder to disk, if the file system supports it."""
    with suppress(OSError):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)

"""Large arrays of a file, mapped into memory instead of read: the system loads what is touched, and lets it go again.

They are private to the process: writing to one never reaches the file. A file that another program shortens meanwhile
ends the process, as with any mapping; our own writers replace files whole. What a file holds in many pieces, compressed
or in another type is put together in a scratch file and mapped from there.
"""

from __future__ import annotations

import math
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from surefoot.errors import UsageError
from surefoot.files import opened

LARGE = 2**28  # bytes from which on an array is mapped; smaller ones are faster, and a .npz is checked, when read
SPILL = 2**20  # bytes that are written to a scratch file together
BLOCK = 2**22  # numbers that are looked at together
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
LOCAL = 30  # bytes of a member's header in a zip file before its name, which ends with the lengths of two names


def of_zip(file: BufferedReader, archive: zipfile.ZipFile, name: str) -> NDArray[Any] | None:
    """The array of a .npz that is large and stored in rows; None for any other, which is to be read.

    Raises:
        ValueError: the file ends before the array does.
    """
    info = archive.getinfo(f"{name}.npy") if f"{name}.npy" in archive.namelist() else None
    if info is None or info.file_size < LARGE:
        return None
    with archive.open(info) as member:
        read = HEADERS.get(npy.read_magic(member))
        shape, columns, kind = read(member) if read else ((), True, np.dtype(object))
        begin = member.tell()
        if columns or kind.kind not in "fiub" or begin + math.prod(shape) * kind.itemsize != info.file_size:
            return None
        if info.compress_type != zipfile.ZIP_STORED:
            size = next(blocks(shape)).stop * math.prod(shape[1:]) * kind.itemsize
            parts = iter(partial(member.read, size), b"")
            return together(np.frombuffer(part, kind).reshape(-1, *shape[1:]) for part in parts)
    file.seek(info.header_offset + LOCAL - 4)
    begin += info.header_offset + LOCAL + sum(struct.unpack("<HH", file.read(4)))
    return np.memmap(file, kind, "c", begin, shape)


def of_hdf5(found: Any, path: Path) -> NDArray[Any] | None:
    """A dataset of an HDF5 file that is stored in one piece; None for any other, which is to be read."""
    if found.file.userblock_size or (begin := found.id.get_offset()) is None:
        return None
    with opened(path) as file:
        return np.memmap(file, found.dtype, "c", begin, found.shape)


# --- arrays in pieces -------------------------------------------------------------------------------------------------


class Rows:
    """An array whose rows come piece by piece. One that grows large is written to a scratch file, and mapped from it.

    The scratch file lies in $TMPDIR, or else in /var/tmp, which is on a disk where /tmp may be memory. It has no name:
    it is gone as soon as the array or the process is.
    """

    def __init__(self, name: str = "the array") -> None:
        self.name = name
        self.parts: list[NDArray[Any]] = []
        self.file: IO[bytes] | None = None
        self.like: NDArray[Any] | None = None
        self.count = self.waiting = 0  # rows that came, and bytes of them that are in memory

    def add(self, part: NDArray[Any]) -> None:
        """Append rows.

        Raises:
            UsageError: they have another shape or type than those before, or the disk is full.
        """
        if self.like is None:
            self.like = np.empty((0, *part.shape[1:]), part.dtype)
        if (part.shape[1:], part.dtype) != (self.like.shape[1:], self.like.dtype):
            raise UsageError(
                f"{self.name}: row {self.count:,} has the shape {part.shape[1:]} and the type {part.dtype}, the rows "
                f"before it have {self.like.shape[1:]} and {self.like.dtype}; all episodes need the same."
            )
        self.parts.append(part)
        self.count, self.waiting = self.count + len(part), self.waiting + part.nbytes
        if self.waiting >= (SPILL if self.file else LARGE):
            self._spill()

    def _spill(self) -> None:
        folder = os.environ.get("TMPDIR", "/var/tmp")
        try:
            if self.file is None:
                self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            for part in self.parts:
                self.file.write(np.ascontiguousarray(part).data)
            self.file.flush()  # a full disk is an error here, and not a crash when the mapping is read
        except OSError as error:
            raise UsageError(
                f"the data are too many for memory, and the scratch file for them cannot be written to {folder}: "
                f"{error}. Set TMPDIR to a folder on a disk with more room."
            ) from error
        self.parts, self.waiting = [], 0

    def array(self) -> NDArray[Any]:
        """All rows; at least one piece must have come."""
        if self.file is None:
            return np.concatenate(self.parts)
        self._spill()
        assert self.like is not None
        with self.file as file:
            return np.memmap(file, self.like.dtype, "c", 0, (self.count, *self.like.shape[1:]))


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of an array of this shape, as many at a time as hold `BLOCK` numbers."""
    size = max(1, BLOCK // max(1, math.prod(shape[1:])))
    return (slice(first, first + size) for first in range(0, shape[0], size))


def together(parts: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """The rows of all pieces as one array, mapped if they are many."""
    rows = Rows()
    for part in parts:
        rows.add(part)
    return rows.array()

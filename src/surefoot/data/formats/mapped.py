"""Large arrays of a file, mapped into memory instead of read: the system loads what is touched, and lets it go again.

They are private to the process: writing to one never reaches the file. A file that another program shortens meanwhile
ends the process, as with any mapping; our own writers replace files whole.
"""

from __future__ import annotations

import math
import struct
import zipfile
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from surefoot.files import opened

LARGE = 2**28  # bytes from which on an array is mapped; smaller ones are faster, and a .npz is checked, when read
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
LOCAL = 30  # bytes of a member's header in a zip file before its name, which ends with the lengths of two names


def of_zip(file: BufferedReader, archive: zipfile.ZipFile, name: str) -> NDArray[Any] | None:
    """The array of a .npz that is large, stored as it is and in rows; None for any other, which is to be read.

    Raises:
        ValueError: the file ends before the array does.
    """
    info = archive.getinfo(f"{name}.npy") if f"{name}.npy" in archive.namelist() else None
    if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size < LARGE:
        return None
    with archive.open(info) as member:
        read = HEADERS.get(npy.read_magic(member))
        shape, columns, kind = read(member) if read else ((), True, np.dtype(object))
        begin = member.tell()
    if columns or kind.kind not in "fiub" or begin + math.prod(shape) * kind.itemsize != info.file_size:
        return None
    file.seek(info.header_offset + LOCAL - 4)
    begin += info.header_offset + LOCAL + sum(struct.unpack("<HH", file.read(4)))
    return np.memmap(file, kind, "c", begin, shape)


def of_hdf5(found: Any, path: Path) -> NDArray[Any] | None:
    """The dataset of an HDF5 file that is large and stored in one piece; None for any other, which is to be read."""
    if found.nbytes < LARGE or found.file.userblock_size or (begin := found.id.get_offset()) is None:
        return None
    with opened(path) as file:
        return np.memmap(file, found.dtype, "c", begin, found.shape)

"""Refusing sizes that do not fit into memory before anything is allocated."""

from __future__ import annotations

import os

from surefoot.errors import UsageError


def check_memory(wanted: int, what: str, remedy: str = "Give a smaller one, or a sparse one.") -> None:
    """Raise `UsageError` unless `wanted` bytes are free, before anything is allocated."""
    free = _free_memory()
    if wanted > free:
        raise UsageError(f"{what} needs {wanted / 2**30:,.1f} GiB, but {free / 2**30:,.1f} GiB are free. {remedy}")


def _free_memory() -> int:
    """Bytes usable without swapping: the memory that the system reports as available, or else its total memory."""
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**62

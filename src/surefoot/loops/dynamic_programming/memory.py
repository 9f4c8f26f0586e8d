"""Whether an array will fit, asked before it is made."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from surefoot.errors import UsageError


def available_memory() -> float:
    """Bytes that can still be had, or infinity where the system does not say."""
    try:
        with open("/proc/meminfo") as lines:
            return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return math.inf


def check_memory(shape: Sequence[int], what: str) -> None:
    """Raise `UsageError` where an array of float64 of this shape does not fit."""
    needed, there = 8.0 * math.prod(shape), available_memory()
    if needed > there:
        raise UsageError(
            f"{what} is {list(shape)} numbers, {needed / 2**30:.1f} GiB, but {there / 2**30:.1f} GiB of memory are "
            "left. Use fewer states, or a set that keeps to the successors, such as one with support='nominal'."
        )

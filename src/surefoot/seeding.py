"""Named random streams from one seed.

Every consumer derives its own stream: `torch_stream(seed, "action noise", iteration)` gives the same generator
wherever and whenever it is called. A resumed run therefore needs no generator state, only its counters.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch

from surefoot.errors import UsageError

MAX_SEED = 2**31 - 1


def check_seed(seed: int) -> int:
    """The seed, if it is a whole number in [0, 2**31 - 1]; a `UsageError` otherwise."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= MAX_SEED:
        raise UsageError(f"seed={seed!r} is not allowed; it must be a whole number in [0, {MAX_SEED}].")
    return int(seed)


def _sequence(seed: int, name: str, counter: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(name.encode()), counter])


def derive(seed: int, name: str, counter: int = 0) -> int:
    """A whole number in [0, 2**31 - 1] that depends on all three arguments."""
    return int(_sequence(seed, name, counter).generate_state(1)[0]) & MAX_SEED


def numpy_stream(seed: int, name: str, counter: int = 0) -> np.random.Generator:
    """A fresh NumPy generator for one consumer."""
    return np.random.Generator(np.random.PCG64(_sequence(seed, name, counter)))


def torch_stream(seed: int, name: str, counter: int = 0) -> torch.Generator:
    """A fresh torch (CPU) generator for one consumer."""
    low, high = (int(x) for x in _sequence(seed, name, counter).generate_state(2))
    return torch.Generator().manual_seed((high << 32 | low) & (2**63 - 1))

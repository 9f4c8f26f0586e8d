"""What continues a list of examples, and the simplest that does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Key = tuple[float, ...]
Line = tuple[Key, float]
"""An example: a key, and the number that followed it."""


class Predictor(Protocol):
    """What follows the query, judging by the examples; None if it cannot say."""

    def __call__(self, examples: Sequence[Line], query: Key, rng: np.random.Generator) -> float | None: ...


@dataclass(frozen=True)
class Lookup:
    """One of the examples with the same key, at random: the stand-in for a sequence model that only copies."""

    def __call__(self, examples: Sequence[Line], query: Key, rng: np.random.Generator) -> float | None:
        found = [target for key, target in examples if key == query]
        return found[int(rng.integers(len(found)))] if found else None

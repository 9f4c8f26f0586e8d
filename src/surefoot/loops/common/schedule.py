"""The learning rate over a run, for every loop that has one:

    rate · min(1, (t + n)/w) · d(t/T)        d = 1 (none), 1 − t/T (linear) or ½(1 + cos(π t/T)) (cosine)

at step t of T, n steps an iteration and w steps of warm-up. Steps are those of the run: of the environment for control,
iterations for language models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from surefoot.hyperparameters import hyperparameter

DECAYS = ("none", "linear", "cosine")
_FLAGS: Mapping[Any, str] = {True: "linear", False: "none"}


def annealing(default: str = "none") -> Any:
    """The field `anneal` of a method; True means linear, False none."""
    return hyperparameter(
        default,
        choices=DECAYS,
        aliases=_FLAGS,
        help="Decay of the learning rate to 0 over the run.",
    )


def warming(unit: str) -> Any:
    """The field `warmup: int` of a method whose steps are in this unit."""
    return hyperparameter(0, low=0, help=f"Warm-up {unit}, over which the learning rate rises.")


def scheduled(rate: float, decay: str, warmup: int, step: int, pace: int, total: int) -> float:
    """The learning rate of the iteration that begins at `step`, of `pace` steps, in a run of `total`."""
    risen, done = min(1.0, (step + pace) / max(1, warmup)), step / max(1, total)
    left = {"none": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * min(1.0, done)))}[decay]
    return rate * risen * max(left, 0.0)


def words(decay: str, warmup: int) -> str:
    """A schedule after the number of its learning rate, for `explain`; empty for a constant one."""
    parts = [f"over a warm-up of {warmup:,} steps"] if warmup else []
    parts += {"none": [], "linear": ["decaying linearly to 0"], "cosine": ["decaying to 0 along a cosine"]}[decay]
    return "".join(f", {part}" for part in parts)

"""The data set of a run by the number of the step, and what is drawn of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError


class Logged(NamedTuple):
    """Transitions of a data set; after `ended` there is nothing to be had."""

    observation: Float[Tensor, "rows size"]
    action: Float[Tensor, "rows dim"]
    reward: Float[Tensor, "rows"]
    next_observation: Float[Tensor, "rows size"]
    ended: Bool[Tensor, "rows"]


def by_step(data: Transitions, steps: int) -> dict[str, NDArray[Any]]:
    """The columns of `Logged` in the order of the number of their `step`, of which an episode has `steps`. Where it has
    no more, it has ended, also if a time limit cut it.

    Raises:
        UsageError: an observation does not end with the number of its step.
    """
    step = data.observation[:, -1]
    if (wrong := (step != step.round()) | (step < 0) | (step >= steps)).any():
        row = int(wrong.argmax())
        raise UsageError(
            f"{data.name} has {step[row]:g} as the last entry of the observation in row {row:,}; it must be the number "
            f"of the step, from 0 to {steps - 1}. Record the data in the environment in which the method trains."
        )
    order = np.argsort(step, kind="stable")
    columns = {name: getattr(data, name)[order] for name in ("observation", "action", "reward", "next_observation")}
    return {**columns, "ended": (data.terminated | (step == steps - 1))[order], "step": step[order]}


def drawn(columns: Mapping[str, Tensor], steps: int, count: int, generator: torch.Generator) -> dict[int, Logged]:
    """`count` rows of each step, uniformly with replacement, by its number; none where there are no data."""
    found: dict[int, Logged] = {}
    if not columns:
        return found
    bounds = torch.searchsorted(columns["step"], torch.arange(steps + 1, dtype=columns["step"].dtype)).tolist()
    for h, (first, past) in enumerate(zip(bounds, bounds[1:], strict=False)):
        if first < past:
            rows = torch.randint(first, past, (count,), generator=generator)
            found[h] = Logged(*(columns[name][rows] for name in Logged._fields))
    return found

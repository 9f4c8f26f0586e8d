"""Layouts that store every state once: T + 1 observations for the T transitions of an episode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surefoot.data.transitions import Transitions, gathered
from surefoot.errors import UsageError


class Episode(NamedTuple):
    """One episode: `[T + 1, ...]` observations, and `[T, ...]` of the rest. Only its last step may end it."""

    observation: NDArray[Any]
    action: NDArray[Any]
    reward: NDArray[Any]
    terminated: bool


def from_episodes(episodes: Iterable[Episode], name: str, **more: Any) -> Transitions:
    """The transitions of episodes; those without a step are left out."""
    return gathered((_columns(one) for one in episodes if len(one.reward)), name, **more)


def _columns(one: Episode) -> tuple[NDArray[Any], ...]:
    last = np.arange(len(one.reward)) == len(one.reward) - 1
    ends = last & one.terminated, last & (not one.terminated)
    return one.observation[:-1], one.action, one.reward, one.observation[1:], *ends


def episodes(data: Transitions, layout: str) -> Iterator[Episode]:
    """The episodes of the data.

    Raises:
        UsageError: a next observation is not the observation of the next row, which these layouts cannot hold.
    """
    if not (follows := data.follows).all():
        raise UsageError(
            f"{data.name} cannot be written as {layout}, which stores every state once: the next observation of row "
            f"{int((~follows).argmax()):,} is not the observation of the row after it, as in corrupted or shuffled "
            "data. Write .npz or d4rl:… instead."
        )
    for first, past in data.bounds:
        states = np.concatenate([data.observation[first:past], data.next_observation[past - 1 : past]])
        yield Episode(states, data.action[first:past], data.reward[first:past], bool(data.terminated[past - 1]))

"""The data set of a run: opened once, recorded with a hash of its numbers, and fitted to an environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym

from surefoot.data.files import NAMES, dataset
from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.perturbations.data import Corruption, corrupted, corruptions


@dataclass(frozen=True)
class DataOptions:
    """The options of a run that concern its data set."""

    data: Any = hyperparameter(None, help=f"Data set: {NAMES}. Needed.")
    corrupt: str | None = hyperparameter(
        None,
        help="Corruption of the data: observation, action, reward or dynamics, such as dynamics:0.3,scale=1.",
    )

    def __post_init__(self) -> None:
        if isinstance(self.data, Path):
            object.__setattr__(self, "data", str(self.data))
        if isinstance(self.corrupt, Corruption):
            object.__setattr__(self, "corrupt", str(self.corrupt))
        corruptions(self.corrupt) if self.corrupt is not None else ()


def learned_from(data: Any, fingerprint: str | None, corrupt: str | None) -> Transitions:
    """The data that a learner gets: those of the run, corrupted if it says so."""
    return corrupted(opened(data, fingerprint), corrupt)


def opened(data: Any, fingerprint: str | None = None, argument: str = "data") -> Transitions:
    """The data of a run under the name of this argument: those that it was started with, if their hash is given.

    Raises:
        UsageError: there are none, they cannot be read, or they have changed.
    """
    if data is None:
        raise UsageError(f"data is missing: the method learns from a data set. Give data=… (--data): {NAMES}.")
    if isinstance(data, str) and "<" in data:
        raise UsageError(
            f"the {argument.replace('_', ' ')} of this run were given as an object; give them again: "
            f"surefoot.resume(run, {argument}=…)."
        )
    found = dataset(data)
    if fingerprint is not None and (now := found.digest()) != fingerprint:
        raise UsageError(
            f"{argument}={str(data)!r} have changed since this run was started: their SHA-256 is {now[:12]}…, it was "
            f"{fingerprint[:12]}…. Restore the file, say where the original is ({argument}=…, "
            f"--{argument.replace('_', '-')}), or start a new run."
        )
    return found


def named(data: Any) -> str:
    """What a record calls data."""
    return data if isinstance(data, str) else f"<{type(data).__name__}>"


def recorded(data: Any, fingerprint: str | None, corrupt: str | None) -> dict[str, Any]:
    """What a run records of its data: their name, a hash of their numbers, how many they are, and their corruption."""
    found = opened(data, fingerprint)
    return {"data": named(data), "fingerprint": found.digest(), "rows": len(found), "corrupt": corrupt}


def fitting(data: Transitions, seen: gym.Space, acted: gym.Space) -> tuple[gym.Space, gym.Space]:
    """The spaces of an environment, whose observations and actions those of the data must be.

    Raises:
        UsageError: they are not.
    """
    if not isinstance(seen, gym.spaces.Box) or seen.shape != data.observation.shape[1:]:
        raise UsageError(
            f"{data.name} has observations of the shape {data.observation.shape[1:]}, but those of the environment are "
            f"{seen}. Give the environment that the data come from, or wrap it (wrappers=…) so that it gives the same."
        )
    return seen, data.actions_in(acted)

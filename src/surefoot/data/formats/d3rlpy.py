"""d3rlpy's .h5: version 2.1, with the arrays of every episode under names of their own, and version 1, with flat rows.

An episode has T rows and no state after the last: a terminated one gives T transitions, whose last next state is
zeros (it is never looked at), a cut one T − 1. So we write one row more for a cut episode, which holds its last state.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.data.formats import hdf5
from surefoot.data.formats.states import Episode, episodes, from_episodes
from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError

COLUMNS = ("observations", "actions", "rewards", "terminated")
VERSION = "2.1"
FINAL = "surefoot_final_observation"  # of a terminated episode, which the layout has no place for


def read(path: Path, name: str) -> Transitions:
    """The data of a file of either version."""
    with hdf5.reading(path) as file:
        found = _flat(file, path) if "episode_terminals" in file else _numbered(file, path)
        return from_episodes(found, name, **hdf5.noted(file))


def _numbered(file: Any, path: Path) -> Iterator[Episode]:
    numbers = sorted(int(key.rpartition("_")[2]) for key in file if key.startswith("rewards_") and key[8:].isdecimal())
    if any(f"observations_{i}_0" in file for i in numbers[:1]):
        raise UsageError(f"{path} has tuples of observations, which are not supported; write one array a step.")
    for i in numbers:
        seen, action, reward = (hdf5.array(file, f"{column}_{i}", path) for column in COLUMNS[:3])
        end = bool(hdf5.array(file, f"terminated_{i}", path))
        final = hdf5.array(file, f"{FINAL}_{i}", path)[None] if f"{FINAL}_{i}" in file else np.zeros_like(seen[:1])
        yield _episode(seen, action, reward.reshape(-1), end, final)


def _flat(file: Any, path: Path) -> Iterator[Episode]:
    keys = ("observations", "actions", "rewards", "terminals", "episode_terminals")
    seen, action, reward, terminal, last = (hdf5.array(file, key, path) for key in keys)
    first = 0
    for past in np.flatnonzero(last.reshape(-1)) + 1:
        rows, end = slice(first, past), bool(terminal.reshape(-1)[past - 1])
        yield _episode(seen[rows], action[rows], reward.reshape(-1)[rows], end, np.zeros_like(seen[:1]))
        first = past


def _episode(seen: Any, action: Any, reward: Any, end: bool, final: Any) -> Episode:
    """T rows as an episode; the last row of a cut one only holds its last state."""
    if end:
        return Episode(np.concatenate([seen, final]), action, reward, True)
    return Episode(seen, action[:-1], reward[:-1], False)


def write(data: Transitions, path: Path) -> None:
    """Write the data in version 2.1."""
    with hdf5.writing(path) as file:
        file["columns"] = list(COLUMNS)
        file["num_episodes"], file["version"] = data.episodes, VERSION
        for i, one in enumerate(episodes(data, "d3rlpy")):
            more = 0 if one.terminated else 1
            file[f"observations_{i}"] = one.observation[: len(one.reward) + more]
            file[f"actions_{i}"] = np.concatenate([one.action, np.zeros_like(one.action[:more])])
            file[f"rewards_{i}"] = np.concatenate([one.reward, np.zeros_like(one.reward[:more])])[:, None]
            file[f"terminated_{i}"] = one.terminated
            if one.terminated:
                file[f"{FINAL}_{i}"] = one.observation[-1]
        hdf5.note(file, data.action_space, data.facts)

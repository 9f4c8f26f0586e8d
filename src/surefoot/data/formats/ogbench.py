"""OGBench's .npz: the states of trajectories, T + 1 rows for T transitions; the action of the last row is void.

`terminals` mark the last state of a trajectory and say nothing about the task. Rewards and `masks` (0 where the task is
done) come from relabelling, for a goal or a single task; a file without them gives rewards of 0 and no terminations.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from surefoot.data.formats import own
from surefoot.data.formats.states import Episode, episodes, from_episodes
from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError


def read(path: Path, name: str) -> Transitions:
    """The data of a file."""
    found = own.arrays(path)
    if missing := [key for key in ("observations", "actions", "terminals") if key not in found]:
        raise UsageError(f"{path} lacks the arrays {', '.join(missing)}; it has {', '.join(sorted(found)[:12])}.")
    rows = len(found["terminals"])
    reward, masks = found.get("rewards", np.zeros(rows, np.float32)), found.get("masks", np.ones(rows, np.float32))
    last = np.flatnonzero(np.append(found["terminals"][:-1] > 0, True))
    whole, first = [], 0
    for end in last:
        steps = slice(first, end)
        ended = end > first and masks[end - 1] == 0
        seen = found["observations"][first : end + 1]
        whole.append(Episode(seen, found["actions"][steps], reward[steps], bool(ended)))
        first = end + 1
    return from_episodes(whole, name, action_space=own.space_of(found))


def write(data: Transitions, path: Path) -> None:
    """Write the data, with rewards and masks."""
    whole = list(episodes(data, "ogbench"))

    def rows(parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)

    def padded(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros_like(x[:1])])

    steps = [len(one.reward) for one in whole]
    ends = [np.append(np.zeros(n, np.float32), np.float32(1)) for n in steps]
    masks = [np.ones(n + 1, np.float32) for n in steps]
    for mask, one in zip(masks, whole, strict=True):
        mask[-2] = 0.0 if one.terminated else 1.0
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        np.savez(
            file,
            observations=rows([one.observation for one in whole]),
            actions=rows([padded(one.action) for one in whole]),
            terminals=rows(ends),
            rewards=rows([padded(one.reward) for one in whole]),
            masks=rows(masks),
            **own.space_arrays(data.action_space),
        )

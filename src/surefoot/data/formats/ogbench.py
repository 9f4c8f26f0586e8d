"""OGBench's .npz: the states of trajectories, T + 1 rows for T transitions; the action of the last row is void.

`terminals` mark the last state of a trajectory and say nothing about the task. Rewards and `masks` (0 where the task is
done) come from relabelling, for a goal or a single task; a file without them gives rewards of 0 and no terminations.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from surefoot.data.formats import mapped, own
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
    firsts = np.append(0, last[:-1] + 1)
    whole = (
        Episode(
            found["observations"][first : end + 1],
            found["actions"][first:end],
            reward[first:end],
            bool(end > first and masks[end - 1] == 0),
        )
        for first, end in zip(firsts, last, strict=True)
    )
    return from_episodes(whole, name, action_space=own.space_of(found))


def write(data: Transitions, path: Path) -> None:
    """Write the data, with rewards and masks."""
    columns = {name: mapped.Rows(name) for name in ("observations", "actions", "rewards", "terminals", "masks")}
    for one in episodes(data, "ogbench"):
        last = np.arange(len(one.reward) + 1) == len(one.reward)
        action, reward = (np.concatenate([x, np.zeros_like(x[:1])]) for x in (one.action, one.reward))
        masks = np.append(np.ones(len(one.reward) - 1), [not one.terminated, 1])
        given = one.observation, action, reward, last.astype(np.float32), masks.astype(np.float32)
        for rows, x in zip(columns.values(), given, strict=True):
            rows.add(x)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        found = {name: rows.array() for name, rows in columns.items()}
        np.savez(file, **found, **own.space_arrays(data.action_space))

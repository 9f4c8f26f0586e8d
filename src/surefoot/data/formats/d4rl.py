"""D4RL's HDF5: flat rows over all episodes.

`terminals` end the task, `timeouts` cut it. Where a file has no `next_observations`, they are the observations of the
next rows, as in D4RL's `qlearning_dataset`: the row before a cut and the last row have none, and are left out. A row
that is marked as both ends the task. Steps up to `horizon` are counted from the beginning of every episode; D4RL begins
with 1 in one that follows an end of the task, and so cuts it a step early.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from surefoot.data.formats import hdf5, mapped
from surefoot.data.transitions import Transitions, gathered
from surefoot.errors import UsageError


def read(path: Path, name: str, horizon: int | None = None) -> Transitions:
    """The data of a file; `horizon` is the step limit of a file that does not say where episodes were cut.

    Raises:
        UsageError: an array is missing, or the file does not say where episodes were cut.
    """
    with hdf5.reading(path) as file:
        observation, action = (hdf5.array(file, key, path) for key in ("observations", "actions"))
        reward, terminated = (hdf5.array(file, key, path).reshape(-1) for key in ("rewards", "terminals"))
        following = hdf5.array(file, "next_observations", path) if "next_observations" in file else None
        cut = hdf5.array(file, "timeouts", path).reshape(-1) if "timeouts" in file else None
        noted = hdf5.noted(file)
    terminated = terminated.astype(bool)
    if cut is None and horizon is not None:
        cut = _at_limit(terminated, horizon)
    elif cut is None and following is not None:  # an episode goes on where its next state is the next row's
        cut = np.append((following[:-1] != observation[1:]).reshape(len(reward) - 1, -1).any(1), True) & ~terminated
    elif cut is None:
        raise UsageError(
            f"{path} has neither timeouts nor next_observations, so it does not say where episodes were cut. Give the "
            "step limit of its environment: sf.dataset(…, horizon=1000), or surefoot dataset convert FILE new.npz "
            "--horizon 1000, and learn from that."
        )
    cut = cut.astype(bool) & ~terminated
    if following is not None:
        return Transitions(observation, action, reward, following, terminated, cut, name=name, **noted)
    rows = np.flatnonzero(~cut[:-1])
    before = np.append(cut[1:], False) & ~terminated  # the row after it has no successor
    before[-2:-1] |= ~terminated[-2:-1]
    parts = (
        (observation[some], action[some], reward[some], observation[some + 1], terminated[some], before[some])
        for some in (rows[block] for block in mapped.blocks((len(rows), *observation.shape[1:])))
    )
    return gathered(parts, name, **noted)


def _at_limit(terminated: np.ndarray, horizon: int) -> np.ndarray:
    """True where an episode has lasted `horizon` steps."""
    steps, cut = 0, np.zeros(len(terminated), bool)
    for row, end in enumerate(terminated):
        steps += 1
        cut[row] = steps >= horizon and not end
        steps = 0 if end or cut[row] else steps
    return cut


def write(data: Transitions, path: Path) -> None:
    """Write the data, with their next observations."""
    with hdf5.writing(path) as file:
        for key, column in {
            "observations": data.observation,
            "actions": data.action,
            "rewards": data.reward,
            "next_observations": data.next_observation,
            "terminals": data.terminated,
            "timeouts": data.truncated,
        }.items():
            file[key] = column
        hdf5.note(file, data.action_space, data.facts)

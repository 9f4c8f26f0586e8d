"""robomimic's HDF5: one group a demonstration, with its observations by name.

`dones` are success, the end of a demonstration, or both, as its maker chose, so a done at the end counts as the end of
the task and one before it as nothing. The observations of all names are joined in the order of their names. Where a
file has no `next_obs`, they are the observations of the next rows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surefoot.data.formats import hdf5
from surefoot.data.transitions import Transitions, gathered
from surefoot.errors import UsageError

NAME = "flat"  # of the observations that we write


def read(path: Path, name: str, keys: tuple[str, ...] | None = None) -> Transitions:
    """The data of a file; `keys` names the observations to use, all vectors by default."""
    with hdf5.reading(path) as file:
        group = hdf5.node(file, "data", path)
        demos = sorted((key for key in group if key.startswith("demo_")), key=lambda key: int(key[5:]))
        if not demos:
            raise UsageError(f"{path} has no demonstrations (data/demo_0, …).")
        parts = (_columns(hdf5.node(group, demo, path), path, keys) for demo in demos)
        return gathered(parts, name, **hdf5.noted(group))


def _columns(demo: Any, path: Path, keys: tuple[str, ...] | None) -> tuple[NDArray[Any], ...]:
    seen = hdf5.node(demo, "obs", path)
    chosen = keys or tuple(sorted(key for key in seen if len(seen[key].shape) <= 2))
    if missing := [key for key in chosen if key not in seen]:
        raise UsageError(f"{path} has no observations {', '.join(missing)}; it has {', '.join(sorted(seen))}.")

    def joined(group: Any) -> NDArray[Any]:
        return np.concatenate([hdf5.array(group, key, path).reshape(len(group[key]), -1) for key in chosen], 1)

    now, action = joined(seen), hdf5.array(demo, "actions", path)
    reward, done = (hdf5.array(demo, key, path).reshape(-1) for key in ("rewards", "dones"))
    if "next_obs" in demo:
        following = joined(hdf5.node(demo, "next_obs", path))
    else:  # those of the next rows: the last row has none, and is kept where the task has ended, so that none is asked
        following = np.concatenate([now[1:], now[-1:]])
        kept = slice(len(reward) - int(not done[-1:].any()))
        now, action, reward, following, done = (x[kept] for x in (now, action, reward, following, done))
    last = np.arange(len(reward)) == len(reward) - 1
    ended = last & (done > 0)
    return now, action, reward, following, ended, last & ~ended


def write(data: Transitions, path: Path) -> None:
    """Write the data, one demonstration an episode."""
    with hdf5.writing(path) as file:
        group = file.create_group("data")
        for number, (first, past) in enumerate(data.bounds):
            demo, rows = group.create_group(f"demo_{number}"), slice(first, past)
            demo.attrs["num_samples"] = past - first
            demo["actions"], demo["rewards"] = data.action[rows], data.reward[rows]
            demo["dones"] = data.terminated[rows].astype(np.int64)
            demo[f"obs/{NAME}"], demo[f"next_obs/{NAME}"] = data.observation[rows], data.next_observation[rows]
        group.attrs["total"], group.attrs["env_args"] = len(data), json.dumps({"env_name": data.facts.get("env", "")})
        hdf5.note(group, data.action_space, data.facts)

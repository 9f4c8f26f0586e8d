"""Minari's folders: `data/main_data.hdf5` with a group an episode, and `data/metadata.json` with the spaces.

Only what is on this machine is read: nothing is downloaded. Dictionaries of observations are joined in the order of
their names, as Gymnasium flattens them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from surefoot.data.formats import hdf5
from surefoot.data.formats.states import Episode, episodes, from_episodes
from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError
from surefoot.files import read_json, write_whole

MAIN, ABOUT = "main_data.hdf5", "metadata.json"


def root() -> Path:
    """Where Minari keeps its data sets: $MINARI_DATASETS_PATH, or ~/.minari/datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def read(place: Path, name: str) -> Transitions:
    """The data of a folder, or of its main file."""
    folder = place.parent if place.is_file() else place / "data" if (place / "data").is_dir() else place
    if not (folder / MAIN).exists():
        raise UsageError(
            f"{place} has no {MAIN}: it is not a Minari data set on this machine. minari list local shows those there "
            "are; one in Arrow files can be copied into HDF5 by Minari."
        )
    try:
        about = read_json(folder / ABOUT) if (folder / ABOUT).exists() else {}
    except ValueError as error:
        raise UsageError(f"{folder / ABOUT} is damaged: {error}.") from error
    with hdf5.reading(folder / MAIN) as file:
        numbers = sorted(int(key[8:]) for key in file if key.startswith("episode_") and key[8:].isdecimal())
        found = (_episode(hdf5.node(file, f"episode_{number}", folder), folder) for number in numbers)
        space = _space(about.get("action_space")) or hdf5.noted(file)["action_space"]
        return from_episodes(found, name, action_space=space, facts=_facts(about))


def _episode(group: Any, where: Path) -> Episode:
    end = hdf5.array(group, "terminations", where).reshape(-1)
    reward = hdf5.array(group, "rewards", where).reshape(-1)
    seen, action = (_joined(hdf5.node(group, key, where), where) for key in ("observations", "actions"))
    if len(seen) != len(reward) + 1:
        raise UsageError(
            f"{where}: {group.name} has {len(seen)} observations for {len(reward)} steps; it needs one more."
        )
    return Episode(seen, action, reward, bool(len(end) and end[-1]))


def _joined(found: Any, where: Path) -> NDArray[Any]:
    """The numbers of an array, or of the arrays in a group."""
    if hasattr(found, "dtype"):
        return hdf5.array(found.parent, found.name.rpartition("/")[2], where)
    parts = [_joined(hdf5.node(found, key, where), where) for key in sorted(found)]
    return np.concatenate([x.reshape(len(x), -1) for x in parts], 1)


def _space(text: Any) -> gym.Space | None:
    """A serialised action space; None for one that is neither a bounded box nor discrete."""
    try:
        given = json.loads(text) if isinstance(text, str) else {}
        if given.get("type") == "Box":
            low, high = (np.array(given[end], np.float32) for end in ("low", "high"))
            box = gym.spaces.Box(low, high, dtype=np.float32)
            return box if box.is_bounded() else None
        if given.get("type") == "Discrete":
            return gym.spaces.Discrete(int(given["n"]), start=int(given["start"]))
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise UsageError(f"the action space in {ABOUT} is damaged: {error}.") from error
    return None


def _facts(about: dict[str, Any]) -> dict[str, Any]:
    """What the metadata say of the environment and the reference scores."""
    facts = {key: about[key] for key in ("ref_min_score", "ref_max_score") if key in about}
    with suppress(KeyError, TypeError, ValueError):
        facts["env"] = json.loads(about["env_spec"])["id"]
    return facts


def write(data: Transitions, place: Path) -> None:
    """Write the data into a new folder."""
    folder = place / "data"
    if folder.exists():
        raise UsageError(f"{place} exists already; Minari's data sets are not overwritten. Give another name.")
    folder.mkdir(parents=True)
    with hdf5.writing(folder / MAIN) as file:
        for number, one in enumerate(_episodes(data)):
            group, steps = file.create_group(f"episode_{number}"), len(one.reward)
            group.attrs["id"], group.attrs["total_steps"] = number, steps
            group["observations"], group["actions"], group["rewards"] = one.observation, one.action, one.reward
            ends = np.zeros((2, steps), bool)
            ends[:, -1] = one.terminated, not one.terminated
            group["terminations"], group["truncations"] = ends
    spaces = {"observation_space": data.observation_space, "action_space": data.actions_in()}
    about = {"total_episodes": data.episodes, "total_steps": len(data), "data_format": "hdf5", "jpeg_encoding": False}
    about |= {key: json.dumps(_described(space)) for key, space in spaces.items()}
    about |= {"dataset_id": "/".join(place.parts[-2:]), "minari_version": "0.5.0"}
    write_whole(folder / ABOUT, json.dumps(about))


def _episodes(data: Transitions) -> Iterator[Episode]:
    return episodes(data, "minari")


def _described(space: gym.Space) -> dict[str, Any]:
    """A space as Minari writes it."""
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "Discrete", "dtype": "int64", "start": int(space.start), "n": int(space.n)}
    assert isinstance(space, gym.spaces.Box)
    ends = {"low": space.low.tolist(), "high": space.high.tolist()}
    return {"type": "Box", "dtype": str(space.dtype), "shape": list(space.shape), **ends}

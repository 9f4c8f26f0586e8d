"""Our own .npz: one array a column of `Transitions`, the bounds of actions, and facts as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from surefoot.data.formats import mapped
from surefoot.data.transitions import COLUMNS, Transitions
from surefoot.errors import UsageError
from surefoot.files import opened

FORMAT = "surefoot-transitions-1"


def arrays(path: Path) -> dict[str, Any]:
    """The arrays of a .npz file by name, large ones mapped; a `UsageError` if it is missing or no such file."""
    try:
        with opened(path) as file, np.load(file) as found:
            each = {name: mapped.of_zip(file, found.zip, name) for name in found.files}
            return {name: found[name] if x is None else x for name, x in each.items()}
    except (OSError, ValueError, EOFError, AttributeError) as error:  # AttributeError: a lone .npy
        raise UsageError(f"{path} cannot be read as a .npz file of arrays: {error}.") from error


def space_of(found: dict[str, Any]) -> gym.Space | None:
    """The action space that `space_arrays` wrote."""
    if "action_low" in found and "action_high" in found:
        low, high = (np.asarray(found[f"action_{end}"], np.float32) for end in ("low", "high"))
        return gym.spaces.Box(low, high, dtype=np.float32)
    if "action_choices" in found:
        n, start = (int(x) for x in found["action_choices"])
        return gym.spaces.Discrete(n, start=start)
    return None


def space_arrays(space: gym.Space | None) -> dict[str, Any]:
    """An action space as arrays by name."""
    if isinstance(space, gym.spaces.Box):
        return {"action_low": space.low, "action_high": space.high}
    return {"action_choices": np.array([space.n, space.start])} if isinstance(space, gym.spaces.Discrete) else {}


def read(path: Path, name: str) -> Transitions:
    """The data of a file that `write` wrote."""
    found = arrays(path)
    if missing := [column for column in COLUMNS if column not in found]:
        raise UsageError(f"{path} lacks the arrays {', '.join(missing)}; it has {', '.join(sorted(found)[:12])}.")
    try:
        facts = json.loads(str(found["facts"])) if "facts" in found else {}
    except ValueError:
        facts = {}
    space = space_of(found)
    return Transitions(*(found[column] for column in COLUMNS), action_space=space, name=name, facts=facts)


def write(data: Transitions, path: Path) -> None:
    """Write the data, uncompressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    columns = {column: getattr(data, column) for column in COLUMNS}
    beside = {"format": np.array(FORMAT), "facts": np.array(json.dumps(dict(data.facts)))}
    try:
        with open(draft, "wb") as file:
            np.savez(file, **columns, **beside, **space_arrays(data.action_space))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)

"""Data sets by name: which file or folder a name means, and in which layout."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from surefoot.data.formats import d3rlpy, d4rl, hdf5, minari, ogbench, own, robomimic
from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError, nearest

LAYOUTS: dict[str, Any] = {
    "surefoot": own,
    "minari": minari,
    "d4rl": d4rl,
    "d3rlpy": d3rlpy,
    "ogbench": ogbench,
    "robomimic": robomimic,
}
OPTIONS = {"d4rl": ("horizon",), "robomimic": ("keys",)}  # what only some readers take
NAMES = "a .npz or .hdf5 file, a folder of Minari, minari:ID, or LAYOUT:FILE"


def dataset(
    source: Any,
    *,
    low: float | Sequence[float] | None = None,
    high: float | Sequence[float] | None = None,
    horizon: int | None = None,
    keys: Sequence[str] | None = None,
) -> Transitions:
    """A data set of transitions.

    Args:
        source: `Transitions` (returned as they are), or a name: a .npz of Surefoot or OGBench; an HDF5 file of D4RL,
            d3rlpy, robomimic or Minari; a folder of Minari; `minari:ID`, which is looked up on this machine only;
            `LAYOUT:FILE` where the layout is not to be guessed.
        low, high: bounds of the actions, where the file does not hold them and they are not [−1, 1].
        horizon: the step limit of a D4RL file that does not say where episodes were cut.
        keys: the observations of a robomimic file to use; all vectors if not given.

    Raises:
        UsageError: there is no such file, it is damaged, or its data are (see `Transitions`).
    """
    if isinstance(source, Transitions):
        found = source
    elif isinstance(source, str | Path):
        layout, place = located(str(source))
        options = {"horizon": horizon, "keys": None if keys is None else tuple(keys)}
        given = {name: value for name, value in options.items() if value is not None}
        if wrong := sorted(set(given) - {*OPTIONS.get(layout, ())}):
            raise UsageError(f"{wrong[0]}={given[wrong[0]]!r} is not allowed for a file of {layout}; leave it out.")
        found = _read(layout, place, str(source), _stamp(place), tuple(given.items()))
    else:
        raise UsageError(f"data={source!r} is not a data set; give {NAMES}, or Transitions.")
    if low is None and high is None:
        return found
    if low is None or high is None:
        raise UsageError(f"low={low!r} and high={high!r} must be given together: they are the box of the actions.")
    shape = found.action.shape[1:]
    lowest, highest = (np.broadcast_to(np.asarray(end, np.float32), shape) for end in (low, high))
    return replace(found, action_space=gym.spaces.Box(lowest, highest, dtype=np.float32))


@lru_cache(maxsize=2)
def _read(layout: str, place: Path, name: str, stamp: Any, options: tuple[tuple[str, Any], ...]) -> Transitions:
    """The data of a file as it was at the time of `stamp`; a run asks for the same data several times."""
    return LAYOUTS[layout].read(place, name, **dict(options))


def _stamp(place: Path) -> tuple[int, int]:
    """Size and time of a file, or of a folder's files together."""
    files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
    states = [p.stat() for p in files]
    return sum(s.st_size for s in states), max((s.st_mtime_ns for s in states), default=0)


def write_dataset(data: Transitions, target: str | Path) -> Path:
    """Write a data set: to a .npz (ours), a .hdf5 or .h5 (D4RL's), `minari:ID`, or `LAYOUT:FILE`."""
    text = str(target)
    layout, _, rest = text.partition(":")
    if layout not in LAYOUTS:
        suffixes = {".npz": "surefoot", ".hdf5": "d4rl", ".h5": "d4rl"}
        if (found := suffixes.get(Path(text).suffix)) is None:
            raise UsageError(
                f"{text!r} does not say in which layout to write: end it with .npz or .hdf5, or write LAYOUT:FILE with "
                f"one of {', '.join(LAYOUTS)}."
            )
        layout, rest = found, text
    place = minari.root() / rest if layout == "minari" else Path(rest)
    LAYOUTS[layout].write(data, place)
    return place


def located(name: str) -> tuple[str, Path]:
    """The layout and the place of a data set by name.

    Raises:
        UsageError: there is nothing at this place, or its layout is not known.
    """
    layout, _, rest = name.partition(":")
    if layout in LAYOUTS:
        place = minari.root() / rest if layout == "minari" and not Path(rest).exists() else Path(rest)
        if not place.exists():
            where = f"; Minari's data sets on this machine are in {minari.root()}" if layout == "minari" else ""
            raise UsageError(f"data={name!r} is not there{where}. Nothing is downloaded: give {NAMES}.")
        return layout, place
    place = Path(name)
    if not place.exists():
        hint = f" {nearest(layout, LAYOUTS)}" if ":" in name else ""
        raise UsageError(f"data={name!r} is not there. Give {NAMES}.{hint}")
    if place.is_dir():
        return "minari", place
    kinds: tuple[Callable[[Path], str | None], ...] = (_of_arrays, _of_hdf5)
    for kind in kinds:
        if (layout := kind(place)) is not None:
            return layout, place
    raise UsageError(f"data={name!r} is neither a .npz nor an HDF5 file. Give {NAMES}.")


def _of_arrays(place: Path) -> str | None:
    if not zipfile.is_zipfile(place):
        return None
    with zipfile.ZipFile(place) as file:
        return "ogbench" if "terminals.npy" in file.namelist() else "surefoot"


def _of_hdf5(place: Path) -> str | None:
    with open(place, "rb") as file:
        if file.read(8) != b"\x89HDF\r\n\x1a\n":
            return None
    with hdf5.reading(place) as file:
        names = {*file}
    if "data" in names:
        return "robomimic"
    if names & {"columns", "episode_terminals", "rewards_0"}:
        return "d3rlpy"
    return "minari" if "episode_0" in names else "d4rl"

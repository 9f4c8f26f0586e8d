"""HDF5 files as data: what may be read of a file whose origin is unknown, and what all layouts share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from surefoot.data.formats import mapped
from surefoot.errors import UsageError
from surefoot.files import opened

BOUNDS = ("surefoot_action_low", "surefoot_action_high")  # attributes that other readers pass over
CHOICES, FACTS = "surefoot_actions", "surefoot_facts"


def library() -> Any:
    """The package h5py, which reads and writes HDF5.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise UsageError("HDF5 files need the package h5py: pip install 'surefoot[offline]'.") from error
    return h5py


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """The file, open for reading; a `UsageError` if it is missing or no HDF5 file."""
    h5py = library()
    try:
        opened(path).close()  # refuses what is not a regular file
        file = h5py.File(path, "r")
    except OSError as error:
        raise UsageError(f"{path} cannot be read as an HDF5 file: {error}.") from error
    with file:
        yield file


@contextmanager
def writing(path: Path) -> Iterator[Any]:
    """A new file, which takes its place when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    try:
        with library().File(draft, "w") as file:
            yield file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def node(group: Any, name: str, where: Path) -> Any:
    """An entry of a group that lies in the file itself; a link or a virtual array could name any other file."""
    h5py = library()
    link = group.get(name, getlink=True)
    if link is None:
        raise UsageError(f"{where} has no {name!r} in {group.name}; it has {', '.join(sorted(group)[:12])}.")
    found: Any = None if isinstance(link, h5py.ExternalLink) else group[name]
    if found is None or (isinstance(found, h5py.Dataset) and (found.is_virtual or found.external)):
        raise UsageError(f"{where}: {name!r} in {group.name} lies in another file, which is not read. Copy it in.")
    return found


def array(group: Any, name: str, where: Path) -> NDArray[Any]:
    """The numbers of a dataset of the file, mapped if they are many."""
    found = node(group, name, where)
    if not hasattr(found, "dtype") or found.dtype.kind not in "fiub":
        raise UsageError(f"{where}: {name!r} in {group.name} is no array of numbers.")
    if found.nbytes < mapped.LARGE:
        return found[()]
    if (whole := mapped.of_hdf5(found, where)) is not None:
        return whole
    return mapped.together(found[rows] for rows in mapped.blocks(found.shape))


def note(group: Any, space: gym.Space | None, facts: Mapping[str, Any]) -> None:
    """Keep the action space and the facts as attributes."""
    if isinstance(space, gym.spaces.Box):
        group.attrs[BOUNDS[0]], group.attrs[BOUNDS[1]] = space.low, space.high
    elif isinstance(space, gym.spaces.Discrete):
        group.attrs[CHOICES] = [int(space.n), int(space.start)]
    group.attrs[FACTS] = json.dumps(dict(facts))


def noted(group: Any) -> dict[str, Any]:
    """The action space and the facts that `note` kept, as arguments of `Transitions`."""
    attrs, space = group.attrs, None
    if BOUNDS[0] in attrs and BOUNDS[1] in attrs:
        low, high = (np.asarray(attrs[name], np.float32) for name in BOUNDS)
        space = gym.spaces.Box(low, high, dtype=np.float32)
    elif CHOICES in attrs:
        n, start = (int(x) for x in attrs[CHOICES])
        space = gym.spaces.Discrete(n, start=start)
    try:
        facts = json.loads(attrs.get(FACTS, "{}"))
    except ValueError:
        facts = {}
    return {"action_space": space, "facts": facts if isinstance(facts, dict) else {}}

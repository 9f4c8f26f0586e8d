"""Gymnasium spaces as JSON data, so that an agent can be restored without its environment and without pickle."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from surefoot.errors import UsageError

KINDS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict")
MASK_KEY = "action_mask"  # the key of an observation's mask of allowed actions


def to_json(space: gym.Space) -> dict[str, Any]:
    """A space as JSON-ready data; infinite bounds become strings."""
    if isinstance(space, gym.spaces.Box):
        low, high = (_numbers(bound) for bound in (space.low, space.high))
        return {"kind": "Box", "shape": list(space.shape), "dtype": str(space.dtype), "low": low, "high": high}
    if isinstance(space, gym.spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, gym.spaces.MultiBinary):
        return {"kind": "MultiBinary", "shape": list(space.shape)}
    if isinstance(space, gym.spaces.Dict):
        return {"kind": "Dict", "spaces": {key: to_json(s) for key, s in space.spaces.items()}}
    raise UsageError(
        f"space {space} is not supported; use Box, Discrete, MultiDiscrete, MultiBinary or a Dict of them."
    )


def from_json(data: Any, most: int = 2**31) -> gym.Space:
    """The space that `to_json` wrote, if it has at most `most` entries.

    Raises:
        UsageError: the description is damaged, of a newer version, or of a larger space; raised before memory is
            allocated.
    """
    try:
        if (size := _size(data)) > most:
            raise ValueError(f"it has {size} entries, and {most} are allowed")
        return _space(data)
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, OverflowError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"the description of a space, {reprlib.repr(data)}, is damaged ({type(error).__name__}: {error})."
        ) from error


def _size(data: Mapping[str, Any]) -> int:
    """The number of entries in a value of the described space; `ValueError` if the description gives none."""
    kind = data.get("kind")
    if kind == "Dict":
        return sum(_size(inner) for inner in data["spaces"].values())
    axes: Any = {"Discrete": [data.get("n")], "MultiDiscrete": data.get("nvec")}.get(str(kind), data.get("shape"))
    if kind not in KINDS or not isinstance(axes, list):
        shown = reprlib.repr(data)
        raise UsageError(f"space description {shown} is damaged or of a newer version; 'kind' is {kind!r}.")
    if wrong := [n for n in axes if type(n) is not int or n < 0]:
        raise ValueError(f"{wrong[0]!r} is not a size")
    return sum(axes) if kind == "MultiDiscrete" else math.prod(axes)


def _space(data: Mapping[str, Any]) -> gym.Space:
    match data["kind"]:
        case "Box":
            dtype, shape = np.dtype(data["dtype"]), tuple(data["shape"])
            if dtype.kind not in "iuf" or str(dtype) != data["dtype"]:
                raise ValueError(f"{data['dtype']!r} is not a numeric type")
            low, high = (np.broadcast_to(np.array(data[k], dtype), shape) for k in ("low", "high"))
            if not bool((low <= high).all()):  # False for NaN too
                raise ValueError("a lower bound exceeds its upper one")
            return gym.spaces.Box(low, high, shape, dtype)  # type: ignore[arg-type]
        case "Discrete":
            return gym.spaces.Discrete(_whole(data["n"]), start=_whole(data["start"]))
        case "MultiDiscrete":
            nvec, start = ([_whole(n) for n in data[k]] for k in ("nvec", "start"))
            return gym.spaces.MultiDiscrete(nvec, start=start)
        case "MultiBinary":
            return gym.spaces.MultiBinary(data["shape"] if len(data["shape"]) > 1 else data["shape"][0])
        case _:
            pairs = [(key, _space(s)) for key, s in data["spaces"].items()]
            return gym.spaces.Dict(pairs)  # of a dict it would sort the keys


def _whole(value: Any) -> int:
    if type(value) is not int or abs(value) >= 2**62:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def _numbers(bound: np.ndarray) -> Any:
    """A bound as one number if it is the same everywhere (images), otherwise as nested lists; inf as a string."""
    if bound.size and (bound == bound.flat[0]).all():
        value = bound.flat[0].item()
        return value if np.isfinite(value) else str(value)
    return np.where(np.isfinite(bound), bound, bound.astype(str).astype(object)).tolist() if bound.size else []

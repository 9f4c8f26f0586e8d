"""Gymnasium spaces as JSON data, so that an agent is rebuilt without its environment and without pickle."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from surefoot.errors import UsageError


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


def from_json(data: dict[str, Any]) -> gym.Space:
    """The space that `to_json` wrote."""
    match data.get("kind"):
        case "Box":
            dtype, shape = np.dtype(data["dtype"]), tuple(data["shape"])
            low, high = (np.broadcast_to(np.array(data[k], dtype), shape) for k in ("low", "high"))
            return gym.spaces.Box(low, high, shape, dtype)  # type: ignore[arg-type]
        case "Discrete":
            return gym.spaces.Discrete(data["n"], start=data["start"])
        case "MultiDiscrete":
            return gym.spaces.MultiDiscrete(data["nvec"], start=data["start"])
        case "MultiBinary":
            return gym.spaces.MultiBinary(data["shape"] if len(data["shape"]) > 1 else data["shape"][0])
        case "Dict":
            pairs = [(key, from_json(s)) for key, s in data["spaces"].items()]
            return gym.spaces.Dict(pairs)  # the keys of a dict it would sort
    raise UsageError(f"space description {data!r} is damaged or of a newer version; 'kind' is {data.get('kind')!r}.")


def _numbers(bound: np.ndarray) -> Any:
    """A bound as one number where it is the same everywhere (images), otherwise as nested lists; inf as a string."""
    if bound.size and (bound == bound.flat[0]).all():
        value = bound.flat[0].item()
        return value if np.isfinite(value) else str(value)
    return np.where(np.isfinite(bound), bound, bound.astype(str).astype(object)).tolist() if bound.size else []

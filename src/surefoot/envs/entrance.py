"""Converting and checking the outputs of environments, in the same way in training, evaluation and stress tests.

Observations arrive in the types of their space: floats are rounded to float32, whole numbers keep the declared type. A
value that the declared type cannot hold (0.3 in a space of bytes, 7 in `Discrete(5)`) is an error; it is never clipped.
Rewards are single numbers, including 0-d and one-element arrays; flags are booleans or single numbers 0 and 1. Invalid
values raise `ValueError` with the reason; callers add environment, episode and step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from surefoot.errors import UsageError
from surefoot.models.spaces import MASK_KEY

Observation = Any  # an array [B, ...] or a (nested) dict of such arrays
NUMBERS = "fiub"  # the kinds of NumPy types that are numeric
BOOKKEEPING = {
    "env_id",
    "elapsed_step",
    "reward",
    "terminated",
}  # repeated from the step in EnvPool's infos


def rounded(space: gymnasium.Space) -> gymnasium.Space:
    """`space` with every float Box in float32; a `UsageError` for a kind of space that arrays cannot represent."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: rounded(inner) for name, inner in space.spaces.items()})
    if isinstance(space, spaces.Box) and space.dtype.kind == "f" and space.dtype != np.float32:
        return spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    if isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return space
    cure = (
        "wrappers=['flatten'] turns the whole observation into one vector"
        if flattenable(space)
        else "remove it with gymnasium.wrappers.FilterObservation, or convert it with a gymnasium.ObservationWrapper"
    )
    raise UsageError(
        f"A space of type {type(space).__name__} ({space}) is not supported; allowed are Box, Discrete, MultiDiscrete, "
        f"MultiBinary and, for observations, a Dict of these. For this one, {cure}."
    )


def flattenable(space: gymnasium.Space) -> bool:
    """Whether Gymnasium can flatten the values of this space into one vector."""
    try:
        return isinstance(spaces.flatten_space(space), spaces.Box)
    except NotImplementedError:  # a custom space
        return False


def empty(space: gymnasium.Space, n: int) -> Observation:
    """An uninitialised batch of `n` observations of `space`, to be filled by `write`."""
    if isinstance(space, spaces.Dict):
        return {name: empty(inner, n) for name, inner in space.spaces.items()}
    return np.empty((n, *space.shape), space.dtype)  # type: ignore[misc]


def write(out: Observation, index: int, observation: Any, space: gymnasium.Space, name: str = "observation") -> None:
    """Write one observation of `space` into row `index` of the batch `out`."""
    if isinstance(space, spaces.Dict):
        for key, part in _parts(observation, space):
            write(out[key], index, part, space.spaces[key], f"{name} {key!r}")
        return
    row = np.asarray(observation)
    same = row.dtype == out.dtype or (row.dtype.kind == "f" and out.dtype.kind == "f")
    if same and row.shape == space.shape and isinstance(space, spaces.Box):
        out[index] = row  # the usual case; the rest converts, or finds the reason
    else:
        out[index] = converted(row, space, name=name)


def converted(
    values: Any, space: gymnasium.Space, batch: tuple[int, ...] = (), name: str = "observation"
) -> Observation:
    """One observation, or a batch `[*batch, ...]` of them, in the types of `space`. `name` is its name in errors."""
    if isinstance(space, spaces.Dict):
        parts = _parts(values, space)
        return {key: converted(part, space.spaces[key], batch, f"{name} {key!r}") for key, part in parts}
    shape: tuple[int, ...] = (*batch, *space.shape)  # type: ignore[misc]
    array, dtype = np.asarray(values), np.dtype(space.dtype)
    if array.dtype == dtype and array.shape == shape and isinstance(space, spaces.Box):
        return array
    if array.shape != shape:
        raise ValueError(
            f"the {name} {_short(values)} has shape {array.shape}, not {shape}: it is not of the space {space}"
        )
    if array.dtype.kind not in NUMBERS:
        raise ValueError(
            f"the {name} {_short(values)} holds {array.dtype}, not numbers: it is not of the space {space}"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        found = array.astype(dtype, copy=False)
    if isinstance(space, spaces.Box) and dtype.kind == "f":
        return found
    if (wrong := (found != array) | ~_inside(found, space)).any():
        place = [int(k) for k in np.argwhere(wrong)[0]]
        where, component = place[: len(batch)], place[len(batch) :]
        whose = f" in environment {where[0]}" if where else ""
        raise ValueError(
            f"{name}{component or ''} is {array[tuple(place)]}{whose}, which the declared {space} cannot hold; return "
            "values of that space, or declare the space of the returned values (a float Box holds fractions)"
        )
    return found


def _inside(array: np.ndarray, space: gymnasium.Space) -> np.ndarray:
    """Which values are in a discrete space. The bounds of a Box are not checked, as environments often exceed them."""
    match space:
        case spaces.Discrete():
            return (array >= space.start) & (array < space.start + space.n)
        case spaces.MultiDiscrete():
            return (array >= space.start) & (array < space.start + space.nvec)
        case spaces.MultiBinary():
            return (array == 0) | (array == 1)
    return np.ones(array.shape, bool)


def _parts(observation: Any, space: spaces.Dict) -> list[tuple[str, Any]]:
    if not isinstance(observation, Mapping) or not space.spaces.keys() <= observation.keys():
        held = sorted(observation) if isinstance(observation, Mapping) else f"a {type(observation).__name__}"
        raise ValueError(f"the observation is {held}, not a dict with the keys {sorted(space.spaces)}")
    return [(name, observation[name]) for name in space.spaces]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} …"


def begun(answer: Any) -> tuple[Any, dict[str, Any]]:
    """The result of `reset()`, as `(observation, info)`."""
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], Mapping):
        raise ValueError(f"reset() returned {_short(answer)}; it must return (observation, info), with info a dict")
    return answer  # type: ignore[return-value]


def stepped(answer: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """The result of `step()`, with reward and flags converted: `(observation, reward, terminated, truncated, info)`."""
    if not isinstance(answer, tuple) or len(answer) != 5:
        old = isinstance(answer, tuple) and len(answer) == 4
        raise ValueError(
            "step() returned (observation, reward, done, info), the form of old Gym; Gymnasium's is (observation, "
            "reward, terminated, truncated, info): return it, or wrap the environment with shimmy.GymV21CompatibilityV0"
            if old
            else f"step() returned {_short(answer)}; it must return (observation, reward, terminated, truncated, info)"
        )
    observation, reward, terminated, truncated, info = answer
    if type(reward) is not float:
        reward = float(_number(reward, "reward"))
    if type(terminated) is not bool:
        terminated = _flag(terminated, "terminated")
    if type(truncated) is not bool:
        truncated = _flag(truncated, "truncated")
    return observation, reward, terminated, truncated, info


def _number(value: Any, name: str) -> Any:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in NUMBERS:
        what = f"has shape {array.shape}" if array.dtype.kind in NUMBERS else f"is of type {type(value).__name__}"
        raise ValueError(f"{name} is {_short(value)}, which {what}; one number is needed")
    return array.item()


def _flag(value: Any, name: str) -> bool:
    number = _number(value, name)
    if number not in (0, 1):
        raise ValueError(f"{name} is {_short(value)}; True or False is needed")
    return bool(number)


def batch_of_numbers(values: Any, n: int, name: str, dtype: type) -> np.ndarray:
    """Rewards or flags of a batch as `[n]` of `dtype`; `[n, 1]` is accepted too."""
    array = np.asarray(values)
    if array.size != n or array.shape[:1] != (n,) or array.dtype.kind not in NUMBERS:
        raise ValueError(f"{name} has shape {array.shape} and type {array.dtype}; {n} numbers are needed")
    array = array.reshape(n)
    if dtype is bool and array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} is {array.tolist()}; True or False is needed")
    return array.astype(dtype, copy=False)


# --- the info of an episode's last step ---


def figures(info: Any) -> dict[str, float]:
    """The finite single numbers (including booleans) of an `info`, by name."""
    found = {}
    for name, value in info.items() if isinstance(info, Mapping) else ():
        if not isinstance(value, (bool, int, float, np.number, np.bool_, np.ndarray)) or np.size(value) != 1:
            continue
        number = np.asarray(value)
        if number.dtype.kind in NUMBERS and np.isfinite(number.item()):
            found[str(name)] = float(number.item())
    return found


def batch_figures(info: Mapping[str, Any], ended: np.ndarray) -> dict[str, Any]:
    """The same for the environments that `ended`, from a vector environment's `info`: arrays `[n]` by name, and under
    the name prefixed by `_` where they are valid, as in Gymnasium."""
    found: dict[str, Any] = {}
    if not ended.any():
        return found
    for name, values in info.items():
        if name in BOOKKEEPING or name.startswith("_") or isinstance(values, Mapping):
            continue
        array = np.asarray(values)
        if array.shape != ended.shape or array.dtype.kind not in NUMBERS:
            continue
        held = np.asarray(info.get(f"_{name}", ended), bool) & ended & np.isfinite(array)
        if held.any():
            found[name], found[f"_{name}"] = array.astype(np.float64), held
    return found


def named_figures(episodes: list[dict[str, float]]) -> dict[str, float]:
    """Means over episodes of the figures in the last infos: `is_success` or `success` as `success_rate`, any other as
    `info/<name>`; each over the episodes that have it."""
    values: dict[str, list[float]] = {}
    for episode in episodes:
        for name, value in episode.items():
            values.setdefault("success_rate" if name in ("is_success", "success") else f"info/{name}", []).append(value)
    return {name: float(np.mean(each)) for name, each in values.items()}


# --- outputs on which no policy can act ---


def all_forbidden(observation: Observation, space: gymnasium.Space, acting: np.ndarray) -> int | None:
    """The first of the `acting` rows of a batch whose action mask forbids every action; None if there is none.

    In a space of several choices each needs an allowed value. The last observation of an episode may forbid all.
    """
    if not isinstance(observation, Mapping) or MASK_KEY not in observation:
        return None
    match space:
        case spaces.MultiDiscrete():
            sizes = space.nvec.ravel()
        case spaces.MultiBinary():
            sizes = np.full(int(np.prod(space.shape)), 2)
        case _:
            sizes = np.array([observation[MASK_KEY].shape[-1]])
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    allowed = np.add.reduceat(np.asarray(observation[MASK_KEY], bool), starts, axis=-1)
    stuck = np.flatnonzero((allowed == 0).any(-1) & acting)
    return int(stuck[0]) if len(stuck) else None


def check_masks(observation: Observation, space: gymnasium.Space, acting: np.ndarray, step: int) -> None:
    """Raise `UsageError` if an environment's mask forbids every action although it needs one."""
    if (env := all_forbidden(observation, space, acting)) is not None:
        raise UsageError(
            f"the action mask of environment {env} at step {step} forbids every action of {space}, so there is nothing "
            "to choose; allow at least one, or end the episode (terminated=True) if no action is left."
        )


def not_finite(observation: Observation, reward: Any) -> tuple[str, tuple[int, ...], float] | None:
    """The first number that is NaN or infinite: the name of its array, its place and its value; None if there is
    none."""
    parts = observation if isinstance(observation, Mapping) else {"": observation}
    for name, given in [
        *((f"observation {n!r}" if n else "observation", v) for n, v in parts.items()),
        ("reward", reward),
    ]:
        values = np.asarray(given)
        if values.dtype.kind != "f":
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum()):  # one pass without a temporary; an overflowing sum is checked below
                continue
        if len(bad := np.argwhere(~np.isfinite(values))):
            where = tuple(int(k) for k in bad[0])
            return name, where, float(values[where])
    return None


def check_finite(observation: Observation, reward: Any, first_step: int = 0) -> None:
    """Raise `UsageError` for the first observation or reward that is NaN or infinite.

    `reward` is `[B]` (one step) or `[T, B]` (a rollout), arrays or CPU tensors; `observation` has the same leading
    axes, or is a dict of such arrays. `first_step` is added to the step in the message.
    """
    if (found := not_finite(observation, reward)) is None:
        return
    name, where, value = found
    axes = np.ndim(reward)
    step, env, component = (where[0] if axes == 2 else 0), where[axes - 1], where[axes:]
    raise UsageError(
        f"{name}{list(component) if component else ''} is {value} in environment {env} at step "
        f"{first_step + step}: the environment produced a number that is not finite. Clip or scale it in the "
        "environment (a gymnasium.ObservationWrapper or RewardWrapper), or end the episode before it diverges."
    )


def all_finite(observation: Observation) -> bool:
    """Whether no number of a small observation is NaN or infinite."""
    if isinstance(observation, Mapping):
        return all(all_finite(part) for part in observation.values())
    return observation.dtype.kind != "f" or bool(np.isfinite(observation).all())


class Rows:
    """The observations of environments that are stepped one by one, one row each, checked and converted; texts are
    unchanged."""

    def __init__(self, space: gymnasium.Space, count: int) -> None:
        self._text = isinstance(space, spaces.Text)
        self._space = space if self._text else rounded(space)
        self.rows: Any = np.full(count, "", object) if self._text else empty(self._space, count)
        self._one = None if self._text else empty(self._space, 1)

    def put(self, index: int, observation: Any, where: tuple[Any, ...], reward: float = 0.0, keep: bool = True) -> None:
        """Check an observation and its reward, and store it as row `index` if `keep`. `where` is what an error says of
        its place."""
        if self._text:
            observation = str(observation)
        else:
            write(self._one, 0, observation, self._space)
            sound = math.isfinite(reward) and all_finite(self._one)
            if not sound and (found := not_finite(self._one, np.array([reward]))) is not None:
                name, place, value = found
                raise UsageError(
                    f"{name}{list(place[1:]) or ''} is {value} at {' '.join(map(str, where))}: the environment "
                    "produced a number that is not finite. Clip or scale it in the environment, or end the episode "
                    "before it diverges."
                )
            observation = self._one
        if not keep:
            return
        if isinstance(self.rows, dict):
            for name, row in observation.items():
                self.rows[name][index] = row[0]
        else:
            self.rows[index] = observation if self._text else observation[0]

    def copy(self) -> Any:
        """A copy of the rows, which a policy may store."""
        if self._text:
            return np.stack(list(self.rows))
        return {k: x.copy() for k, x in self.rows.items()} if isinstance(self.rows, dict) else self.rows.copy()

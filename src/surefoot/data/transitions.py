"""A data set of transitions: what was observed, done and paid, and where episodes end.

Rows are the steps of one episode after another. `terminated` is the end of the task, after which nothing is to be had;
`truncated` a cut (a time limit, or the end of a recording), after which a critic bootstraps. Every episode's last row
has one of them, so the bounds of episodes are not stored. Arrays are checked once, when they come in. Those that are
mapped from a file stay so, and are never held whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from surefoot.data.formats import mapped
from surefoot.errors import UsageError

ROUNDING = 1e-5  # share of an action box by which numbers in single precision may lie outside of it
COLUMNS = ("observation", "action", "reward", "next_observation", "terminated", "truncated")


@dataclass(frozen=True, eq=False)
class Transitions:
    """Transitions `(s, a, r, s', end)` of whole episodes, one after another.

    Args:
        observation, next_observation: `[rows, ...]` float32, or uint8 for images.
        action: `[rows, dim]` float32 for continuous actions, `[rows]` int64 for discrete ones.
        reward: `[rows]` float32.
        terminated, truncated: `[rows]` bool. A row with both counts as terminated, and the last row of all as cut if
            it has neither.
        action_space: a bounded `Box` or a `Discrete`, where the data say it; `actions_in` finds it otherwise.
        name: what the data are called in messages.

    Raises:
        UsageError: arrays of different lengths, numbers that are not finite (the row is named), actions outside of
            their space, or no rows.
    """

    observation: NDArray[Any]
    action: NDArray[Any]
    reward: NDArray[Any]
    next_observation: NDArray[Any]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    action_space: gym.Space | None = None
    name: str = "the data"
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {name: x if _mapped(x := getattr(self, name)) else np.asarray(x) for name in COLUMNS}
        arrays = {name: _typed(name, x, self.name) for name, x in given.items()}
        rows = {name: len(x) if x.ndim else 0 for name, x in arrays.items()}
        if len({*rows.values()}) > 1 or not rows["reward"]:
            raise UsageError(
                f"{self.name} has the rows {rows}; every array needs the same number, at least 1, and a reward a row."
            )
        if arrays["observation"].shape != arrays["next_observation"].shape:
            shapes = arrays["observation"].shape[1:], arrays["next_observation"].shape[1:]
            raise UsageError(f"{self.name}: observations have the shape {shapes[0]}, next observations {shapes[1]}.")
        for name, x in arrays.items():
            _check_finite(name, x, self.name)
        arrays["truncated"] = arrays["truncated"] & ~arrays["terminated"]
        arrays["truncated"][-1] |= ~arrays["terminated"][-1]
        for name, x in arrays.items():
            object.__setattr__(self, name, x)
        if self.action_space is not None:
            check_actions(self.action, self.action_space, self.name)

    def __len__(self) -> int:
        return len(self.reward)

    def __repr__(self) -> str:
        kind = "discrete" if self.discrete else f"{self.action.shape[1]} continuous"
        return (
            f"Transitions({self.name}: {len(self):,} rows, {self.episodes:,} episodes, "
            f"observations {self.observation.shape[1:]}, {kind} actions)"
        )

    # --- episodes ----------------------------------------------------------------------------------------------------

    @property
    def ended(self) -> NDArray[np.bool_]:
        """True in the last row of every episode."""
        return self.terminated | self.truncated

    @property
    def bounds(self) -> NDArray[np.int64]:
        """First row and one past the last of every episode, `[episodes, 2]`."""
        last = np.flatnonzero(self.ended) + 1
        return np.stack([np.concatenate([[0], last[:-1]]), last], 1)

    @property
    def episodes(self) -> int:
        """The number of episodes."""
        return int(self.ended.sum())

    @property
    def returns(self) -> NDArray[np.float64]:
        """The undiscounted return of every episode."""
        return np.add.reduceat(self.reward.astype(np.float64), self.bounds[:, 0])

    def of_episodes(self, which: NDArray[np.int64]) -> Transitions:
        """The data of some episodes, in the order given."""
        rows = np.concatenate([np.arange(first, past) for first, past in self.bounds[which]])
        sizes = mapped.blocks((len(rows), *self.observation.shape[1:]))
        parts = ([getattr(self, name)[rows[some]] for name in COLUMNS] for some in sizes)
        return gathered(parts, self.name, action_space=self.action_space, facts=self.facts)

    def best(self, share: float) -> Transitions:
        """The episodes with the best returns, as many as make up a share of them, in their order."""
        count = max(1, round(share * self.episodes))
        return self.of_episodes(np.sort(np.argsort(-self.returns, kind="stable")[:count]))

    # --- spaces and scales -------------------------------------------------------------------------------------------

    @property
    def discrete(self) -> bool:
        """Whether actions are numbers of choices."""
        return self.action.dtype.kind == "i"

    @property
    def observation_space(self) -> gym.spaces.Box:
        """The space of observations: any vector, or any image."""
        shape, kind = self.observation.shape[1:], self.observation.dtype
        return gym.spaces.Box(*((0, 255) if kind == np.uint8 else (-np.inf, np.inf)), shape, kind.type)

    def actions_in(self, space: gym.Space | None = None) -> gym.Space:
        """The space of actions: the one given, the data's own, or [−1, 1] where neither is known.

        Raises:
            UsageError: an action lies outside.
        """
        if space is None and self.action_space is None and not self.discrete:
            assumed = gym.spaces.Box(-1, 1, self.action.shape[1:], np.float32)
            if (worst := _outside(self.action, assumed)) is not None:
                reach = float(np.abs(self.action).max())
                raise UsageError(
                    f"{self.name} has the action {self.action[worst].tolist()} in row {worst:,}, outside of [-1, 1], "
                    "and does not say which actions are possible. Give the environment (env=…, --env), whose box is "
                    f"then used, or the bounds: sf.dataset(…, low={-reach:g}, high={reach:g}), or surefoot dataset "
                    f"convert FILE new.npz --low={-reach:g} --high={reach:g}."
                )
            return assumed
        chosen = space if space is not None else self.action_space
        if chosen is None:
            chosen = gym.spaces.Discrete(int(self.action.max()) + 1)
        check_actions(self.action, chosen, self.name)
        return chosen

    def scale(self, following: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of the observations as they are given, `[...]` each; `following` counts the next
        observations too."""
        parts = [self.observation, self.next_observation] if following else [self.observation]
        total = sum(len(x) for x in parts)
        each = [x[rows] for x in parts for rows in mapped.blocks(x.shape)]
        mean = sum(x.sum(0, dtype=np.float64) for x in each) / total
        variance = sum(((x - mean) ** 2).sum(0) for x in each) / total
        return np.asarray(mean), np.sqrt(variance)

    def digest(self) -> str:
        """SHA-256 of all numbers, the same for the same data in any file."""
        found = hashlib.sha256(f"{self.action_space}".encode())
        for name in COLUMNS:
            x = np.ascontiguousarray(getattr(self, name))
            found.update(f"{name} {x.dtype.str} {x.shape}".encode())
            found.update(x.data)
        return found.hexdigest()

    @property
    def follows(self) -> NDArray[np.bool_]:
        """Whether a row's next observation is the observation of the row after it, `[rows − 1]`; True across ends."""
        axes, now, after = tuple(range(1, self.observation.ndim)), self.observation[1:], self.next_observation[:-1]
        same = [(after[rows] == now[rows]).all(axes) for rows in mapped.blocks(now.shape)]
        return np.concatenate([np.zeros(0, bool), *same]) | self.ended[:-1]


def gathered(parts: Iterable[Sequence[NDArray[Any]]], name: str, **more: Any) -> Transitions:
    """Transitions whose rows come piece by piece, such as episodes; each piece has the six columns in their order. What
    they make is mapped from a scratch file where it is large.

    Raises:
        UsageError: there is no row, or pieces differ in shape, or the columns of one in length.
    """
    columns = [mapped.Rows(f"{name}: {column}") for column in COLUMNS]
    for part in parts:
        if len({len(x) for x in part}) > 1:
            lengths = dict(zip(COLUMNS, map(len, part), strict=True))
            raise UsageError(f"{name}: the episode from row {columns[0].count:,} has {lengths} rows, not as many each.")
        for rows, column, x in zip(columns, COLUMNS, part, strict=True):
            rows.add(_typed(column, x, name))
    if not columns[0].count:
        raise UsageError(f"{name} has no transitions.")
    arrays = {column: rows.array() for column, rows in zip(COLUMNS, columns, strict=True)}
    return Transitions(**arrays, name=name, **more)


def joined(parts: list[Transitions]) -> Transitions:
    """Several data sets as one, with the name, the facts and the action space of the first."""
    first = parts[0]
    columns = ([getattr(one, name) for name in COLUMNS] for one in parts)
    return gathered(columns, first.name, action_space=first.action_space, facts=first.facts)


def check_actions(action: NDArray[Any], space: gym.Space, name: str) -> None:
    """Raise `UsageError` for actions of another kind, shape or range than a space."""
    discrete, wanted = action.dtype.kind == "i", isinstance(space, gym.spaces.Discrete)
    if not isinstance(space, gym.spaces.Box | gym.spaces.Discrete):
        raise UsageError(f"{name}: actions of {space} are not supported; they must be a Box or Discrete.")
    if discrete != wanted or (not wanted and action[0].size != np.prod(space.shape or ())):
        mine = "discrete actions" if discrete else f"continuous actions of the shape {action.shape[1:]}"
        raise UsageError(f"{name} has {mine}, but the action space is {space}. Give the data's own environment.")
    if not discrete and not space.is_bounded():  # type: ignore[attr-defined]
        raise UsageError(f"{name}: the action space {space} has no bounds; give low=… and high=….")
    if (worst := _outside(action, space)) is not None:
        raise UsageError(
            f"{name} has the action {action[worst].tolist()} in row {worst:,}, outside of {space}. The data are of "
            "another environment, or their actions must be scaled or clipped to it first."
        )


def _outside(action: NDArray[Any], space: Any) -> int | None:
    """The first row with an action outside of the space, beyond rounding."""
    if isinstance(space, gym.spaces.Discrete):
        wrong = (action < space.start) | (action >= space.start + space.n)
    else:
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        spare = ROUNDING * (high - low)
        each = action.reshape(len(action), -1)
        wrong = ((each < low - spare) | (each > high + spare)).any(1)
    return int(wrong.argmax()) if wrong.any() else None


def _mapped(x: Any) -> bool:
    return isinstance(x, np.memmap)


def _typed(column: str, x: NDArray[Any], name: str) -> NDArray[Any]:
    """A column in its own type: bool, float32, int64 for discrete actions, uint8 for images. It is a copy, unless it is
    mapped from a file."""
    if x.dtype.kind not in "fiub":
        raise UsageError(f"{name}: {column} has the type {x.dtype}, which is no number.")
    if column in ("terminated", "truncated"):
        return x.reshape(len(x)).astype(bool)
    if column == "reward":
        return _as(np.float32, x.reshape(-1))
    if column == "action":
        if x.dtype.kind in "iu":
            return _as(np.int64, x[:, 0] if x.ndim == 2 and x.shape[1] == 1 else x)
        return _as(np.float32, x[:, None] if x.ndim == 1 else x)
    images = x.dtype == np.uint8 and x.ndim == 4
    return x if images else _as(np.float32, x[:, None] if x.ndim == 1 else x)


def _as(kind: type[np.generic], x: NDArray[Any]) -> NDArray[Any]:
    """Numbers in another type: a copy, in a scratch file where a mapped array is converted."""
    if not _mapped(x):
        return x.astype(kind)
    return x if x.dtype == kind else mapped.together(x[rows].astype(kind) for rows in mapped.blocks(x.shape))


def _check_finite(column: str, x: NDArray[Any], name: str) -> None:
    if x.dtype.kind != "f":
        return
    wrong = np.concatenate([~np.isfinite(x[rows]).all(tuple(range(1, x.ndim))) for rows in mapped.blocks(x.shape)])
    if wrong.any():
        rows = np.flatnonzero(wrong)
        more = f" and {len(rows) - 1:,} more row{'s' * (len(rows) > 2)}" if len(rows) > 1 else ""
        raise UsageError(
            f"{name}: {column} is not finite in row {rows[0]:,}{more} ({x[rows[0]].tolist()}). Repair these rows, or "
            "leave out their episodes."
        )

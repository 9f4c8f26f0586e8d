"""Replay of transitions: a ring over time of what all environments did, sampled uniformly or by priority.

A row of the ring is one step of all environments. The observation after a step is that of the next row, also where an
episode ends, since an environment resets itself only in the step after: so every observation is stored once, and the
steps that only reset are not sampled.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surefoot.data.priorities import Priorities

Arrays = np.ndarray | dict[str, np.ndarray]
Index = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows and environments of transitions."""
SHARE = 0.5  # of the free memory; a larger ring lives in a file


class Replay:
    """The last transitions of `envs` environments of each of `seeds` seeds, those of a seed adjacent.

    Args:
        capacity: transitions per seed.
        seeds, envs: number of seeds, and of environments of each.
        prioritized: keep a priority of every transition, for `sample_prioritized`.
        folder: where a ring that is too large for memory is kept in a file; a temporary folder if not given.
    """

    def __init__(
        self, capacity: int, seeds: int, envs: int, *, prioritized: bool = False, folder: Path | None = None
    ) -> None:
        self.rows = max(2, math.ceil(capacity / envs) + 1)  # one row holds the newest observation alone
        self.seeds, self.envs, self.folder = seeds, envs, folder
        self.head, self.filled = 0, 0  # the row of the newest observation, and how many complete rows there are
        self.store: dict[str, Arrays] = {}
        self.priorities = [Priorities(self.rows * envs) for _ in range(seeds)] if prioritized else []

    @property
    def nbytes(self) -> int:
        """Size of what is stored."""
        return sum(
            x.nbytes for part in self.store.values() for x in (part.values() if isinstance(part, dict) else [part])
        )

    def add(self, observation: Arrays, following: Arrays, **fields: np.ndarray) -> None:
        """One step of all environments: `observation` before and `following` after it, and fields `[envs, ...]`, among
        them reward, terminated, truncated, valid (False where an environment only reset itself)."""
        if not self.store:
            self._make(observation, fields)
        head, after = self.head, (self.head + 1) % self.rows
        for name, value in fields.items():
            self.store[name][head] = value  # type: ignore[call-overload]
        self._put(head, observation)
        self._put(after, following)
        for seed, priorities in enumerate(self.priorities):
            mine = slice(seed * self.envs, (seed + 1) * self.envs)
            new = np.arange(head * self.envs, (head + 1) * self.envs)
            priorities.add(new, fields["valid"][mine])
            priorities.remove(np.arange(after * self.envs, (after + 1) * self.envs))
        self.head, self.filled = after, min(self.filled + 1, self.rows - 1)

    def sample(self, seed: int, size: int, generator: np.random.Generator, newest: int | None = None) -> Index:
        """Transitions of a seed, uniformly with replacement; of its `newest` steps, if given."""
        valid = self.store["valid"]
        assert isinstance(valid, np.ndarray)
        first, filled = seed * self.envs, self.filled
        filled = filled if newest is None else min(filled, newest // self.envs)

        def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
            flat = generator.integers(0, filled * self.envs, count)
            return (self.head - 1 - flat // self.envs) % self.rows, first + flat % self.envs

        rows, envs = draw(size)
        while (wrong := ~valid[rows, envs]).any():
            rows[wrong], envs[wrong] = draw(int(wrong.sum()))
        return rows, envs

    def sample_prioritized(
        self, seed: int, size: int, generator: np.random.Generator, beta: float
    ) -> tuple[Index, NDArray[np.float32]]:
        """Transitions of a seed in proportion to their priorities, and importance weights of at most 1."""
        flat, weights = self.priorities[seed].sample(size, generator, beta)
        return (flat // self.envs, seed * self.envs + flat % self.envs), weights

    def sample_sequences(
        self, seed: int, count: int, length: int, generator: np.random.Generator, newest: int | None = None
    ) -> Index:
        """Where `count` sequences of so many steps in a row begin, drawn uniformly; of its `newest` steps, if given."""
        filled = self.filled if newest is None else min(self.filled, newest // self.envs)
        flat = generator.integers(0, (filled - length + 1) * self.envs, count)
        return (self.head - length - flat // self.envs) % self.rows, seed * self.envs + flat % self.envs

    def take_sequences(self, index: Index, gamma: float, burn_in: int, steps: int) -> dict[str, Any]:
        """The sequences that begin there, `burn_in` and then `steps` long, in the order of time.

        `observation`, `[(burn_in + steps + 1) · sequences, ...]`, and its `starts` (True where an episode begins) are
        those of all steps and after the last; all else is of the last `steps`, `[steps · sequences, ...]`. `weight` is
        0 for steps in which an environment only reset itself.
        """
        first, envs = index
        rows = (first + np.arange(burn_in + steps + 1)[:, None]) % self.rows
        seen, which = rows.ravel(), np.broadcast_to(envs, rows.shape)
        starts = ~self._at("valid", (rows - 1) % self.rows, which)
        starts[0] = True
        learned, own = rows[burn_in:-1].ravel(), which[burn_in:-1].ravel()
        others = {k: self._at(k, learned, own) for k in self.store if k not in ("observation", "terminated",
                                                                                "truncated", "valid")}  # fmt: skip
        going = ~self._at("terminated", learned, own)
        return {
            **others,
            "observation": self._at("observation", seen, which.ravel()),
            "starts": starts,
            "discount": np.float32(gamma) * going,
            "weight": self._at("valid", learned, own).astype(np.float32),
        }

    def update_priorities(self, seed: int, index: Index, errors: np.ndarray) -> None:
        """Set the priorities of sampled transitions by the size of their errors."""
        rows, envs = index
        self.priorities[seed].set(rows * self.envs + envs - seed * self.envs, errors)

    def take(self, index: Index, gamma: float, steps: int = 1) -> dict[str, Any]:
        """A batch: observation, next_observation, reward, discount and all other fields of these transitions.

        With `steps` > 1 the reward is the discounted sum of up to so many, `next_observation` the one after the last of
        them, and `discount` the factor of the value there: γ^m, or 0 after a termination. A sum ends where its episode
        ends, and at the newest step.
        """
        rows, envs = index
        discount, total = np.full(len(rows), gamma, np.float32), self._at("reward", rows, envs).astype(np.float32)
        last = rows.copy()
        ended = self._at("terminated", rows, envs) | self._at("truncated", rows, envs)
        for _ in range(steps - 1):
            on = ~ended & ((last + 1) % self.rows != self.head)
            if not on.any():
                break
            last = np.where(on, (last + 1) % self.rows, last)
            total += np.where(on, discount * self._at("reward", last, envs), 0).astype(np.float32)
            discount *= np.where(on, np.float32(gamma), np.float32(1))
            ended |= self._at("terminated", last, envs) | self._at("truncated", last, envs)
        after = (last + 1) % self.rows
        others = {k: self._at(k, rows, envs) for k in self.store if k not in ("observation", "reward", "terminated",
                                                                            "truncated", "valid")}  # fmt: skip
        return {
            "observation": self._at("observation", rows, envs),
            "next_observation": self._at("observation", after, envs),
            "reward": total,
            "discount": discount * ~self._at("terminated", last, envs),
            **others,
        }

    # --- storage -----------------------------------------------------------------------------------------------------

    def _make(self, observation: Arrays, fields: Mapping[str, np.ndarray]) -> None:
        examples: list[np.ndarray] = [*(observation.values() if isinstance(observation, dict) else [observation])]
        size = self.rows * sum(x.nbytes for x in (*examples, *fields.values()))
        in_file = size > SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

        def room(x: np.ndarray) -> np.ndarray:
            shape = (self.rows, *x.shape)
            if not in_file:
                return np.zeros(shape, x.dtype)
            with tempfile.TemporaryFile(dir=self.folder) as file:  # deleted when it is closed, whatever happens
                return np.memmap(file, x.dtype, "w+", shape=shape)

        self.store = {name: room(x) for name, x in fields.items()}
        self.store["observation"] = (
            {key: room(x) for key, x in observation.items()} if isinstance(observation, dict) else room(observation)
        )

    def _put(self, row: int, observation: Arrays) -> None:
        place = self.store["observation"]
        if isinstance(place, dict):
            for key, x in place.items():
                x[row] = observation[key]
        else:
            place[row] = observation

    def _at(self, name: str, rows: np.ndarray, envs: np.ndarray) -> Any:
        place = self.store[name]
        return {key: x[rows, envs] for key, x in place.items()} if isinstance(place, dict) else place[rows, envs]


def joined(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Batches of several seeds as one with a leading seed axis."""

    def stack(parts: list[Any]) -> Any:
        if isinstance(parts[0], dict):
            return {key: stack([part[key] for part in parts]) for key in parts[0]}
        return np.stack(parts) if len(parts) > 1 else parts[0][None]

    return {key: stack([batch[key] for batch in batches]) for key in batches[0]}

"""Temperatures and the returns under them, found in the replay and kept with the concentration of the curriculum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from surefoot.data.replay import Replay

ENOUGH = 100  # pairs that are kept
LONGEST = 10_000  # steps of an episode that is found


class Pairs(NamedTuple):
    """Temperatures and discounted returns, the oldest first."""

    temperatures: NDArray[np.float64] = np.zeros(0)
    returns: NDArray[np.float64] = np.zeros(0)

    def __len__(self) -> int:
        return len(self.temperatures)

    def extended(self, found: Sequence[tuple[float, float]]) -> Pairs:
        """With more of them; the oldest go where there are too many."""
        more = np.array(found, float).reshape(-1, 2)
        return Pairs(
            np.concatenate([self.temperatures, more[:, 0]])[-ENOUGH:],
            np.concatenate([self.returns, more[:, 1]])[-ENOUGH:],
        )

    @classmethod
    def read(cls, weights: Tensor) -> Pairs:
        """Those in a vector that `written` gave."""
        numbers = weights.detach().cpu().double().numpy()
        count = int(numbers[1])
        temperatures, returns = numbers[2:].reshape(2, ENOUGH)[:, :count]
        return cls(temperatures, returns)

    def written(self, concentration: float) -> Tensor:
        """The concentration, the number of pairs, and the pairs as one vector."""
        numbers = np.zeros(2 + 2 * ENOUGH)
        numbers[:2] = concentration, len(self)
        numbers[2:].reshape(2, ENOUGH)[:, : len(self)] = self
        return torch.from_numpy(numbers).float()


class Curriculum(nn.Module):
    """What the curriculum knows, as weights that no gradient moves."""

    def __init__(self, concentration: float) -> None:
        super().__init__()
        self.known = nn.Parameter(Pairs().written(concentration))

    def forward(self) -> Tensor:
        return self.known


def ended_episodes(replay: Replay, seed: int, steps: int, gamma: float) -> list[tuple[float, float]]:
    """The note of its last action (the last component) and the discounted return of every episode of a seed that ended
    in the last `steps` steps, in order; those that began before what is stored or are too long are left out."""
    count = min(replay.filled, steps + LONGEST)
    rows = (replay.head - count + np.arange(count)) % replay.rows
    whole = count == replay.filled < replay.rows - 1  # from the very first step
    found: list[tuple[int, float, float]] = []
    for env in range(seed * replay.envs, (seed + 1) * replay.envs):
        reward, action = (replay.store[name][rows, env] for name in ("reward", "action"))  # type: ignore[call-overload]
        ended = np.flatnonzero(replay.store["terminated"][rows, env] | replay.store["truncated"][rows, env])  # type: ignore
        begun = np.concatenate([[0 if whole else -1], ended[:-1] + 2]) if len(ended) else ended
        for first, last in zip(begun.tolist(), ended.tolist(), strict=True):
            if first >= 0 and last >= count - steps:
                discounts = gamma ** np.arange(last + 1 - first)
                found.append((last, float(action[last, -1]), float(discounts @ reward[first : last + 1])))
    return [(temperature, value) for _, temperature, value in sorted(found)]

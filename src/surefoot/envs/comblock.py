"""The continuous combination lock: only one action opens a step, and its rewards lead away from the last one.

A hidden state is 0 or 1 (good) or 2 (dead). An action in R^10 is softened to one of ten hidden ones; in each good state
of each step one of these is right, goes to 0 or 1 with probability 1/2, and in the last step pays 1. All others lead to
2 for good, and pay 0.1 half of the time. Random actions get through with probability 10^−H, so what is found online
is the reward for giving up. After Yifei Zhou et al., arXiv:2311.08384, and Dipendra Misra et al., arXiv:1911.05815.

An observation is a Hadamard matrix times [one-hot state, one-hot step, 0 …] with N(0, 0.1²) noise on the first H + 3
entries, and then the number of the step.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from surefoot.errors import UsageError
from surefoot.seeding import numpy_stream

ACTIONS, TEMPERATURE, NOISE, DEAD = 10, 0.1, 0.1, 2
REACH = 10.0  # of the box of actions, wide enough that a Gaussian's are not clipped
LONGEST = 100


def hadamard(size: int) -> NDArray[np.float64]:
    """The Hadamard matrix of a power of two, by Sylvester's doubling."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


class CombinationLock(gymnasium.Env):
    """An episode has `horizon` steps; `lock` is the random seed of its right actions."""

    def __init__(self, horizon: int = 5, lock: int = 0) -> None:
        if type(horizon) is not int or not 1 <= horizon <= LONGEST:
            raise UsageError(f"horizon={horizon!r} is not allowed; it must be a whole number from 1 to {LONGEST}.")
        self.horizon = horizon
        self.right = numpy_stream(lock, "right actions of a combination lock").integers(0, ACTIONS, (horizon, DEAD))
        self.matrix = hadamard(1 << (horizon + 3).bit_length())
        low, high = np.full(len(self.matrix) + 1, -np.inf), np.full(len(self.matrix) + 1, np.inf)
        low[-1], high[-1] = 0, horizon
        self.observation_space = spaces.Box(low.astype(np.float32), high.astype(np.float32))
        self.action_space = spaces.Box(-REACH, REACH, (ACTIONS,), np.float32)
        self.state, self.time = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.time = int(self.np_random.integers(2)), 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        logits = np.asarray(action, np.float64) / TEMPERATURE
        weights = np.exp(logits - logits.max())
        chosen = int(np.searchsorted(weights.cumsum() / weights.sum(), self.np_random.random()))
        chosen = min(chosen, ACTIONS - 1)
        coins, reward = self.np_random.random(2), 0.0
        good = self.state != DEAD
        opened = good and chosen == self.right[self.time, self.state]
        if opened:
            reward = float(self.time == self.horizon - 1)
        elif good:
            reward = 0.1 * float(coins[0] < 0.5)
        self.state = int(coins[1] < 0.5) if opened else DEAD
        self.time += 1
        return self._observe(), reward, self.time == self.horizon, False, {}

    def _observe(self) -> NDArray[np.float32]:
        parts = np.zeros(len(self.matrix))
        parts[self.state] = parts[DEAD + 1 + self.time] = 1
        parts[: self.horizon + 3] += NOISE * self.np_random.normal(size=self.horizon + 3)
        return np.append(self.matrix @ parts, self.time).astype(np.float32)

    def demonstrate(self, observation: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
        """The actions `[batch, 10]` of the paper's offline data: the right one, one-hot, or with probability 1/H one of
        U[0, 1]^10. The state is read off the observations `[batch, size]`."""
        state = (observation[:, :-1] @ self.matrix)[:, : DEAD + 1].argmax(1)
        time = observation[:, -1].astype(int).clip(0, self.horizon - 1)
        right = np.where(state == DEAD, 0, self.right[time, np.minimum(state, DEAD - 1)])
        random = generator.uniform(size=(len(observation), ACTIONS))
        lost = generator.random(len(observation)) < 1 / self.horizon
        return np.where(lost[:, None], random, np.eye(ACTIONS)[right]).astype(np.float32)


LENGTHS = (5, 10, 15, 30, 50)


def register() -> None:
    """Make the locks of the paper known to Gymnasium, as `surefoot/Comblock5-v0` and so on."""
    for horizon in LENGTHS:
        if (name := f"surefoot/Comblock{horizon}-v0") not in gymnasium.registry:
            gymnasium.register(name, entry_point=f"{__name__}:CombinationLock", kwargs={"horizon": horizon})

"""The cart-pole of the GAE paper: a force in place of two actions, and batches of whole episodes.

The physics are those of Barto, Sutton and Anderson (1983), as in CartPole-v1; an action of 1 is a force of 10 N.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from surefoot.seeding import numpy_stream

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
EDGE, ANGLE, LONGEST = 2.4, np.radians(12.0), 1000
PERIOD = LONGEST + 1  # calls of `step` to a batch, the last of which resets


def moved(state: np.ndarray, force: np.ndarray) -> np.ndarray:
    """States `[..., 4]` (position, velocity, angle, angular velocity) one Euler step later."""
    x, speed, angle, turning = np.moveaxis(state, -1, 0)
    sine, cosine = np.sin(angle), np.cos(angle)
    push = (force + POLE * HALF_LENGTH * turning**2 * sine) / (CART + POLE)
    bend = (GRAVITY * sine - cosine * push) / (HALF_LENGTH * (4 / 3 - POLE * cosine**2 / (CART + POLE)))
    pull = push - POLE * HALF_LENGTH * bend * cosine / (CART + POLE)
    return state + SECONDS * np.stack([speed, pull, turning, bend], -1)


class WholeEpisodes(VectorEnv):
    """`each` cart-poles for every seed. All start together, each plays one episode, and one that has ended stays so,
    which makes its steps invalid, until all start anew after `PERIOD` steps.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, seeds: Sequence[int], each: int) -> None:
        self.num_envs, self.each = len(seeds) * each, each
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.single_action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.streams = [numpy_stream(seed, "cart-pole") for seed in seeds]

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.state = np.concatenate([stream.uniform(-0.05, 0.05, (self.each, 4)) for stream in self.streams])
        self.over, self.time = np.zeros(self.num_envs, bool), 0
        return self.state.astype(np.float32), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        playing, never = ~self.over, np.zeros(self.num_envs, bool)
        self.time += 1
        if self.time == PERIOD:
            return self.reset()[0], np.zeros(self.num_envs), never, never, {}
        self.state = np.where(playing[:, None], moved(self.state, FORCE * actions[:, 0]), self.state)
        fallen = (np.abs(self.state[:, 0]) > EDGE) | (np.abs(self.state[:, 2]) > ANGLE)
        late = playing & ~fallen & (self.time == LONGEST)
        self.over = self.over | fallen | late
        return self.state.astype(np.float32), playing.astype(float), self.over & ~late, late, {}

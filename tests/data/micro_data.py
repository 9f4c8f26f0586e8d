"""Small data sets for tests."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from surefoot.data.transitions import Transitions

BOX = gym.spaces.Box(-2, 2, (2,), np.float32)


def made(lengths=(4, 1, 3), *, seed: int = 0, space: gym.Space | None = BOX) -> Transitions:
    """Random episodes of these lengths; every other one is cut, the first one ends."""
    rng, parts = np.random.default_rng(seed), []
    for number, steps in enumerate(lengths):
        states = rng.normal(size=(steps + 1, 3)).astype(np.float32)
        discrete = isinstance(space, gym.spaces.Discrete)
        action = rng.integers(0, 3, steps) if discrete else rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
        end = np.arange(steps) == steps - 1
        reward = rng.normal(size=steps).astype(np.float32)
        parts.append((states[:-1], action, reward, states[1:], end & (number % 2 == 0), end & (number % 2 == 1)))
    columns = [np.concatenate([part[i] for part in parts]) for i in range(6)]
    return Transitions(*columns, action_space=space, name="made")

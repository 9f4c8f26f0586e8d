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


def target_data(rows: int = 600, *, spread: float = 0.5, seed: int = 0) -> Transitions:
    """Steps of `surefoot/ContinuousTarget-v0` by actions around the right one, x/2, of deviation `spread`."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (rows, 1)).astype(np.float32)
    action = (x / 2 + spread * rng.normal(size=(rows, 1))).clip(-1, 1).astype(np.float32)
    reward = -((action - x / 2)[:, 0] ** 2)
    ends = np.ones(rows, bool)
    box = gym.spaces.Box(-1, 1, (1,), np.float32)
    return Transitions(x, action, reward, x, ends, ~ends, action_space=box, name="target")


def walk_data(episodes: int = 20, *, seed: int = 0) -> Transitions:
    """Walks of 10 steps towards 0 by noisy actions; every other one is cut, the others end."""
    rng, parts = np.random.default_rng(seed), []
    for number in range(episodes):
        states = [rng.uniform(-1, 1, 2)]
        action = rng.uniform(-1, 1, (10, 2)).astype(np.float32)
        for a in action:
            states.append(states[-1] + 0.2 * a)
        states = np.array(states, np.float32)
        end = np.arange(10) == 9
        reward = -np.linalg.norm(states[1:], axis=1).astype(np.float32)
        parts.append((states[:-1], action, reward, states[1:], end & (number % 2 == 0), end & (number % 2 == 1)))
    columns = [np.concatenate([part[i] for part in parts]) for i in range(6)]
    return Transitions(*columns, action_space=gym.spaces.Box(-1, 1, (2,), np.float32), name="walk")

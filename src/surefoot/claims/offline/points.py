"""A point in a square that is pushed towards a goal: a task and data for claims of offline methods, in seconds.

`s' = clip(s + 0.15 a)` in [−1, 1]², the reward is minus the distance of s' from (0.7, 0.7), an episode has 40 steps and
never terminates. A row of the data is a step from a uniformly drawn state, so each is an episode that was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from surefoot.data.transitions import Transitions, joined
from surefoot.loops.offline.learner import OfflineLearner
from surefoot.models.normalizers import Moments
from surefoot.seeding import numpy_stream

GOAL, SPEED, HORIZON, GAMMA = np.array([0.7, 0.7]), 0.15, 40, 0.95
BOX = gym.spaces.Box(-1, 1, (2,), np.float32)
Behave = Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]
"""From states `[rows, 2]` to the actions taken in them, before they are clipped."""


def towards_goal(state: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best action in every state."""
    return ((GOAL - state) / SPEED).clip(-1, 1)


def moved(state: NDArray[np.float64], action: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The states after a step, and the rewards."""
    after = (state + SPEED * action).clip(-1, 1)
    return after, -np.linalg.norm(after - GOAL, axis=-1)


def steps(behave: Behave, rows: int, seed: int) -> Transitions:
    """A data set of `rows` steps by a behaviour."""
    g = numpy_stream(seed, "steps of a point")
    state = g.uniform(-1, 1, (rows, 2))
    action = behave(state, g).clip(-1, 1)
    after, reward = moved(state, action)
    cut = np.ones(rows, bool)
    return Transitions(state, action, reward, after, ~cut, cut, action_space=BOX, name="steps of a point")


def mean_return(act: Callable[[NDArray[np.float32]], NDArray[Any]], seed: int, starts: int = 200) -> float:
    """Mean undiscounted return of a policy `[batch, 2] -> [batch, 2]` from uniformly drawn starts."""
    state, total = numpy_stream(seed, "starts of a point").uniform(-1, 1, (starts, 2)), 0.0
    for _ in range(HORIZON):
        state, reward = moved(state, np.asarray(act(state.astype(np.float32)), float))
        total += float(reward.mean())
    return total


class Seedwise(OfflineLearner):
    """A learner of several seeds, each with a data set and a normaliser of its own; all sets have the same size."""

    def __init__(self, method: Any, sets: Sequence[Transitions], seeds: Sequence[int], total_steps: int) -> None:
        self.size = len(sets[0])
        every = joined(list(sets))
        super().__init__(method, every, (every.observation_space, every.actions_in()), seeds, total_steps)
        each = [OfflineLearner(method, one, (every.observation_space, BOX), [0], 1).moments for one in sets]
        for key in self.moments:
            self.moments[key] = Moments(*(torch.cat(parts) for parts in zip(*(m[key] for m in each), strict=True)))

    def rows(self) -> list[NDArray[np.int64]]:
        return [x % self.size + i * self.size for i, x in enumerate(super().rows())]


def trained(method: Any, sets: Sequence[Transitions], seeds: Sequence[int], total_steps: int) -> Seedwise:
    """A learner after so many gradient steps, each seed on its own data set."""
    learner = Seedwise(method, sets, seeds, total_steps)
    while learner.steps < total_steps:
        learner.iterate()
    return learner


def scores(learner: OfflineLearner) -> list[float]:
    """The mean return of every seed's agent."""
    agents = [learner.agent(index) for index in range(learner.num_seeds)]
    return [
        mean_return(lambda x, agent=agent: agent.predict(x, deterministic=True)[0], seed)  # type: ignore[arg-type]
        for agent, seed in zip(agents, learner.seeds, strict=True)
    ]

"""MAHALO's game on a finite MDP, solved exactly: the limit in which data are never contradicted (arXiv:2303.17156)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from surefoot.envs.tabular.mdp import TabularMDP


def pessimistic_mdp(
    transitions: NDArray[np.int64],
    labels: Sequence[tuple[int, int, float]],
    *,
    states: int,
    actions: int,
    gamma: float,
    lowest_reward: float = 0.0,
    lowest_value: float = 0.0,
) -> TabularMDP:
    """The finite MDP whose optimal policy and values solve the game `max_π min_{f, g} f(d0, π)`, with critics f and
    rewards g that agree with the data.

    Transitions follow their frequencies. One whose pair of states has a label pays the mean of its labels, any other
    `lowest_reward`; a state and action that were never seen are worth `lowest_value`, for which they lead to one more
    state, the last.

    Args:
        transitions: `[rows, 3]`, each a state, an action and the next state.
        labels: states, next states and rewards of rows whose actions are unknown.
        lowest_reward: r_min of rewards.
        lowest_value: V_min of critics.
    """
    counts = np.zeros((states, actions, states))
    np.add.at(counts, tuple(np.asarray(transitions).reshape(-1, 3).T), 1)
    total, known = np.zeros((states, states)), np.zeros((states, states))
    for state, following, reward in labels:
        total[state, following] += reward
        known[state, following] += 1
    reward = np.where(known > 0, total / np.maximum(known, 1), lowest_reward)
    seen = counts.sum(-1)
    kernel = np.zeros((states + 1, actions, states + 1))
    paid = np.full((states + 1, actions), (1 - gamma) * lowest_value)
    frequency = counts / np.maximum(seen, 1)[..., None]
    kernel[:-1, :, :-1], kernel[:-1, :, -1], kernel[-1, :, -1] = frequency, seen == 0, 1
    paid[:-1] = np.where(seen > 0, (frequency * reward[:, None]).sum(-1), paid[:-1])
    return TabularMDP(kernel, paid, gamma)

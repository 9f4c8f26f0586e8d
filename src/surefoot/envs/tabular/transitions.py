"""From a list of transitions to an MDP, dense where that is small and sparse where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from surefoot.envs.tabular.mdp import Kernel, Successors, TabularMDP
from surefoot.envs.tabular.memory import check_memory

DENSE = 4_000_000  # entries of a kernel [S, A, S'] up to which it is kept whole: 32 MB


def from_transitions(
    state: np.ndarray,
    action: np.ndarray,
    next_state: np.ndarray,
    probability: np.ndarray,
    reward: np.ndarray,
    *,
    states: int,
    actions: int,
    **rest: Any,
) -> TabularMDP:
    """The MDP of `n` transitions, each array `[n]`; `rest` are other fields of `TabularMDP`.

    Entries of the same state, action and next state are added up, and their rewards averaged by probability. Pairs
    of which there is no entry are not legal.
    """
    check_memory(40 * len(state), f"a list of {len(state):,} transitions")
    pair = np.asarray(state, np.int64) * actions + np.asarray(action, np.int64)
    legal = np.zeros(states * actions, bool)
    legal[pair] = True
    key, first, where = np.unique(pair * states + next_state, return_index=True, return_inverse=True)
    precision = np.asarray(probability).dtype
    probability, reward = np.asarray(probability, np.float64), np.asarray(reward, np.float64)
    total = np.bincount(where, probability)
    drift = np.bincount(where, probability * (reward - reward[first][where]))  # so that equal rewards stay as they are
    mean = reward[first] + np.divide(drift, total, out=np.zeros_like(total), where=total > 0)

    keep = total != 0
    key, total, mean = key[keep], total[keep], mean[keep]
    pair = key // states
    start = np.flatnonzero(np.diff(pair, prepend=-1))
    count = np.diff(start, append=len(pair))
    one_each = not len(pair) or bool((mean == np.repeat(mean[start], count)).all())

    kept = np.zeros(states * actions, np.int64)
    kept[pair[start]] = count
    width = states if states * actions * states <= DENSE else max(1, int(kept.max(initial=1)))
    what = f"a kernel of {states:,} states, {actions:,} actions and {width:,} successors"
    check_memory(24 * states * actions * width, what)
    column = key % states if width == states else np.arange(len(pair)) - np.repeat(start, count)
    rows = _table(pair, column, total.astype(precision), (states, actions, width))
    kernel: Kernel = torch.from_numpy(rows)
    if width != states:
        kernel = Successors(torch.from_numpy(_table(pair, column, key % states, rows.shape)), kernel)
    if one_each:
        reward = np.zeros(states * actions)
        reward[pair] = mean
        reward = reward.reshape(states, actions)
    else:
        reward = _table(pair, column, mean, rows.shape)
    allowed = None if legal.all() else legal.reshape(states, actions)
    return TabularMDP(kernel, reward, legal=allowed, **rest)


def _table(pair: np.ndarray, column: np.ndarray, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    table = np.zeros((shape[0] * shape[1], shape[2]), values.dtype)
    table[pair, column] = values
    return table.reshape(shape)


def kernel_of(successors: Successors) -> Kernel:
    """The same kernel `[S, A, S']` if that is small, the successors themselves if it is not."""
    states, actions, _ = successors.probability.shape
    return successors if states * actions * states > DENSE else successors.dense(states)

"""From a list of transitions to an MDP, dense if that is small and sparse otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from surefoot.envs.tabular.mdp import Kernel, Successors, TabularMDP
from surefoot.envs.tabular.memory import check_memory
from surefoot.errors import UsageError

DENSE = 4_000_000  # maximum number of entries of a dense kernel [S, A, S']: 32 MB


def from_transitions(
    state: np.ndarray,
    action: np.ndarray,
    next_state: np.ndarray,
    probability: np.ndarray | None,
    reward: np.ndarray,
    *,
    states: int,
    actions: int,
    count: np.ndarray | int | None = None,
    **rest: Any,
) -> TabularMDP:
    """The MDP of `n` transitions, each array `[n]`; `rest` are other fields of `TabularMDP`.

    Entries of the same state, action and next state are added, and their rewards averaged by probability. Pairs
    without an entry are not legal. With `probability=None`, `count` says how often each transition was seen
    (1 for a list of observed transitions), and probabilities are their shares; `count_transitions` and
    `surefoot.ambiguity.from_counts` make an ambiguity set of the same data.

    Raises `UsageError` unless one of `probability` and `count` is given, and for counts below 0.
    """
    if (probability is None) == (count is None):
        raise UsageError("give either probability, or probability=None and count, how often each transition was seen.")
    if probability is None:
        pair = np.asarray(state, np.int64) * actions + np.asarray(action, np.int64)
        weight = np.broadcast_to(np.asarray(count, np.float64), pair.shape)
        if not bool((np.isfinite(weight) & (weight >= 0)).all()):
            raise UsageError(f"count={count!r} is not allowed; every entry must be a number of at least 0.")
        seen = weight > 0
        state, action, next_state, reward = (np.asarray(x)[seen] for x in (state, action, next_state, reward))
        pair, weight = pair[seen], weight[seen]
        probability = weight / np.bincount(pair, weight)[pair] if len(pair) else weight
    check_memory(40 * len(state), f"a list of {len(state):,} transitions")
    pair = np.asarray(state, np.int64) * actions + np.asarray(action, np.int64)
    legal = np.zeros(states * actions, bool)
    legal[pair] = True
    key, first, where = np.unique(pair * states + next_state, return_index=True, return_inverse=True)
    precision = np.asarray(probability).dtype
    probability, reward = np.asarray(probability, np.float64), np.asarray(reward, np.float64)
    total = np.bincount(where, probability)
    drift = np.bincount(where, probability * (reward - reward[first][where]))  # so that equal rewards are unchanged
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


def count_transitions(
    state: np.ndarray, action: np.ndarray, next_state: np.ndarray, *, states: int, actions: int
) -> np.ndarray:
    """How often each transition was seen, `[S, A, S']`, in a list of them, each array of one shape.

    Raises `UsageError` for numbers that are not states or actions, and if the counts do not fit into memory.
    """
    given = [np.asarray(x).reshape(-1) for x in (state, action, next_state)]
    for name, x, most in zip(("state", "action", "next_state"), given, (states, actions, states)):
        if not np.issubdtype(x.dtype, np.integer) or (x < 0).any() or (x >= most).any():
            raise UsageError(f"{name} must hold whole numbers from 0 to {most - 1}, of shape {list(given[0].shape)}.")
    check_memory(8 * states * actions * states, f"counts of {states:,} states and {actions:,} actions")
    where = (given[0] * actions + given[1]) * states + given[2]
    return np.bincount(where, minlength=states * actions * states).reshape(states, actions, states)


def _table(pair: np.ndarray, column: np.ndarray, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    table = np.zeros((shape[0] * shape[1], shape[2]), values.dtype)
    table[pair, column] = values
    return table.reshape(shape)


def kernel_of(successors: Successors) -> Kernel:
    """The same kernel `[S, A, S']` if that is small, otherwise the successors themselves."""
    states, actions, _ = successors.probability.shape
    return successors if states * actions * states > DENSE else successors.dense(states)

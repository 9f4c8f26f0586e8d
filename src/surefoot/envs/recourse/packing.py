"""Second stages as knapsacks whose items have states: the best one by dynamic programming, and all of few items."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from surefoot.ambiguity.budgeted import Array
from surefoot.envs.recourse.problem import Packing
from surefoot.errors import UsageError

MOST_ITEMS = 12  # of which all 3^n plans are listed


class Plan(NamedTuple):
    """The value of a second stage, of which less is better, and the state `[n]` of every item: 0 if it is left out."""

    value: float
    states: np.ndarray


def packed(packing: Packing, n: int) -> Plan:
    """The best plan of a second stage among n items.

    Dynamic programming over the items: of all partial plans only those stay that no other one beats in both weight and
    gain, and that could still beat a plan known already (by the bound in which what is left can be cut in pieces).
    """
    states = np.zeros(n, dtype=int)
    if packing.capacity < 0:
        return Plan(np.inf, states)
    states[packing.items], gain = _best_states(packing.gains, packing.weights, packing.capacity)
    return Plan(packing.settled - gain, states)


@lru_cache(maxsize=4)
def subsets(n: int) -> Array:
    """All choices `[2^n, n]`; row k has the binary digits of k, the last item's first."""
    check_few(n)
    return ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(float)


@lru_cache(maxsize=4)
def plans(n: int, above: int) -> tuple[Array, Array, np.ndarray]:
    """All plans of states 0, 1 and 2: which items have more than 0 and more than 1 `[3^n, n]`, ordered by which have
    more than `above`, and where each such group begins."""
    check_few(n)
    states = (np.arange(3**n)[:, None] // 3 ** np.arange(n)) % 3
    states = states[np.argsort((states > above) @ (1 << np.arange(n)), kind="stable")]
    starts = np.searchsorted((states > above) @ (1 << np.arange(n)), np.arange(2**n))
    return (states > 0).astype(float), (states > 1).astype(float), starts


def check_few(n: int) -> None:
    """Raise `UsageError` for more items than can be listed."""
    if n > MOST_ITEMS:
        raise UsageError(f"{n} items have too many plans to list them; {MOST_ITEMS} are the most.")


# --- how ---------------------------------------------------------------------------------------------------------


def _best_states(gains: Array, weights: Array, capacity: float) -> tuple[np.ndarray, float]:
    """The state of every item, 0 for being left out, of greatest total gain within the capacity; gains and weights
    `[states, m]`."""
    m = gains.shape[1]
    order = np.argsort(-gains.max(0) / weights[0].clip(min=1e-300), kind="stable")
    gains, weights = gains[:, order], weights[:, order]
    pieces = np.diff(gains, axis=0, prepend=0.0), np.diff(weights, axis=0, prepend=0.0)
    known = _greedy(gains, weights, capacity)
    used, gained, trace = np.zeros(1), np.zeros(1), []
    for item in range(m):
        used, gained, parent, state = _with_item(used, gained, gains[:, item], weights[:, item], capacity)
        gain, weight = (piece[:, item + 1 :].ravel() for piece in pieces)
        kept = gained + _fractional(gain, weight, capacity - used) >= known - 1e-9 * max(1.0, abs(known))
        used, gained = used[kept], gained[kept]
        trace.append((parent[kept], state[kept]))
    states, place = np.zeros(m, dtype=int), int(gained.argmax())
    profit = float(gained[place])
    for item in reversed(range(m)):
        parent, state = trace[item]
        states[order[item]], place = state[place], parent[place]
    return states, profit


def _with_item(
    used: Array, gained: Array, gain: Array, weight: Array, capacity: float
) -> tuple[Array, Array, np.ndarray, np.ndarray]:
    """Partial plans with one more item, without those that another one beats: weights, gains, parents, states."""
    states = 1 + len(gain)
    weights = np.concatenate([used, *(used + one for one in weight)])
    gains = np.concatenate([gained, *(gained + one for one in gain)])
    parent, state = np.tile(np.arange(len(used)), states), np.repeat(np.arange(states), len(used))
    place = np.lexsort((-gains, weights))
    place = place[weights[place] <= capacity]
    ahead = np.maximum.accumulate(gains[place])
    place = place[np.append(True, ahead[1:] > ahead[:-1])]
    return weights[place], gains[place], parent[place], state[place]


def _fractional(gain: Array, weight: Array, room: Array) -> Array:
    """The greatest gain `[k]` in each room `[k]` if pieces can be cut: no plan has more."""
    good = gain > 0
    gain, weight = gain[good], weight[good]
    order = np.argsort(-gain / weight.clip(min=1e-300))
    filled = np.append(0.0, weight[order].cumsum())
    return np.interp(room, filled, np.append(0.0, gain[order].cumsum()))


def _greedy(gains: Array, weights: Array, capacity: float) -> float:
    """The gain of a plan: items in their first state while they fit, then the last state while it fits."""
    states, room = np.zeros(gains.shape[1], dtype=int), capacity
    for item in range(gains.shape[1]):
        if weights[0, item] <= room and gains[0, item] > 0:
            states[item], room = 1, room - weights[0, item]
    more, heavier = gains[-1] - gains[0], weights[-1] - weights[0]
    for item in sorted(np.flatnonzero(states), key=lambda i: -more[i] / max(heavier[i], 1e-300)):
        if heavier[item] <= room and more[item] > 0:
            states[item], room = len(gains), room - heavier[item]
    taken = np.flatnonzero(states)
    used = weights[states[taken] - 1, taken].cumsum()  # as the programme adds them up, which may round otherwise
    return float(gains[states[taken] - 1, taken].sum()) if len(taken) and used[-1] <= capacity else 0.0

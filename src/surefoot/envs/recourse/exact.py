"""Two-stage robust knapsacks, exactly: the second stage, the worst case of a choice, and the best choice of few items.

For given losses the second stage is a knapsack of three states an item: left out, produced, produced and repaired. The
value of a choice is concave in the losses, so that its worst case is found by cutting planes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from surefoot.ambiguity.budgeted import Array, Concave, worst_concave
from surefoot.envs.recourse.knapsack import Knapsack
from surefoot.errors import UsageError

MOST_ITEMS = 12  # of which all 3^n plans are listed


class Plan(NamedTuple):
    """What is produced (y) and repaired (r), `[n]` of 0 and 1, and its value, of which less is better."""

    value: float
    produced: Array
    repaired: Array


# --- one choice --------------------------------------------------------------------------------------------------


def second_stage(problem: Knapsack, x: Array, xi: Array) -> Plan:
    """The best plan for a choice x `[n]` once the losses ξ `[n]` are known.

    Dynamic programming over the items: of all partial plans only those stay that no other one beats in both weight and
    profit, and that could still beat a plan known already (by the bound in which what is left can be cut in pieces).
    """
    chosen = np.flatnonzero(x > 0.5)
    loss = (problem.loss * xi)[chosen]
    gains = np.stack([problem.handback[chosen] - loss, problem.handback[chosen]])
    weights = np.stack([problem.weight[chosen], problem.weight[chosen] + problem.repair[chosen]])
    states, profit = _best_states(gains, weights, problem.capacity)
    plan = np.zeros((2, len(problem)))
    plan[0, chosen], plan[1, chosen] = states > 0, states > 1
    return Plan(-profit, plan[0], plan[1])


def worst_case(problem: Knapsack, x: Array, tolerance: float = 1e-6) -> Concave:
    """The greatest cost of a choice x `[n]` over all losses of the set, first stage included, and its losses."""
    first = float(problem.first_stage(x))

    def above(xi: Array) -> tuple[float, Array]:
        plan = second_stage(problem, x, xi)
        return first + plan.value, problem.loss * (plan.produced - plan.repaired)

    return worst_concave(above, len(problem), problem.budget, tolerance=tolerance)


# --- all choices of few items ------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def subsets(n: int) -> Array:
    """All choices `[2^n, n]`; row k has the binary digits of k, the last item's first."""
    _check(n)
    return ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(float)


@lru_cache(maxsize=4)
def _plans(n: int) -> tuple[Array, Array, np.ndarray]:
    """Produced and repaired `[3^n, n]` of all plans, ordered by what is produced, and where each such group begins."""
    states = (np.arange(3**n)[:, None] // 3 ** np.arange(n)) % 3
    states = states[np.argsort((states > 0) @ (1 << np.arange(n)), kind="stable")]
    produced, repaired = (states > 0).astype(float), (states > 1).astype(float)
    starts = np.searchsorted((produced @ (1 << np.arange(n))), np.arange(2**n))
    return produced, repaired, starts


def table(problem: Knapsack, xi: Array) -> Array:
    """The second stage's value of all choices `[m, 2^n]` at some losses `[m, n]`, by listing all plans; n ≤ 12."""
    n = len(problem)
    _check(n)
    produced, repaired, starts = _plans(n)
    fits = produced @ problem.weight + repaired @ problem.repair <= problem.capacity
    base = np.where(fits, -(produced @ problem.handback), np.inf)
    values = np.empty((len(xi), 2**n))
    for row, losses in zip(values, xi, strict=True):
        row[:] = np.minimum.reduceat(base + (produced - repaired) @ (problem.loss * losses), starts)
    for item in range(n):  # what a choice allows, a greater one does too
        split = values.reshape(len(xi), -1, 2, 2**item)
        split[:, :, 1] = np.minimum(split[:, :, 1], split[:, :, 0])
    return values


class Optimum(NamedTuple):
    """The best choice `[n]`, its worst-case cost, and how many losses were needed to prove it."""

    choice: Array
    value: float
    scenarios: int


def optimum(problem: Knapsack, tolerance: float = 1e-6) -> Optimum:
    """The choice whose worst case is least, by constraint generation over all choices; n ≤ 12.

    The choice that is best against the losses so far gives a lower bound, its own worst case an upper one and the next
    losses.
    """
    choices = subsets(len(problem))
    lower = problem.first_stage(choices) + table(problem, np.zeros((1, len(problem))))[0]
    best, chosen, count = np.inf, choices[0], 1
    while True:
        x = choices[lower.argmin()]
        found = worst_case(problem, x, tolerance)
        if found.value < best:
            best, chosen = found.value, x
        if best - lower.min() <= tolerance * max(1.0, abs(best)):
            return Optimum(chosen, best, count)
        lower = np.maximum(lower, problem.first_stage(choices) + table(problem, found.point[None])[0])
        count += 1


def _check(n: int) -> None:
    if n > MOST_ITEMS:
        raise UsageError(f"{n} items have too many plans to list them; {MOST_ITEMS} are the most.")


# --- how ---------------------------------------------------------------------------------------------------------


def _best_states(gains: Array, weights: Array, capacity: float) -> tuple[np.ndarray, float]:
    """The state 0, 1 or 2 of every item, of greatest total gain within the capacity; gains and weights `[2, m]`."""
    m = gains.shape[1]
    order = np.argsort(-gains.max(0) / weights[0].clip(min=1e-300), kind="stable")
    gains, weights = gains[:, order], weights[:, order]
    pieces = np.stack([gains[0], gains[1] - gains[0]]), np.stack([weights[0], weights[1] - weights[0]])
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
    weights = np.concatenate([used, used + weight[0], used + weight[1]])
    gains = np.concatenate([gained, gained + gain[0], gained + gain[1]])
    parent, state = np.tile(np.arange(len(used)), 3), np.repeat(np.arange(3), len(used))
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
    """The gain of a plan: items in their order while they fit, then repairs while they fit."""
    total, room = 0.0, capacity
    produced = []
    for item in range(gains.shape[1]):
        if weights[0, item] <= room and gains[0, item] > 0:
            total, room = total + gains[0, item], room - weights[0, item]
            produced.append(item)
    more = gains[1] - gains[0]
    for item in sorted(produced, key=lambda i: -more[i] / max(weights[1, i] - weights[0, i], 1e-300)):
        if weights[1, item] - weights[0, item] <= room and more[item] > 0:
            total, room = total + more[item], room - (weights[1, item] - weights[0, item])
    return total

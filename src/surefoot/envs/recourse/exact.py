"""Two-stage robust problems, exactly: the second stage, the worst case of a choice, and the best one of few items."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from surefoot.ambiguity.budgeted import Array, Worst
from surefoot.envs.recourse.packing import Plan, packed, subsets
from surefoot.envs.recourse.problem import Problem


def second_stage(problem: Problem, x: Array, xi: Array) -> Plan:
    """The best plan for a choice x `[n]` once ξ `[k]` is known; its value is infinite if there is none."""
    return packed(problem.packing(x, xi), len(problem))


def worst_case(problem: Problem, x: Array, tolerance: float = 1e-6) -> Worst:
    """The greatest cost of a choice x `[n]` over all ξ of the set, first stage included, and where it is."""
    return problem.worst_case(x, tolerance)


def table(problem: Problem, xi: Array) -> Array:
    """The second stage's value of all choices `[m, 2^n]` at some ξ `[m, k]`, by listing all plans; n ≤ 12."""
    return problem.table(xi)


class Optimum(NamedTuple):
    """The best choice `[n]`, its worst-case cost, and how many ξ were needed to prove it."""

    choice: Array
    value: float
    scenarios: int


def optimum(problem: Problem, tolerance: float = 1e-6) -> Optimum:
    """The choice whose worst case is least, by constraint generation over all choices; n ≤ 12.

    The choice that is best against the ξ so far gives a lower bound, its own worst case an upper one and the next ξ.
    """
    choices = subsets(len(problem))
    first = problem.first_stage(choices)
    lower = first + table(problem, problem.nominal()[None])[0]
    best, chosen, count = np.inf, choices[0], 1
    while True:
        x = choices[lower.argmin()]
        found = worst_case(problem, x, tolerance)
        if found.value < best:
            best, chosen = found.value, x
        if best - lower.min() <= tolerance * max(1.0, abs(best)):
            return Optimum(chosen, best, count)
        lower = np.maximum(lower, first + table(problem, found.point[None])[0])
        count += 1

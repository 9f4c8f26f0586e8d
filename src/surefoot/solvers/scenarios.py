"""Static uncertainty: the world is one of a few, fixed for all states and times, and unknown to the policy.

Nothing is rectangular here, so no backup solves it and the best policy may need memory. The incremental search for the
worst case (IWOCS; Zouitine et al. 2024) finds a good stationary one: it acts best against the worlds found so far,
taking in each state the action whose minimum optimal value over them is largest, and then finds the worst world for
that policy. The return of the policy in its worst world is a lower bound; the minimum of the worlds' own optimal
returns is an upper bound, also for policies with memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.policies import greedy
from surefoot.errors import UsageError
from surefoot.solvers.solution import Solution
from surefoot.solvers.solve import evaluate_policy, solve


@dataclass(frozen=True, eq=False)
class ScenarioSolution:
    """A policy `[S, A]` for several worlds, and its values `[S]` in its worst world from `mdp.initial`.

    worst: the index of that world. considered: the worlds used to find the policy, in the order found.
    gap: the maximum amount by which the best policy could be better from `mdp.initial`.
    """

    value: Tensor
    policy: Tensor
    worst: int
    considered: tuple[int, ...]
    gap: float


def solve_scenarios(worlds: Sequence[TabularMDP], *, tolerance: float = 1e-6) -> ScenarioSolution:
    """A stationary policy for the worst of several discounted worlds with the same states and actions.

    The first is the nominal one. tolerance: the gap to which each world is solved, in the unit of the values.
    Raises `UsageError` if the worlds do not match or are not discounted.
    """
    _check(worlds)
    first, considered, best, highest = worlds[0], [0], None, torch.inf
    q = torch.full_like(first.expected_reward(), torch.inf)
    while True:
        own = solve(worlds[considered[-1]], tolerance=tolerance)
        highest = min(highest, float(first.initial @ own.value) + 0.5 * own.gap)
        q = torch.minimum(q, q_values(worlds[considered[-1]], own))
        policy = greedy(first, q)
        values = [evaluate_policy(one, policy, tolerance=tolerance).value for one in worlds]
        returns = torch.stack([first.initial @ value for value in values])
        worst = int(returns.argmin())
        if best is None or float(returns[worst]) > best[0]:
            best = float(returns[worst]), values[worst], policy, worst
        if worst in considered:
            lowest, value, policy, worst = best
            return ScenarioSolution(value, policy, worst, tuple(considered), max(highest - lowest, 0.0) + tolerance)
        considered.append(worst)


def q_values(world: TabularMDP, solution: Solution) -> Tensor:
    """The values `[S, A]` of all pairs in a discounted world, given those of its states."""
    return world.expected_reward() + world.gamma * world.expectation(solution.value)


def _check(worlds: Sequence[TabularMDP]) -> None:
    if not worlds:
        raise UsageError("worlds is empty; give at least one MDP, the nominal one first.")
    for i, world in enumerate(worlds):
        same = (world.states, world.actions, world.gamma) == (worlds[0].states, worlds[0].actions, worlds[0].gamma)
        if not same or world.horizon is not None or world.gamma >= 1:
            raise UsageError(
                f"worlds[{i}] has {world.states} states, {world.actions} actions, gamma={world.gamma:g} and "
                f"horizon={world.horizon}; all worlds must have those of the first, gamma below 1 and no horizon."
            )

"""States, actions and policies of finite MDPs in words."""

from __future__ import annotations

import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP
from surefoot.solvers import Solution


def first_step(mdp: TabularMDP, solution: Solution) -> tuple[Tensor, Tensor]:
    """Values `[S]` and policy `[S, A]` of the first step; values below the accuracy of the solution are 0."""
    value = solution.value.reshape(-1, mdp.states)[0]
    value = torch.where(value.abs() > solution.gap, value, 0.0)
    return value, solution.policy.reshape(-1, mdp.states, mdp.actions)[0]


def state_name(mdp: TabularMDP, state: int) -> str:
    """The name of a state, its row and column on a grid, or its number."""
    if mdp.states_named:
        return mdp.states_named[state]
    if mdp.grid is not None and 1 not in mdp.grid:
        return "{},{}".format(*divmod(state, mdp.grid[1]))
    return str(state)


def action_name(mdp: TabularMDP, action: int) -> str:
    """The name of an action, or its number."""
    return mdp.actions_named[action] if mdp.actions_named else str(action)


def mixture(mdp: TabularMDP, row: Tensor) -> str:
    """The actions of a state, the most likely first, with their probabilities if there are several."""
    taken = sorted(((p, a) for a, p in enumerate(row.tolist()) if p > 5e-4), key=lambda one: (-one[0], one[1]))
    if len(taken) == 1:
        return action_name(mdp, taken[0][1])
    return ", ".join(f"{action_name(mdp, a)} {p:.3f}" for p, a in taken)

"""Instances for risk-averse methods: a short dangerous path, and a longer safe one."""

from __future__ import annotations

import torch

from surefoot.envs.tabular.grids import MOVES, grid_kernel
from surefoot.envs.tabular.mdp import TabularMDP
from surefoot.envs.tabular.zoo import entry, share, whole


@entry
def cliff_walk(rows: int = 4, columns: int = 6, slip: float = 0.1, gamma: float = 0.98) -> TabularMDP:
    """From the lower left corner to the lower right one; the cells of the last row between them are a cliff.

    A step costs 0.1; with probability `slip` the move is one of the four at random. Being in the cliff costs 1, and
    from there every action leads back to the start. The goal is absorbing and costs nothing. States are the cells, row
    by row. Unlike the zoo's `cliff`, costs belong to states, so that a fall is a cost of its own.

    J* of the default under expected conditional risk (λ, α): 0.8925 (0, any), 1.1121 (0.5, 0.9), 1.2675 (1, 0.9),
    1.5657 (1, 0.95).
    """
    whole("rows", rows, 2)
    whole("columns", columns, 3)
    share("slip", slip)
    states, start = rows * columns, (rows - 1) * columns
    goal, cliff = states - 1, slice(start + 1, states - 1)
    transition = torch.from_numpy(grid_kernel(rows, columns, lambda cell, aim: aim, slip))
    reward = torch.full((states,), -0.1, dtype=torch.float64)
    corners = torch.eye(states, dtype=torch.float64)
    transition[cliff], reward[cliff] = corners[start], -1.0
    transition[goal], reward[goal] = corners[goal], 0.0
    return TabularMDP(
        transition,
        reward,
        gamma,
        corners[start],
        name="cliff-walk",
        grid=(rows, columns),
        actions_named=tuple(MOVES),
    )

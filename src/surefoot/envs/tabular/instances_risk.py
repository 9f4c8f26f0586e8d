"""Instances for risk-averse methods: a short way that is dangerous, and a longer one that is not."""

from __future__ import annotations

import torch

from surefoot.envs.tabular.mdp import TabularMDP

MOVES = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}


def cliff_walk(rows: int = 4, columns: int = 6, slip: float = 0.1, gamma: float = 0.98) -> TabularMDP:
    """From the lower left corner to the lower right one; the cells of the last row between them are a cliff.

    A step costs 0.1. With probability `slip` the move is one of the four at random. A fall costs 1 and goes on from the
    start. The goal is never left and costs nothing. States are the cells, row by row; J* of the default under
    expected conditional risk (λ, α): 0.8925 (0, any), 1.1121 (0.5, 0.9), 1.2675 (1, 0.9), 1.5657 (1, 0.95).
    """
    states, start = rows * columns, (rows - 1) * columns
    cell = torch.arange(states)
    row, column = cell // columns, cell % columns
    move = torch.tensor(list(MOVES.values()))
    target = (row[:, None] + move[:, 0]).clamp(0, rows - 1) * columns + (column[:, None] + move[:, 1]).clamp(
        0, columns - 1
    )
    reached = torch.nn.functional.one_hot(target, states).double()
    transition = (1 - slip) * reached + slip * reached.mean(1, keepdim=True)
    cliff, goal = (cell > start) & (cell < states - 1), states - 1
    transition[cliff] = torch.eye(states, dtype=torch.float64)[start]
    transition[goal] = torch.eye(states, dtype=torch.float64)[goal]
    reward = torch.full((states,), -0.1, dtype=torch.float64)
    reward[cliff], reward[goal] = -1.0, 0.0
    initial = torch.eye(states, dtype=torch.float64)[start]
    named = tuple(MOVES)
    return TabularMDP(transition, reward, gamma, initial, name="cliff walk", grid=(rows, columns), actions_named=named)

"""Grid worlds of the zoo: states are cells, row by row; a move into a wall has no effect."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from surefoot.envs.tabular.mdp import TabularMDP
from surefoot.envs.tabular.zoo import entry, point, share, whole

MOVES = {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}
Cell = tuple[int, int]


def grid_kernel(rows: int, columns: int, after: Callable[[Cell, Cell], Cell], slip: float = 0.0) -> np.ndarray:
    """The kernel `[S, 4, S]` of the moves up, right, down, left.

    `after(cell, aim)` is the cell where a move from `cell` to its neighbour `aim` (inside the grid) ends. With
    probability `slip` an action is replaced by one of the four at random.
    """
    kernel = np.zeros((rows * columns, 4, rows * columns))
    for row in range(rows):
        for column in range(columns):
            for action, (down, right) in enumerate(MOVES.values()):
                aim = min(max(row + down, 0), rows - 1), min(max(column + right, 0), columns - 1)
                to = after((row, column), aim)
                kernel[row * columns + column, action, to[0] * columns + to[1]] = 1
    return (1 - slip) * kernel + slip * kernel.mean(1, keepdims=True)


@entry
def cliff(rows: int = 4, columns: int = 12, slip: float = 0.0, gamma: float = 0.99) -> TabularMDP:
    """Along a cliff from corner to corner: −1 per step, −100 for a fall.

    Start and goal are the lower corners; a fall ends at the start. `slip` replaces moves at random. Source: Sutton and
    Barto, "Reinforcement Learning", Example 6.6; 13 steps at best.
    """
    whole("rows", rows, 2)
    whole("columns", columns, 3)
    share("slip", slip)
    start, goal = (rows - 1) * columns, rows * columns - 1
    deep = [(rows - 1, column) for column in range(1, columns - 1)]
    fall = grid_kernel(rows, columns, lambda cell, aim: aim, slip)[:, :, start + 1 : goal].sum(-1)

    def after(cell: Cell, aim: Cell) -> Cell:
        return (rows - 1, 0) if aim in deep or cell in deep else aim

    transition = grid_kernel(rows, columns, after, slip)
    fall[start + 1 : goal] = 0  # the cliff's cells are never entered: a fall leads to the start
    reward, to_start = np.full(transition.shape, -1.0), transition[:, :, start]
    reward[:, :, start] -= 99 * np.divide(fall, to_start, out=np.zeros_like(fall), where=to_start > 0)
    transition[goal], reward[goal] = point(rows * columns, goal), 0
    return TabularMDP(
        transition, reward, gamma, initial=point(rows * columns, start), name="cliff", grid=(rows, columns),
        actions_named=tuple(MOVES),
    )  # fmt: skip


@entry
def windy(slip: float = 0.0, gamma: float = 0.99) -> TabularMDP:
    """Across a 7 × 10 grid with an upward wind in its middle: −1 per step.

    Source: Sutton and Barto, "Reinforcement Learning", Example 6.5; 15 steps at best. `slip` replaces moves at random.
    """
    share("slip", slip)
    wind, start, goal = (0, 0, 0, 1, 1, 1, 2, 2, 1, 0), 30, 37

    def after(cell: Cell, aim: Cell) -> Cell:
        return max(aim[0] - wind[cell[1]], 0), aim[1]

    transition, reward = grid_kernel(7, 10, after, slip), np.full((70, 4), -1.0)
    transition[goal], reward[goal] = point(70, goal), 0
    return TabularMDP(
        transition, reward, gamma, initial=point(70, start), name="windy", grid=(7, 10), actions_named=tuple(MOVES)
    )

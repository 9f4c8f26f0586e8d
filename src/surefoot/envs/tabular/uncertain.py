"""MDPs whose kernel is one of several worlds, fixed for all states and times, and an instance."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from surefoot.ambiguity.arrays import tensor
from surefoot.envs.tabular.grids import MOVES, Cell, grid_kernel
from surefoot.envs.tabular.mdp import TabularMDP
from surefoot.envs.tabular.zoo import entry, point, share, whole
from surefoot.errors import UsageError


@dataclass(frozen=True, eq=False, repr=False)
class UncertainMDP(TabularMDP):
    """An MDP whose kernel is one of W, the same for all time and unknown to the policy; rewards are known.

    kernels: `[W, S, A, S']`; the first is the nominal one, `transition` (see `uncertain`). A method that ignores the
    others sees the nominal MDP.

    Raises `UsageError` for kernels of another shape, that are not distributions, or of which the first is not nominal.
    """

    kernels: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        kernels = tensor(self.kernels, "kernels", torch.float64)
        wanted = (self.states, self.actions, self.states)
        if self.sparse or self.stepped or not len(kernels) or tuple(kernels.shape[1:]) != wanted:
            raise UsageError(
                f"kernels has shape {list(kernels.shape)}; it must be [W, S, A, S'] = [W, {self.states}, {self.actions}"
                f", {self.states}], dense and the same at every step."
            )
        if not torch.allclose(kernels[0], self.rows):
            raise UsageError("kernels[0] is not the nominal kernel; give the nominal one first.")
        object.__setattr__(self, "kernels", kernels)
        _ = self.worlds  # checks all of them now

    @cached_property
    def worlds(self) -> list[TabularMDP]:
        """Every world as an MDP, the nominal one first."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(TabularMDP)}
        return [TabularMDP(**{**fields, "transition": kernel}) for kernel in self.kernels]


def uncertain(mdp: TabularMDP, kernels: Any) -> UncertainMDP:
    """An MDP with its worlds: `kernels [W, S, A, S']`, of which the first is the kernel of `mdp`."""
    fields = {field.name: getattr(mdp, field.name) for field in dataclasses.fields(TabularMDP)}
    return UncertainMDP(**fields, kernels=kernels)


# --- instances -------------------------------------------------------------------------------------------------------

WALLS = tuple((row, column) for row in (1, 3) for column in (2, 3, 4))
WINDS = {0: 1, 2: 3, 4: 6, 5: 6}  # row: power of the wind's strength


@entry
def windy_walk(worlds: int = 25, strongest: float = 0.5, weakest: float = 0.0, gamma: float = 0.95) -> UncertainMDP:
    """Three corridors from west to east, the shortest with the strongest wind: −1 per step until the goal.

    In columns 2 to 4 of a 6 × 6 grid every move but left is replaced by one to the left with probability α in the
    corridor of the start (row 0), α³ in the middle (row 2) and α⁶ in the south (rows 4 and 5). The worlds are evenly
    spaced α from `weakest`, the nominal one, to `strongest`. Source: Zouitine et al., arXiv:2410.06212, windy walk; its
    map is published as a picture only, so lengths and walls are this library's.
    """
    whole("worlds", worlds, 1)
    share("strongest", strongest)
    share("weakest", weakest)
    start, goal, left = 0, 5, list(MOVES).index("left")

    def after(cell: Cell, aim: Cell) -> Cell:
        return cell if aim in WALLS or cell in WALLS else aim

    still = grid_kernel(6, 6, after)
    chance = np.zeros((worlds, 6, 6, 1, 1))
    for row, power in WINDS.items():
        chance[:, row, 2:5, 0, 0] = np.linspace(weakest, strongest, worlds)[:, None] ** power
    chance = chance.reshape(worlds, 36, 1, 1)
    kernels = (1 - chance) * still + chance * still[:, left : left + 1]
    over = [goal, *(6 * row + column for row, column in WALLS)]  # nobody is ever in a wall
    kernels[:, over] = np.eye(36)[over][:, None]
    reward = np.full((36, 4), -1.0)
    reward[over] = 0.0
    mdp = TabularMDP(
        kernels[0], reward, gamma, point(36, start), name="windy-walk", grid=(6, 6), actions_named=tuple(MOVES)
    )
    return uncertain(mdp, kernels)

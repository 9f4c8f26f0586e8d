"""Backups in which ended episodes stay ended: no adversary moves mass out of an ended state.

An ambiguity set says what the next state may be. Where an episode is over (`TabularMDP.ended`) there is no next state,
so those rows stay nominal: they lead to themselves, earn nothing and cost the adversary nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surefoot.envs.tabular import Kernel, Successors
from surefoot.solvers.pairs import EVERY, Chain, Choice, Followed

if TYPE_CHECKING:
    from surefoot.solvers.backups import Backup


@dataclass(frozen=True, eq=False)
class Certain:
    """Other backups, except for the ended states `[S]`, whose value is γ times their own next value."""

    backup: Backup
    ended: Tensor
    gamma: float

    def improve(self, values: Tensor, states: slice = EVERY) -> tuple[Tensor, Choice]:
        """The best values `[S]` one step before `values`, and the policy `[S, A]` that attains them."""
        after, choose = self.backup.improve(values, states)
        return torch.where(self.ended[states], self.gamma * values[states], after), choose

    def follow(self, policy: Tensor) -> Followed:
        """The backups of a policy `[S, A]`."""
        followed = self.backup.follow(policy)

        def chain(values: Tensor) -> Chain:
            step = followed.chain(values)
            return lambda x: torch.where(self.ended, x, step(x))

        return Followed(
            lambda values: torch.where(self.ended, self.gamma * values, followed.backup(values)),
            chain,
        )

    def marginal(self, values: Tensor, policy: Tensor) -> Tensor:
        """The derivative of the backup of a policy with respect to its probabilities; in ended states all are equal."""
        slope = self.backup.marginal(values, policy)
        return torch.where(self.ended.unsqueeze(-1), self.gamma * values.unsqueeze(-1), slope)

    def kernel(self, values: Tensor, policy: Tensor) -> Kernel:
        """The worst kernel for a policy, given the next values."""
        kernel, ended = self.backup.kernel(values, policy), self.ended.nonzero().flatten()
        if isinstance(kernel, Successors):
            state, probability = kernel.state.clone(), kernel.probability.clone()
            state[ended] = ended.view(-1, 1, 1).to(state.dtype)
            probability[ended] = 0
            probability[ended, :, 0] = 1
            return Successors(state, probability)
        kernel = kernel.clone()
        kernel[ended] = 0
        kernel[ended, :, ended] = 1
        return kernel

"""Backups in which nature helps: the best world of an ambiguity set instead of the worst.

    max over π and q of Σ_a π_a·q_a·z_a   =   − min over π of min over q of Σ_a π_a·q_a·(−z_a)

So the best world of a policy is the worst one with rewards as losses. Policy and world have the same aim, so the best
policy of a state takes one action, even if its actions share a budget: all of it is spent on that action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from surefoot.envs.tabular import Kernel
from surefoot.solvers.factors import Factors
from surefoot.solvers.pairs import EVERY, Choice, Followed, Pairs, best_of

if TYPE_CHECKING:
    from surefoot.solvers.backups import Backup


@dataclass(frozen=True, eq=False)
class Optimistic:
    """Backups against the best world.

    losses: the backups of the same rows with negated rewards. pairs: those of each pair separately, with the budget of
    its state. legal: `[S, A]` or None for all.
    """

    losses: Backup
    pairs: Pairs | Factors
    legal: Tensor | None

    def improve(self, values: Tensor, states: slice = EVERY) -> tuple[Tensor, Choice]:
        """The best values `[S]` one step before `values`, and the policy `[S, A]` that attains them."""
        return best_of(-self.pairs.q(-values, states), None if self.legal is None else self.legal[states])

    def follow(self, policy: Tensor) -> Followed:
        """The backups of a policy `[S, A]`."""
        followed = self.losses.follow(policy)
        return Followed(lambda values: -followed.backup(-values), lambda values: followed.chain(-values))

    def marginal(self, values: Tensor, policy: Tensor) -> Tensor:
        """The derivative of the backup of a policy with respect to its probabilities."""
        return -self.losses.marginal(-values, policy)

    def kernel(self, values: Tensor, policy: Tensor) -> Kernel:
        """The best kernel for a policy, given the next values."""
        return self.losses.kernel(-values, policy)

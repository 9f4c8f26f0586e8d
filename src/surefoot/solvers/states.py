"""The s-rectangular backup: the adversary shares one budget among the actions of a state, before the action is drawn.

    V(s) = max over π in Δ(A) of min { Σ_a π_a·q_a·z_a  :  Σ_a D(q_a ‖ P(·|s,a)) ≤ κ },      z_a = r(s,a) + γV
    V(s) = max over π in Δ(A) of min { Σ_a π_a·q_a·z_a + γλ·Σ_a D(q_a ‖ P(·|s,a)) }          for a penalty λ

There is one radius κ (or penalty) per state; the penalty does not depend on the sampled action. Max and min may be
exchanged, so V(s) is the least u to which the adversary can lower all actions at once:

    V(s) = min { u : Σ_a ξ_a(u) ≤ κ },      V(s) = min_u u + γλ·Σ_a ξ_a(u),

with ξ_a(u) the cost for an action (see `costs`): one root of a convex function. The best policy samples actions in
proportion to the slopes of ξ_a there: it makes the adversary indifferent among all actions it would change.
The idea is due to Ho, Petrik and Wiesemann (2018, 2021) for L1 and to Wiesemann, Kuhn and Rustem (2013) in general.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surefoot.ambiguity.core import Divergence
from surefoot.ambiguity.operator import solve as worst_case
from surefoot.ambiguity.search import increasing_root
from surefoot.envs.tabular import Kernel
from surefoot.solvers.budgets import family
from surefoot.solvers.costs import CLOSE, TINY, Cost, Family
from surefoot.solvers.outcomes import Rows, check_fits, gathered, reach
from surefoot.solvers.pairs import EVERY, Choice, Followed, made, of_policy


@dataclass(frozen=True, eq=False)
class States:
    """Backups of nominal rows under a set for each state.

    strength: the budget or the price per unit, a number or `[S]`; legal: `[S, A]` or None for all.
    """

    rows: Rows
    legal: Tensor | None
    ambiguity: Divergence
    strength: Any
    gamma: float

    def improve(self, values: Tensor, states: slice = EVERY) -> tuple[Tensor, Choice]:
        """The best values `[S]` one step before `values`, and the policy `[S, A]` that attains them."""
        parts = [self._improve(values, cut) for cut in self._blocks(states)]
        value, policy = (torch.cat(part) for part in zip(*parts))
        if not self.ambiguity.same_for_all_rows:
            value, policy = value[states], policy[states]
        return value, lambda: policy

    def follow(self, policy: Tensor) -> Followed:
        """The backups of a policy `[S, A]`."""

        def backup(values: Tensor) -> Tensor:
            return torch.cat([self._against(policy, values, cut)[1] for cut in self._blocks(EVERY)])

        return Followed(backup, lambda values: of_policy(self.kernel(values, policy), policy))

    def marginal(self, values: Tensor, policy: Tensor) -> Tensor:
        """The derivative of the backup of a policy with respect to its probabilities: the pairs' worst-case values."""
        parts = []
        for cut in self._blocks(EVERY):
            rows, worth, _ = self._opened(values, cut)
            parts.append((self._against(policy, values, cut)[0][1] * worth).sum(-1))
        return torch.cat(parts)

    def kernel(self, values: Tensor, policy: Tensor) -> Kernel:
        """The worst kernel for a policy, given the next values."""
        if self.rows.state is not None and reach(self.ambiguity) == "all":
            check_fits((*policy.shape, len(values)), f"the worst kernel under {self.ambiguity}")
        return made([self._against(policy, values, cut)[0] for cut in self._blocks(EVERY)])

    # --- implementation ----------------------------------------------------------------------------------------------

    def _blocks(self, states: slice) -> Iterable[slice]:
        """Slices of states to solve together: all at once if the set has an array over them."""
        return self.rows.blocks(states) if self.ambiguity.same_for_all_rows else [EVERY]

    def _opened(self, values: Tensor, states: slice) -> tuple[Rows, Tensor, Tensor]:
        """The rows of some states, the full values of their outcomes, and their strength `[B, 1]`."""
        rows = self.rows[states].widened(values, reach(self.ambiguity))
        worth = self.gamma * (values if rows.state is None else gathered(values, rows.state))
        worth = worth + (rows.reward if rows.by_outcome else rows.reward.unsqueeze(-1))
        strength = torch.as_tensor(self.strength, dtype=values.dtype, device=values.device)
        strength = (strength[states] if strength.ndim else strength).expand(len(worth)).unsqueeze(-1)
        return rows, worth, strength if self.ambiguity.penalty is None else self.gamma * strength

    def _improve(self, values: Tensor, states: slice) -> tuple[Tensor, Tensor]:
        rows, worth, strength = self._opened(values, states)
        legal = torch.ones_like(worth[..., 0], dtype=torch.bool) if self.legal is None else self.legal[states]
        best = under_budget if self.ambiguity.penalty is None else under_price
        return best(family(self.ambiguity, worth, rows.probability), legal, strength)

    def _against(self, policy: Tensor, values: Tensor, states: slice) -> tuple[tuple[Tensor | None, Tensor], Tensor]:
        """The worst successors and probabilities for a policy, and its values there, including penalties."""
        rows, worth, strength = self._opened(values, states)
        policy = policy[states]
        if self.ambiguity.penalty is None:
            share = family(self.ambiguity, worth, rows.probability).bought(policy, strength)
        else:
            share = torch.where(policy > 0, strength / policy, torch.inf)
        worst = worst_case(worth, rows.probability, self.ambiguity, share)
        value = torch.where(policy > 0, policy * worst.value, 0.0).sum(-1)
        return (rows.state, worst.distribution().expand_as(rows.probability)), value


def under_budget(rows: Family, legal: Tensor, budget: Tensor) -> tuple[Tensor, Tensor]:
    """The value `[B]` to which a budget `[B, 1]` lowers all legal actions, and the policy `[B, A]` that attains it."""
    floor, top, lowest, highest = _ends(rows, legal)

    def excess(u: Tensor) -> tuple[Tensor, Tensor]:
        cost = _legal(rows.at_value(u), legal)
        return lacking(cost.spent, cost.price, budget)

    u = _between(excess, floor, top)
    price = _legal(rows.at_value(u), legal).price
    total = price.sum(-1, keepdim=True)
    policy = torch.where(total > 0, price / torch.where(total > 0, total, 1.0), highest)
    at_floor = (excess(floor)[0] >= 0) | (u <= floor)
    return torch.where(at_floor, floor, u).squeeze(-1), torch.where(at_floor, lowest, policy)


def under_price(rows: Family, legal: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """The same if each unit of divergence has a price `[B, 1]`, which is added to the value."""
    floor, top, lowest, highest = _ends(rows, legal)

    def excess(u: Tensor) -> tuple[Tensor, Tensor]:
        cost = _legal(rows.at_value(u), legal)
        return lacking(cost.price, cost.bend, 1 / unit)

    u = _between(excess, floor, top)
    # Where slopes jump, take the part that makes probabilities sum to one; the value is that of the side
    # on which it is least, because a steep slope makes it sensitive to the accuracy of the jump.
    around = (10 * CLOSE * (top - floor)).maximum(4e-16 * u.abs())
    sides = u + around, u, (u - around).maximum(floor)
    costs = [_legal(rows.at_value(side), legal) for side in sides]
    spent = [cost.spent.sum(-1, keepdim=True) for cost in costs]
    held = [side + torch.where(some > 0, unit * some, 0.0) for side, some in zip(sides, spent)]  # to touch none is free
    value = torch.stack([*held, top]).amin(0)
    above, _, below = (cost.price for cost in costs)
    jump = torch.where(u <= floor + around, lowest, (below - above).clamp(min=0))
    total = jump.sum(-1, keepdim=True)
    jump = torch.where(total > 0, jump / torch.where(total > 0, total, 1.0), highest)
    policy = torch.where(above > 0, unit * above, 0.0)
    policy = policy + (1 - policy.sum(-1, keepdim=True)).clamp(min=0) * jump
    return value.squeeze(-1), policy / policy.sum(-1, keepdim=True)


def lacking(parts: Tensor, falls: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """How far the sum of parts, which fall so fast as a value rises, lies below what is wanted, relatively.

    A sum too large may fall by many orders of magnitude and then hardly at all; its logarithm has no such kinks.
    """
    total, wanted = parts.sum(-1, keepdim=True), wanted.clamp(min=TINY)
    short = torch.where(total > wanted, torch.log(wanted / total), 1 - total / wanted)
    return short, falls.sum(-1, keepdim=True) / total.maximum(wanted)


def _between(excess: Callable[[Tensor], tuple[Tensor, Tensor]], floor: Tensor, top: Tensor) -> Tensor:
    """The root of an increasing function, accurate relative to the distance of the ends."""
    span = top - floor

    def scaled(share: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = excess(floor + span * share)
        return value, span * slope

    none = torch.zeros_like(span)
    return (floor + span * increasing_root(scaled, none, none + 1, none + 0.5, CLOSE)).minimum(top)


def _ends(rows: Family, legal: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The lowest value of a state, its nominal value, and the actions that attain them."""
    least, mean = (torch.where(legal, x, -torch.inf) for x in (rows.least, rows.mean))
    return least.amax(-1, keepdim=True), mean.amax(-1, keepdim=True), _one(least), _one(mean)


def _legal(cost: Cost, legal: Tensor) -> Cost:
    return Cost(*(torch.where(legal, x, 0.0) for x in cost))


def _one(score: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(score.argmax(-1), score.shape[-1]).to(score.dtype)

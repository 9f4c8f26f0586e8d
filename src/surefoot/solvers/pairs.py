"""The (s,a)-rectangular backup: the adversary chooses the next-state distribution of every pair independently.

    Q(s, a) = r(s, a) + γ·min { q·V : q in the set around P(·|s,a) }

With rewards that depend on the next state it is γ·min { q·(r/γ + V) }, which is the same for rewards that do not. The
price of a penalty is therefore paid on the transition, and discounted once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from surefoot.ambiguity import Ambiguity
from surefoot.ambiguity.contract import Solution as Worst
from surefoot.ambiguity.operator import solve as worst_case
from surefoot.envs.tabular import Kernel, Successors
from surefoot.solvers.outcomes import Rows, check_fits, gathered, linear, reach

Chain = Callable[[Tensor], Tensor]  # x -> P·x `[S]`: the expectation of x after one step of a policy
Choice = Callable[[], Tensor]  # makes the policy `[S, A]` of a sweep, which most sweeps do not need
EVERY = slice(None)


class Followed(NamedTuple):
    """A policy's backup, values `[S]` -> values one step before, and its chain in the worst world there."""

    backup: Callable[[Tensor], Tensor]
    chain: Callable[[Tensor], Chain]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Backups of nominal rows under a set for each pair; `ambiguity` None is the nominal itself.

    strength: the radius or penalty, a number or `[S, A]`; legal: `[S, A]` or None for all.
    """

    rows: Rows
    legal: Tensor | None
    ambiguity: Ambiguity | None
    strength: Any  # a number, a tensor or None
    gamma: float
    product: Chain | None = None  # product of all nominal rows with values, if available

    # --- interface of the solvers------------------------------------------------------------------------------------

    def improve(self, values: Tensor, states: slice = EVERY) -> tuple[Tensor, Choice]:
        """The best values `[S]` one step before `values`, and the policy `[S, A]` that attains them."""
        return best_of(self.q(values, states), None if self.legal is None else self.legal[states])

    def follow(self, policy: Tensor) -> Followed:
        """The backups of a policy `[S, A]`."""
        if self._cuttable and bool((policy.amax(-1) == 1).all()):  # the rows of other actions are not needed
            only = self.chosen(policy.argmax(-1))
            return Followed(
                lambda values: only.q(values).squeeze(-1),
                lambda values: linear(_flat(only.kernel(values, policy)), len(values)),
            )
        return Followed(
            lambda values: torch.where(policy > 0, policy * self.q(values), 0.0).sum(-1),
            lambda values: of_policy(self.kernel(values, policy), policy),
        )

    def marginal(self, values: Tensor, policy: Tensor) -> Tensor:
        """The derivative of the backup of a policy with respect to its probabilities: the values of the pairs."""
        return self.q(values)

    def kernel(self, values: Tensor, policy: Tensor) -> Kernel:
        """The worst distribution of every pair, the same for every policy."""
        if self.ambiguity is None:
            return made([(self.rows.state, self.rows.probability)])
        if self.rows.state is not None and reach(self.ambiguity) == "all":
            check_fits((*self.rows.probability.shape[:2], len(values)), f"the worst kernel under {self.ambiguity}")
        solved = (self._solved(values, states) for states in ([EVERY] if self._at_once else self.rows.blocks()))
        return made([(rows.state, worst.distribution().expand_as(rows.probability)) for rows, worst in solved])

    def q(self, values: Tensor, states: slice = EVERY) -> Tensor:
        """The values `[S, A]` of the pairs."""
        if self.ambiguity is None:
            return self._nominal(values, states)
        if not self._cuttable:
            return self._worst_q(values, EVERY)[states]
        if self._at_once:
            return self._worst_q(values, states)
        return torch.cat([self._worst_q(values, cut) for cut in self.rows.blocks(states)])

    def chosen(self, action: Tensor) -> Pairs:
        """The backups of the MDP in which a state allows one action `[S]` only."""
        which = torch.arange(len(action), device=action.device), action
        strength = self.strength
        if isinstance(strength, Tensor) and strength.ndim:
            strength = strength.expand(self.rows.probability.shape[:2])[which].unsqueeze(-1)
        rows = self.rows[which]
        state = None if rows.state is None else rows.state.unsqueeze(1)
        rows = Rows(rows.probability.unsqueeze(1), state, rows.reward.unsqueeze(1))
        return Pairs(rows, None, self.ambiguity, strength, self.gamma)

    # --- implementation ----------------------------------------------------------------------------------------------

    @property
    def _cuttable(self) -> bool:
        """Whether rows can be solved separately: the set has no array over all of them."""
        return self.ambiguity is None or self.ambiguity.same_for_all_rows

    @property
    def _at_once(self) -> bool:
        """Whether all rows go to the set in one call: they share their values, or it has an array over them."""
        return (self.rows.state is None and not self.rows.by_outcome) or not self._cuttable

    def _solved(self, values: Tensor, states: slice) -> tuple[Rows, Worst]:
        assert self.ambiguity is not None
        rows = self.rows[states].widened(values, reach(self.ambiguity))
        strength = self.strength
        if isinstance(strength, Tensor) and strength.ndim == 2 and len(strength) > 1:
            strength = strength[states]
        return rows, worst_case(rows.targets(values, self.gamma), rows.probability, self.ambiguity, strength)

    def _worst_q(self, values: Tensor, states: slice) -> Tensor:
        rows, worst = self._solved(values, states)
        return self.gamma * worst.value if rows.by_outcome else rows.reward + self.gamma * worst.value

    def _nominal(self, values: Tensor, states: slice) -> Tensor:
        reward = self._expected_reward[states]
        if states == EVERY:
            mean = self._step(values).view(reward.shape)
        else:
            rows = self.rows[states]
            if rows.state is None:
                mean = rows.probability @ values
            else:
                mean = (rows.probability * gathered(values, rows.state)).sum(-1)
        return mean.mul_(self.gamma).add_(reward)

    @cached_property
    def _expected_reward(self) -> Tensor:
        return self.rows.expected_reward()

    @cached_property
    def _step(self) -> Chain:
        return self.product or linear(self.rows.flat(), len(self.rows.probability))


def best_of(q: Tensor, legal: Tensor | None) -> tuple[Tensor, Choice]:
    """The best values `[S]` of pairs `[S, A]`, and the policy that takes them, the first of several."""
    q = q if legal is None else torch.where(legal, q, -torch.inf)
    return q.amax(-1), lambda: torch.nn.functional.one_hot(q.argmax(-1), q.shape[-1]).to(q.dtype)


def made(parts: list[tuple[Tensor | None, Tensor]]) -> Kernel:
    """A kernel from blocks of successors (None: all states) and their probabilities."""
    states, probabilities = zip(*parts)
    probability = torch.cat(probabilities) if len(parts) > 1 else probabilities[0]
    if states[0] is None:
        return probability
    return Successors(torch.cat(states) if len(parts) > 1 else states[0], probability)


def of_policy(kernel: Kernel, policy: Tensor) -> Chain:
    """The chain of a policy `[S, A]` in a kernel."""
    if isinstance(kernel, Tensor):
        return linear(torch.einsum("sa,sat->st", policy, kernel), len(policy))
    weighted = kernel.probability * policy.unsqueeze(-1)
    return linear(Successors(kernel.state.flatten(1), weighted.flatten(1)), len(policy))


def _flat(kernel: Kernel) -> Kernel:
    """A kernel with one axis of pairs."""
    if isinstance(kernel, Tensor):
        return kernel.flatten(0, 1)
    return Successors(kernel.state.flatten(0, 1), kernel.probability.flatten(0, 1))

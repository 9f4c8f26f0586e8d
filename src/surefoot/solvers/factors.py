"""The d-rectangular backup of a linear MDP: the adversary chooses each factor of its kernel independently.

    P(s'|s,a) = Σ_i φ_i(s,a)·μ_i(s'),      Q(s,a) = r(s,a) + γ·Σ_i φ_i(s,a)·min { q·V : q in the set around μ_i }

Features φ(s,a) are distributions over d factors and factors μ_i distributions over states. Ma et al. (2022); Blanchet
et al. (2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surefoot.ambiguity import Ambiguity
from surefoot.ambiguity.arrays import normalised, tensor
from surefoot.ambiguity.checks import check_nominal
from surefoot.ambiguity.contract import Solution as Worst
from surefoot.ambiguity.operator import solve as worst_case
from surefoot.envs.tabular import TabularMDP
from surefoot.errors import UsageError
from surefoot.solvers.outcomes import check_fits
from surefoot.solvers.pairs import EVERY, Chain, Choice, Followed, best_of

TOLERANCE = 1e-7  # maximum deviation of features times factors from the kernel


@dataclass(frozen=True, eq=False)
class Factors:
    """Backups under a set for each factor. features: `[S, A, d]`; factors: `[d, S']`; strength: a number or `[d]`."""

    reward: Tensor
    features: Tensor
    factors: Tensor
    legal: Tensor | None
    ambiguity: Ambiguity
    strength: Any
    gamma: float

    def improve(self, values: Tensor, states: slice = EVERY) -> tuple[Tensor, Choice]:
        """The best values `[S]` one step before `values`, and the policy `[S, A]` that attains them."""
        return best_of(self.q(values, states), None if self.legal is None else self.legal[states])

    def follow(self, policy: Tensor) -> Followed:
        """The backups of a policy `[S, A]`."""
        features = torch.einsum("sa,sad->sd", policy, self.features)

        def chain(values: Tensor) -> Chain:
            worst = self._worst(values).distribution()
            return lambda x: features @ (worst @ x)

        return Followed(lambda values: (policy * self.q(values)).sum(-1), chain)

    def marginal(self, values: Tensor, policy: Tensor) -> Tensor:
        """The derivative of the backup of a policy with respect to its probabilities: the values of the pairs."""
        return self.q(values)

    def kernel(self, values: Tensor, policy: Tensor) -> Tensor:
        """The worst kernel `[S, A, S']`, the same for every policy."""
        check_fits((*self.reward.shape, len(values)), "the worst kernel of a linear MDP")
        return self.features @ self._worst(values).distribution()

    def q(self, values: Tensor, states: slice = EVERY) -> Tensor:
        """The values `[S, A]` of the pairs."""
        return self.reward[states] + self.gamma * (self.features[states] @ self._worst(values).value)

    def _worst(self, values: Tensor) -> Worst:
        return worst_case(values, self.factors, self.ambiguity, self.strength)


def factors_of(mdp: TabularMDP, given: Any) -> Tensor:
    """The factors `[d, S']` of an MDP of one step, from the argument or from `mdp.factors`.

    Raises `UsageError` unless features and factors are distributions whose product is the kernel.
    """
    given = getattr(mdp, "factors", None) if given is None else given
    if mdp.features is None or given is None:
        raise UsageError(
            "rectangular='d' needs a linear MDP: features [S, A, d] of the MDP and factors=[d, S'], with the kernel "
            "transition = features @ factors."
        )
    if mdp.reward.ndim == mdp.rows.ndim:
        raise UsageError("rectangular='d' needs rewards of pairs: give reward=mdp.expected_reward().")
    factors = normalised(tensor(given, "factors", device=mdp.rows.device))
    if factors.shape != (mdp.features.shape[-1], mdp.states):
        raise UsageError(
            f"factors has shape {list(factors.shape)}; with features {list(mdp.features.shape)} it must be "
            f"[d, S'] = {[mdp.features.shape[-1], mdp.states]}, or [H, d, S'] for a kernel of each step."
        )
    check_nominal(factors, "factors")
    check_nominal(mdp.features[mdp.allowed], "features (legal pairs)")
    for values in torch.eye(mdp.states, dtype=torch.float64)[:: max(1, mdp.states // 8)]:
        off = torch.where(mdp.allowed, (mdp.expectation(values) - mdp.features @ (factors @ values)).abs(), 0.0)
        if float(off.max()) > TOLERANCE:
            state, action = (int(i) for i in (off == off.max()).nonzero()[0])
            raise UsageError(
                f"features @ factors is not the kernel: it is {float(off.max()):.3g} away in state {state}, action "
                f"{action}. Give the factors from which the MDP was made."
            )
    return factors

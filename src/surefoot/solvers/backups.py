"""The backups of an MDP by the rectangularity of its set, checked once."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from surefoot.ambiguity import Ambiguity, Divergence, MeanDeviation, MeanVariance
from surefoot.envs.tabular import Kernel, TabularMDP
from surefoot.errors import UsageError, nearest
from surefoot.solvers.factors import Factors, factors_of
from surefoot.solvers.outcomes import check_outcomes, prepared, strength_of
from surefoot.solvers.pairs import EVERY, Choice, Followed, Pairs
from surefoot.solvers.states import States

RECTANGULAR = ("sa", "s", "d")


class Backup(Protocol):
    """One step back in time against the worst world."""

    def improve(self, values: Tensor, states: slice = EVERY) -> tuple[Tensor, Choice]:
        """The best values `[S]` one step before `values`, and the policy `[S, A]` that has them."""
        ...

    def follow(self, policy: Tensor) -> Followed:
        """The backups of a policy `[S, A]`."""
        ...

    def marginal(self, values: Tensor, policy: Tensor) -> Tensor:
        """How fast the backup of a policy `[S, A]` grows with each of its probabilities, `[S, A]`."""
        ...

    def kernel(self, values: Tensor, policy: Tensor) -> Kernel:
        """The kernel that is worst for a policy when `values` come next."""
        ...


def make_backup(
    mdp: TabularMDP, ambiguity: Ambiguity | None, rectangular: str, gamma: float, factors: Any = None
) -> Backup:
    """The backups of an MDP of one kernel; a set of None is the nominal MDP.

    Raises `UsageError` where the set and the MDP do not fit.
    """
    if rectangular not in RECTANGULAR:
        raise UsageError(f"rectangular={rectangular!r} is not allowed. {nearest(str(rectangular), RECTANGULAR)}")
    rows, product = prepared(mdp)
    if ambiguity is None:
        return Pairs(rows, mdp.legal, None, None, gamma, product)
    if rectangular != "d":
        check_outcomes(ambiguity, rows)
    if rows.by_outcome and gamma == 0:
        raise UsageError("gamma=0 leaves no next state to be uncertain of; give reward=mdp.expected_reward().")
    if rectangular == "s":
        if not isinstance(ambiguity, Divergence):
            raise UsageError(
                f"rectangular='s' shares a budget of divergence among actions, which {ambiguity} does not have; give a "
                "set with a radius or penalty, such as KL(0.1), or use rectangular='sa'."
            )
        return States(rows, mdp.legal, ambiguity, strength_of(ambiguity, mdp, (mdp.states,)), gamma)
    if rectangular == "d":
        made = factors_of(mdp, factors)
        strength = strength_of(ambiguity, mdp, (len(made),))
        assert mdp.features is not None
        return Factors(mdp.reward, mdp.features, made, mdp.legal, ambiguity, strength, gamma)
    return Pairs(rows, mdp.legal, ambiguity, strength_of(ambiguity, mdp, (mdp.states, mdp.actions)), gamma)


def check_monotone(ambiguity: Ambiguity | None, criterion: str) -> None:
    """Raise `UsageError` for risks that can fall when a value rises: nothing then makes sweeps converge."""
    if ambiguity and any(isinstance(part, (MeanDeviation, MeanVariance)) for part in ambiguity.parts):
        raise UsageError(
            f"{ambiguity} is not monotone, so criterion={criterion!r} has no certain solution; use criterion='finite' "
            "with a horizon, or a monotone risk such as MeanCVaR or Entropic."
        )

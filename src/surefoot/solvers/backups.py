"""The backups of an MDP by the rectangularity of its set, after checks."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from torch import Tensor

from surefoot.ambiguity import Ambiguity, Divergence, MeanDeviation, MeanVariance
from surefoot.envs.tabular import Kernel, TabularMDP
from surefoot.errors import UsageError, nearest
from surefoot.solvers.certain import Certain
from surefoot.solvers.factors import Factors, factors_of
from surefoot.solvers.optimistic import Optimistic
from surefoot.solvers.outcomes import check_outcomes, prepared, strength_of, warn_of_dense_work
from surefoot.solvers.pairs import EVERY, Choice, Followed, Pairs
from surefoot.solvers.states import States

RECTANGULAR = ("sa", "s", "d")
NATURES = ("worst", "best")


class Backup(Protocol):
    """One step back in time against the worst world."""

    def improve(self, values: Tensor, states: slice = EVERY) -> tuple[Tensor, Choice]:
        """The best values `[S]` one step before `values`, and the policy `[S, A]` that attains them."""
        ...

    def follow(self, policy: Tensor) -> Followed:
        """The backups of a policy `[S, A]`."""
        ...

    def marginal(self, values: Tensor, policy: Tensor) -> Tensor:
        """The derivative of the backup of a policy `[S, A]` with respect to its probabilities, `[S, A]`."""
        ...

    def kernel(self, values: Tensor, policy: Tensor) -> Kernel:
        """The worst kernel for a policy, given the next values."""
        ...


def make_backup(
    mdp: TabularMDP,
    ambiguity: Ambiguity | None,
    rectangular: str,
    gamma: float,
    factors: Any = None,
    nature: str = "worst",
    ended: Tensor | None = None,
) -> Backup:
    """The backups of an MDP with one kernel; a set of None is the nominal MDP.

    ended: the states `[S]` whose rows stay nominal; None: `mdp.ended`.
    Raises `UsageError` if the set and the MDP do not fit.
    """
    for name, value, known in (("rectangular", rectangular, RECTANGULAR), ("nature", nature, NATURES)):
        if value not in known:
            raise UsageError(f"{name}={value!r} is not allowed. {nearest(str(value), known)}")
    if ambiguity is None:
        rows, product = prepared(mdp)
        return Pairs(rows, mdp.legal, None, None, gamma, product)
    if nature == "worst":
        made = _against(mdp, ambiguity, rectangular, gamma, factors)
    else:
        losses = dataclasses.replace(mdp, reward=-mdp.reward)
        by_state = _against(losses, ambiguity, rectangular, gamma, factors)
        made = Optimistic(by_state, _each(by_state) if isinstance(by_state, States) else by_state, mdp.legal)
    ended = mdp.ended if ended is None else ended
    return Certain(made, ended, gamma) if bool(ended.any()) else made


def _against(
    mdp: TabularMDP, ambiguity: Ambiguity, rectangular: str, gamma: float, factors: Any
) -> Pairs | States | Factors:
    """The backups against the worst of a set around all rows."""
    rows, _ = prepared(mdp)
    if rectangular != "d":
        check_outcomes(ambiguity, rows)
        warn_of_dense_work(ambiguity, rows)
    if rows.by_outcome and gamma == 0:
        raise UsageError(
            f"gamma=0 beside rewards that depend on the next state is not supported under {ambiguity}; give "
            "reward=mdp.expected_reward(), which has no uncertainty, or gamma above 0, such as 1e-9."
        )
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


def _each(states: States) -> Pairs:
    """The backups in which every pair has the whole budget of its state."""
    rows, strength = states.rows, states.strength
    if isinstance(strength, Tensor) and strength.ndim:
        strength = strength.unsqueeze(-1).expand(rows.probability.shape[:2])
    return Pairs(rows, states.legal, states.ambiguity, strength, states.gamma)


def check_monotone(ambiguity: Ambiguity | None, criterion: str) -> None:
    """Raise `UsageError` for risks that can fall when a value rises: sweeps need not converge then."""
    if ambiguity and any(isinstance(part, (MeanDeviation, MeanVariance)) for part in ambiguity.parts):
        raise UsageError(
            f"{ambiguity} is not monotone, so criterion={criterion!r} has no certified gap; use criterion='finite' "
            "with a horizon, or a monotone risk such as MeanCVaR or Entropic."
        )

"""Discovery of non-dominated policies where all returns are known: J `[policies, attackers]`.

gap(Π̃) = max_{π, ν} [ J(π, ν) − max_{π' in Π̃} J(π', ν) ]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from surefoot.errors import UsageError
from surefoot.solvers.matrix_game import equilibrium

Array = NDArray[np.float64]


def gap(returns: Array, members: Sequence[int]) -> tuple[float, int, int]:
    """The gap of the members, and the policy and the attacker that attain it.

    Raises:
        UsageError: nobody is a member.
    """
    if not members:
        raise UsageError("members=() is not allowed; a gap is that of at least one policy.")
    lead = returns - returns[list(members)].max(0)
    policy, attacker = np.unravel_index(lead.argmax(), lead.shape)
    return float(lead[policy, attacker]), int(policy), int(attacker)


def mixture_gap(returns: Array, members: Sequence[int], policy: int) -> tuple[float, Array]:
    """By how much a policy beats the best member under some mixture of attackers, and that mixture `[attackers]`.

    max_ν̄ [J(π, ν̄) − max_{π'} J(π', ν̄)] is the value of a game between attackers and members; a policy that is best
    under no single attacker may still be best under a mixture.
    """
    found = equilibrium((returns[policy] - returns[list(members)]).T)
    return found.value, found.row


def discover(returns: Array, start: int, tolerance: float = 0.0) -> tuple[list[int], list[float]]:
    """Members in the order in which they are found, and the gap before each and at the end: the policy with the largest
    lead joins, until no lead exceeds the tolerance."""
    members, gaps = [start], []
    while True:
        size, policy, _ = gap(returns, members)
        gaps.append(size)
        if size <= tolerance:
            return members, gaps
        members.append(policy)

"""HAC, the form of HNPG on finite spaces: tables f_h(s, a) of the hybrid critic, and the exponentiated policy step.

Tables are `[H, states, actions]`, policies the same. After Zhou et al., arXiv:2311.08384, algorithms 1 and 2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]


class Steps(NamedTuple):
    """Whole episodes `[episodes, H]`: states, actions, rewards, and the states that followed."""

    state: NDArray[np.int64]
    action: NDArray[np.int64]
    reward: Table
    next_state: NDArray[np.int64]


def improved(policy: Table, f: Table, eta: float) -> Table:
    """π(a|s)·exp(η·f(s, a)), normalised: the natural gradient of a softmax policy. f + c(s) gives the same."""
    weights = policy * np.exp(eta * (f - f.max(-1, keepdims=True)))
    return weights / weights.sum(-1, keepdims=True)


def mixed(own: Table, own_share: Table, logged: Table, logged_share: Table, share: float, before: Table) -> Table:
    """The minimiser of (1 − α)·mean_on (f − own)² + α·mean_off (f − logged)² over tables: own and logged are the mean
    targets of the entries, `…_share` their shares of the rows of each set. Entries of neither keep `before`."""
    a, b = (1 - share) * own_share, share * logged_share
    total = a + b
    return np.where(total > 0, (a * own + b * logged) / np.where(total > 0, total, 1.0), before)


def averaged(state: NDArray[np.int64], action: NDArray[np.int64], target: Table, like: Table) -> tuple[Table, Table]:
    """The mean target of every entry `[states, actions]`, 0 where there is none, and its share of the rows."""
    count, total = np.zeros_like(like), np.zeros_like(like)
    np.add.at(count, (state, action), 1.0)
    np.add.at(total, (state, action), target)
    return total / np.maximum(count, 1), count / max(1, len(state))


def evaluated(
    f: Table, policy: Table, own: Steps | None, logged: Steps | None, share: float, gamma: float = 1
) -> Table:
    """The hybrid critic of a policy: backwards from the last step, each table fitted to the returns of the policy's own
    episodes and to the backups r + γ·E_{a' ~ π} f_{h+1}(s', a') of the data. A set that is None has no part.

    f are the tables before, which entries without a row keep.
    """
    if own is None or logged is None:
        share = float(own is None)
    found, after = f.copy(), np.zeros(f.shape[1])
    to_go = np.zeros(0 if own is None else len(own.reward))
    for h in reversed(range(len(f))):
        mine = theirs = np.zeros_like(f[h]), np.zeros_like(f[h])
        if own is not None:
            to_go = own.reward[:, h] + gamma * to_go
            mine = averaged(own.state[:, h], own.action[:, h], to_go, f[h])
        if logged is not None:
            backup = logged.reward[:, h] + gamma * after[logged.next_state[:, h]]
            theirs = averaged(logged.state[:, h], logged.action[:, h], backup, f[h])
        found[h] = mixed(*mine, *theirs, share, found[h])
        after = (policy[h] * found[h]).sum(-1)
    return found

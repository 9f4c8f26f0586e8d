"""Cross-task preference alignment (PEARL, arXiv:2306.03615): labels of one task's segments for those of another.

Segments are matched by the Gromov–Wasserstein coupling, which compares distances within each task only, so the tasks
may have other states and goals. A label `z[i, k]` is 1 where i is preferred over k, 0 where k is, ½ for neither.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError

Array = NDArray[np.float64]
NOTHING = 1e-12  # mass of pairs below which nothing is known of a label


class Coupling(NamedTuple):
    """How segments are matched."""

    plan: Array  # [N, M] a coupling of uniform weights
    objective: float  # Σ (C_ik − D_jl)²·T_ij·T_kl
    gap: float  # by how much the best start beats the next one that ended elsewhere; 0 with one start


def segments(data: Transitions, length: int, count: int, g: np.random.Generator) -> NDArray[np.int64]:
    """The rows `[count, length]` of random segments, each within an episode and with its own first row where there are
    enough.

    Raises:
        UsageError: no episode is so long.
    """
    first = np.concatenate([np.arange(start, past - length + 1) for start, past in data.bounds])
    if not len(first):
        longest = int(np.diff(data.bounds, axis=1).max())
        raise UsageError(
            f"segment={length} is not allowed for {data.name}: its longest episode has {longest} steps. Give "
            "at most that."
        )
    return g.choice(first, count, replace=len(first) < count)[:, None] + np.arange(length)


def preferences(data: Transitions, rows: NDArray[np.int64]) -> Array:
    """The labels `[N, N]` of segments by their true returns."""
    returns = data.reward[rows].sum(-1, dtype=np.float64)
    return 0.5 * (1 + np.sign(returns[:, None] - returns))


def distances(data: Transitions, rows: NDArray[np.int64]) -> Array:
    """The distances `[N, N]` between segments of states and actions, divided by the largest. States have one scale, and
    actions another, so that a turned task has the same distances."""
    seen = np.concatenate([_scaled(x.reshape(len(x), -1)) for x in (data.observation, data.action)], -1)
    flat = seen[rows].reshape(len(rows), -1)
    found = np.linalg.norm(flat[:, None] - flat, axis=-1)
    return found / max(found.max(), NOTHING)


def _scaled(x: NDArray[Any]) -> Array:
    x = x.astype(np.float64)
    return x / max(float(np.sqrt(x.var(0).sum())), NOTHING)


def aligned(source: Array, target: Array, starts: int, g: np.random.Generator) -> Coupling:
    """The coupling of distances `[N, N]` and `[M, M]` with the lowest objective of several starts.

    The problem is not convex: conditional gradients go from the uniform coupling, and from random vertices.

    Raises:
        UsageError: POT is not installed.
    """
    try:
        import ot
    except ImportError as error:
        raise UsageError(
            "pearl aligns tasks with the package POT; install it: pip install 'surefoot[offline]'"
        ) from error
    n, m = len(source), len(target)
    u, v = np.full(n, 1 / n), np.full(m, 1 / m)
    begin = [np.outer(u, v)] + [ot.emd(u, v, g.random((n, m))) for _ in range(starts - 1)]
    found: list[tuple[Any, Any]] = [
        ot.gromov.gromov_wasserstein(source, target, u, v, "square_loss", symmetric=True, G0=x, log=True) for x in begin
    ]
    plans, values = [plan for plan, _ in found], np.array([float(log["gw_dist"]) for _, log in found])
    best = int(values.argmin())
    others = values[[not np.allclose(plan, plans[best]) for plan in plans]]
    return Coupling(plans[best], float(values[best]), float(others.min() - values[best]) if len(others) else 0.0)


def transported(plan: Array, labels: Array) -> Array:
    """The labels `[M, M]` of target segments: the mean of those `[N, N]` of source segments by `T_ij·T_kl`, i ≠ k; ½
    where that has no mass. The paper's sum is not divided by the mass, and 1 would become 1/M²."""
    apart = 1 - np.eye(len(labels))
    total, mass = plan.T @ (labels * apart) @ plan, plan.T @ apart @ plan
    return np.where(mass > NOTHING, total / np.maximum(mass, NOTHING), 0.5)

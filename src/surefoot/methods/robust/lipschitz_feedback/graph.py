"""The least-squares fit of all Lipschitz functions to data, and its extension to every place: no network, no loop.

    minimise  mean_i ‖v_i − u_i‖²   subject to  ‖v_i − v_j‖ ≤ α·‖x_i − x_j‖ for all pairs        (Lipschitz learning)
    π(x) = ½·max_i (v_i − α‖x − x_i‖) + ½·min_i (v_i + α‖x − x_i‖)                              (McShane's extension)

For fixed multipliers λ of the pairs, v solves one linear system, (I/N + 𝓛) v = u/N, where 𝓛 is the Laplacian of the
graph with the weights λ_ij/‖x_i − x_j‖². Multipliers are found by L-BFGS ascent on the concave dual, on near pairs at
first, and then also on those that turn out too steep, so that all pairs hold in the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from surefoot.errors import UsageError
from surefoot.methods.robust.lipschitz_feedback.closed_loop import distances

Array = NDArray[np.float64]
MOST = 1000  # rows; a solve takes their cube, and there are many: a second for 200 rows, a minute or two for 800
NEAREST = 10  # pairs of each row with which the search begins
RESTARTS = 20
TOLERANCE = 1e-3  # by which a pair may be too steep before values are drawn together


@dataclass(frozen=True)
class Fit:
    """Values `v [rows, m]` of the best Lipschitz function at the data, the pairs `[pairs, 2]` that were looked at, and
    their multipliers λ `[pairs]`, which are 0 where a pair is less steep than α."""

    values: Array
    pairs: NDArray[np.int64]
    multipliers: Array


@dataclass(frozen=True)
class Extension:
    """A policy that is Lipschitz everywhere and has given values at given states: half-way between the least and the
    greatest function that do. Anything that takes a policy takes it: `surefoot.evaluate(policy, env)`."""

    states: Array  # [rows, n]
    values: Array  # [rows, m]
    slope: float  # of every coordinate

    def limits(self, x: Array) -> tuple[Array, Array]:
        """The least and the greatest value `[places, m]` at places `[places, n]`."""
        reach = self.slope * distances(x, self.states)[..., None]
        return (self.values - reach).max(1), (self.values + reach).min(1)

    def __call__(self, observation: ArrayLike) -> Array:
        """Actions `[places, m]` for observations `[places, n]`, or one for one."""
        x = np.asarray(observation, float)
        least, greatest = self.limits(np.atleast_2d(x))
        return ((least + greatest) / 2).reshape(*x.shape[:-1], -1)


def cells(x: Array, u: Array, width: float) -> tuple[Array, Array, Array]:
    """States `[k, n]`, inputs `[k, m]` and numbers of rows `[k]` of the cells of a grid of this width: the means of
    their rows. For more rows than `fitted` takes, and for repeated states."""
    _, place, count = np.unique(np.floor(x / width), axis=0, return_inverse=True, return_counts=True)
    means = []
    for part in (x, u):
        total = np.zeros((len(count), part.shape[1]))
        np.add.at(total, place.reshape(-1), part)
        means.append(total / count[:, None])
    return means[0], means[1], count.astype(float)


def fitted(x: ArrayLike, u: ArrayLike, lipschitz: float, weights: ArrayLike | None = None) -> Fit:
    """The function of Lipschitz constant α nearest to inputs `u [rows, m]` at distinct states `x [rows, n]`, in the
    squared error; `weights [rows]` are numbers of rows that each stands for.

    Raises:
        UsageError: there are too many rows, two states are the same, or α is not above 0.
    """
    x, u = (np.asarray(part, float).reshape(len(part), -1) for part in (x, u))  # type: ignore[arg-type]
    if not lipschitz > 0:
        raise UsageError(f"lipschitz={lipschitz!r} is not allowed; it must be above 0.")
    if len(x) > MOST:
        raise UsageError(f"{len(x)} rows are too many for an exact fit, which takes {MOST}; make cells of them first.")
    rows = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    rows = rows / rows.mean()
    apart = distances(x, x)
    np.fill_diagonal(apart, np.inf)
    if apart.min() == 0:
        raise UsageError("two rows have the same state; make cells of them first, which have the mean of their inputs.")
    spread = float(u.std()) or 1.0
    scaled, slope = u / spread, lipschitz / spread
    chosen, dual, values = np.zeros_like(apart, bool), np.zeros_like(apart), scaled
    np.put_along_axis(chosen, np.argsort(apart, 1)[:, : min(NEAREST, len(x) - 1)], True, 1)
    steep = chosen
    while True:
        chosen |= steep | steep.T
        i, j = np.nonzero(np.triu(chosen))
        values, dual[i, j] = _ascended(scaled, i, j, apart[i, j], slope, rows, dual[i, j])
        steep = (steepness(values, apart) > slope * (1 + TOLERANCE)) & ~chosen
        if not steep.any():
            return Fit(values * spread, np.stack([i, j], 1), dual[i, j] * apart[i, j] / (len(x) * slope))


def steepness(values: Array, apart: Array) -> Array:
    """The slopes `[rows, rows]` of all pairs, 0 from a row to itself, whose distance is given as infinite."""
    return distances(values, values) / apart


def _ascended(
    u: Array, i: NDArray[np.int64], j: NDArray[np.int64], apart: Array, slope: float, weights: Array, start: Array
) -> tuple[Array, Array]:
    """Values and multipliers, as shares ν of λ = ν·‖x_i − x_j‖/(N·α), for which they are of the size of residuals."""
    if not len(start):
        return u, start
    count = len(u)

    def primal(share: Array) -> Array:
        matrix, each = np.diag(weights), share / (slope * apart)
        matrix[i, j] -= each
        matrix[j, i] -= each
        np.add.at(matrix, (i, i), each)
        np.add.at(matrix, (j, j), each)
        return scipy.linalg.solve(matrix, weights[:, None] * u, assume_a="pos")

    def negated(share: Array) -> tuple[float, Array]:
        v = primal(share)
        rise = apart / slope * (((v[i] - v[j]) ** 2).sum(1) / apart**2 - slope**2)
        return -float((weights * ((v - u) ** 2).sum(1)).sum() + share @ rise), -rise

    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-9 * count, "maxcor": 30}
    for _ in range(RESTARTS):  # L-BFGS may stall where many constraints are tight, and restarts without its memory
        found = scipy.optimize.minimize(
            negated, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start), options=options
        )
        start, values = found.x, primal(found.x)
        if (distances(values, values)[i, j] <= slope * apart * (1 + TOLERANCE)).all():
            break
    return primal(start), start


def policy(x: ArrayLike, u: ArrayLike, lipschitz: float, weights: ArrayLike | None = None) -> Extension:
    """The policy of Lipschitz constant α from inputs `u [rows, m]` at distinct states `x [rows, n]`.

    Every coordinate is fitted by itself, with the constant α/√m, so that all together have α. Values that are too steep
    by the tolerance of the search are drawn together around their mean, so that the extension has them exactly.
    """
    x, u = (np.asarray(part, float).reshape(len(part), -1) for part in (x, u))  # type: ignore[arg-type]
    slope = lipschitz / np.sqrt(u.shape[1])
    values = np.concatenate([fitted(x, column[:, None], slope, weights).values for column in u.T], 1)
    apart = distances(x, x)
    np.fill_diagonal(apart, np.inf)
    steepest = np.array([steepness(column[:, None], apart).max() for column in values.T])
    shrink = np.minimum(1, slope / np.maximum(steepest, 1e-300))
    middle = values.mean(0)
    return Extension(x, middle + (values - middle) * shrink, float(slope))

"""Solvers of finite sums. An epoch is a pure function of the problem, a state of arrays by name, and the samples drawn.

Linear models keep the slope of a sample's loss in its scores, k numbers, in place of its gradient x_i·slope_iᵀ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from surefoot.ambiguity import Priced
from surefoot.errors import UsageError
from surefoot.loops.finite_sum import lbfgs
from surefoot.loops.finite_sum.problem import Array, Problem, weigh

State = dict[str, Array]


@dataclass(frozen=True)
class Solver:
    """A solver: its state at the start, and after an epoch.

    epoch: (problem, state, samples, step size, batch size) -> state. The samples are n indices for solvers of single
    samples, a permutation for those of batches (`permutes`). passes: evaluations of a sample's gradient in an epoch,
    by n.
    """

    start: Callable[[Problem], State]
    epoch: Callable[[Problem, State, Array, float, int], State]
    words: str
    permutes: bool = False
    passes: float = 1.0
    has_step: bool = True


def _weights(problem: Problem) -> State:
    return {"W": problem.start()}


def _copied(state: State) -> State:
    return {name: x.copy() for name, x in state.items()}


# --- tables of losses, weights and slopes ----------------------------------------------------------------------------


def tables(problem: Problem) -> State:
    """The tables of every sample at the start: its loss `[n]`, the weight of its gradient `[n]`, its slope `[n, k]`."""
    losses, slopes = problem.some(W := problem.start())
    return {"W": W, "losses": losses, "rho": weigh(problem.ambiguity, losses).q, "slopes": slopes}


def prospect(problem: Problem, state: State, samples: Array, step: float, batch: int) -> State:
    """An epoch of Prospect (arXiv:2310.13863): q from the table of losses removes the bias of a batch, the table of
    weighted gradients its variance.

        v = n·q_i·∇ℓ_i(W) − n·ρ_i·g_i + Σ_j ρ_j g_j,    W ← prox(W − η·v)

    q is that from before the loss of sample i is renewed; afterwards ρ_i and g_i become what was just multiplied. The
    running sum of ρ_j g_j is made anew at the start of every epoch, so that rounding does not add up.
    """
    now, n = _copied(state), len(problem.y)
    W, losses, rho, slopes = now["W"], now["losses"], now["rho"], now["slopes"]
    _, q, order = weigh(problem.ambiguity, losses)
    mean = problem.X.T @ (rho[:, None] * slopes)
    for i in samples:
        x = problem.X[i][:, None]
        value, slope = problem.some(W, slice(i, i + 1))
        change = x * (q[i] * slope - rho[i] * slopes[i])  # of the weighted gradient of sample i
        W = problem.prox(W - step * (n * change + mean), step)
        mean += change
        losses[i], rho[i], slopes[i] = value[0], q[i], slope[0]
        _, q, order = weigh(problem.ambiguity, losses, order)
    return {**now, "W": W}


def saddle_tables(problem: Problem) -> State:
    """The tables of SaddleSAGA: those of Prospect, and the weights q `[n]`, which it ascends."""
    if not isinstance(problem.ambiguity, Priced) or problem.ambiguity.divergence != "chi-square":
        raise UsageError(
            "solver='saddle-saga' is not allowed here: its ascent needs the χ² price; use prospect, lsvrg or lbfgs."
        )
    found = tables(problem)
    return {**found, "q": found["rho"].copy()}


def saddle_saga(problem: Problem, state: State, samples: Array, step: float, batch: int) -> State:
    """An epoch of SAGA on the saddle point: q takes a proximal step of η/(10·n) of its own where Prospect solves."""
    now, n = _copied(state), len(problem.y)
    W, losses, rho, slopes, q = now["W"], now["losses"], now["rho"], now["slopes"], now["q"]
    assert isinstance(problem.ambiguity, Priced)
    ascent, order = step / (10 * n), None
    price = problem.ambiguity.price * ascent + 0.5 / n  # that of the proximal term is 1/(2n) in this package's χ²
    mean = problem.X.T @ (rho[:, None] * slopes)
    for i in samples:
        x = problem.X[i][:, None]
        value, slope = problem.some(W, slice(i, i + 1))
        change = x * (q[i] * slope - rho[i] * slopes[i])
        W = problem.prox(W - step * (n * change + mean), step)
        mean += change
        rho[i], slopes[i] = q[i], slope[0]
        moved = q + ascent * losses
        moved[i] += ascent * n * (value[0] - losses[i])
        losses[i] = value[0]
        _, q, order = weigh(problem.ambiguity, moved, order, price)
    return {**now, "W": W, "q": q}


# --- without tables --------------------------------------------------------------------------------------------------


def lsvrg(problem: Problem, state: State, samples: Array, step: float, batch: int) -> State:
    """An epoch of SVRG with the weights q of its first W, frozen until the next epoch."""
    W, n = state["W"].copy(), len(problem.y)
    losses, slopes = problem.some(W)
    q = weigh(problem.ambiguity, losses).q
    mean = problem.X.T @ (q[:, None] * slopes)
    for i in samples:
        _, slope = problem.some(W, slice(i, i + 1))
        W = problem.prox(W - step * (n * q[i] * problem.X[i][:, None] * (slope - slopes[i]) + mean), step)
    return {"W": W}


def _batches(samples: Array, batch: int) -> list[Array]:
    return np.split(samples, range(batch, len(samples), batch))


def _batch_gradient(problem: Problem, W: Array, which: Array) -> Array:
    """The gradient of the risk of a batch by itself, which is biased: its worst case is not that of all samples."""
    losses, slopes = problem.some(W, which)
    return problem.X[which].T @ (weigh(problem.ambiguity, losses).q[:, None] * slopes)


def sgd(problem: Problem, state: State, samples: Array, step: float, batch: int) -> State:
    """An epoch of steps on the risks of batches."""
    W = state["W"]
    for which in _batches(samples, batch):
        W = problem.prox(W - step * _batch_gradient(problem, W, which), step)
    return {"W": W}


def srda_start(problem: Problem) -> State:
    """W, the sum of all gradients so far, and their number."""
    return {"W": problem.start(), "sum": problem.start(), "taken": np.zeros(1)}


def srda(problem: Problem, state: State, samples: Array, step: float, batch: int) -> State:
    """An epoch of regularised dual averaging: W = −average/(μ + 1/(η·t))."""
    W, total, taken = state["W"], state["sum"], float(state["taken"][0])
    for which in _batches(samples, batch):
        total, taken = total + _batch_gradient(problem, W, which), taken + 1
        W = -(total / taken) / (problem.mu + 1 / (step * taken))
    return {"W": W, "sum": total, "taken": np.array([taken])}


def quasi_newton(problem: Problem, state: State, samples: Array, step: float, batch: int) -> State:
    """One iteration of L-BFGS on the whole objective."""
    return lbfgs.iteration(state, lambda W: problem.at(W)[:2])


SOLVERS: dict[str, Solver] = {
    "prospect": Solver(
        tables, prospect, "for each of n samples: v = n·q_i·∇ℓ_i − n·ρ_i·g_i + Σ ρ_j·g_j, and a proximal step"
    ),
    "lbfgs": Solver(
        lambda problem: lbfgs.start(problem.start(), lambda W: problem.at(W)[:2]),
        quasi_newton,
        "one iteration of L-BFGS with a line search for the weak Wolfe conditions",
        has_step=False,
    ),
    "sgd": Solver(_weights, sgd, "for each batch: a step on its own risk, which is biased", permutes=True),
    "srda": Solver(srda_start, srda, "for each batch: the average of all gradients so far gives W", permutes=True),
    "lsvrg": Solver(
        _weights, lsvrg, "all losses, q and the full gradient once; then n steps with q frozen", passes=2.0
    ),
    "saddle-saga": Solver(
        saddle_tables, saddle_saga, "for each of n samples: a step of W and one of q, both with tables"
    ),
}

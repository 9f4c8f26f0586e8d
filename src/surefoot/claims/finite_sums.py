"""Solvers on one finite sum: how far above the minimum they are after every epoch, each at its best step size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surefoot.loops.finite_sum.problem import Problem
from surefoot.loops.finite_sum.solvers import SOLVERS
from surefoot.seeding import numpy_stream

FLOOR = 1e-9  # added to the gap, as the paper's notebook does
LOST = 1e6  # times the gap at the start: the solver diverges
TUNING = (2000, 2001)  # seeds
BATCH = 64


def minimum(problem: Problem, iterations: int = 300) -> float:
    """The least objective, by L-BFGS."""
    solver = SOLVERS["lbfgs"]
    state = solver.start(problem)
    for _ in range(iterations):
        state = solver.epoch(problem, state, np.arange(0), 0.0, 0)
    return problem.at(state["W"]).objective


def curve(
    problem: Problem, name: str, step: float, seed: int, epochs: int, least: float, batch: int = BATCH
) -> list[float]:
    """The gap to the minimum after every epoch, by the gap at the start; `LOST` from where it is above that."""
    solver, n, found = SOLVERS[name], len(problem.y), []
    state = solver.start(problem)
    first = problem.at(state["W"]).objective - least
    with np.errstate(all="ignore"):
        for epoch in range(epochs):
            stream = numpy_stream(seed, "samples", epoch)
            samples = stream.permutation(n) if solver.permutes else stream.integers(n, size=n)
            state = solver.epoch(problem, state, samples, step, batch)
            gap = (problem.at(state["W"]).objective - least + FLOOR) / first
            if not gap < LOST:
                return [*found, *[LOST] * (epochs - epoch)]
            found.append(gap)
    return found


def tuned(
    problem: Problem,
    name: str,
    grid: Sequence[float],
    seeds: Sequence[int],
    epochs: int,
    tuning: Sequence[int] = TUNING,
) -> dict[str, Any]:
    """The curves of a solver at the step size with the least mean gap in the last ten epochs of other seeds."""
    least = minimum(problem)
    tried = {
        step: float(np.mean([curve(problem, name, step, seed, epochs, least)[-10:] for seed in tuning]))
        for step in grid
    }
    step = min(tried, key=tried.__getitem__)
    return {
        "step": step,
        "inside": float(grid[0] < step < grid[-1]),
        "tried": [[size, gap] for size, gap in tried.items()],
        "curves": [curve(problem, name, step, seed, epochs, least) for seed in seeds],
    }


def passes_to(curve: Sequence[float], gap: float, each: float) -> float:
    """The passes until a curve is below a gap; one epoch more than it has if it never is."""
    below = np.flatnonzero(np.array(curve) <= gap)
    return each * (float(below[0]) + 1 if len(below) else len(curve) + 1)

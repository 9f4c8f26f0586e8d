"""Fixed points of backups: sweeps with two-sided bounds, accelerated by evaluating the present policy.

A backup T is monotone and T(v + c) = T v + γc, so one sweep δ = T v − v bounds the sum of all later changes:

    γ/(1−γ)·min δ  ≤  V − T v  ≤  γ/(1−γ)·max δ          (MacQueen 1966, Porteus 1971)
    min δ  ≤  gain  ≤  max δ                              for averages, γ = 1 (Odoni 1969)

Both hold for any v, and the policy that attains T v satisfies the lower bound; so the gap of a solution is certified,
however v was found.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import check_count
from surefoot.solvers.pairs import Chain, Choice
from surefoot.solvers.solution import Progress

LEFT = 0.05  # share of a sweep's span at which the steps of its policy stop
FLOOR = 32 * torch.finfo(torch.float64).eps  # relative to the largest value: smaller changes of a sweep are rounding


@dataclass(frozen=True)
class Stop:
    """When sweeps stop: by tolerance, number of sweeps, or seconds. `progress` is called after each sweep."""

    tolerance: float
    sweeps: int
    progress: Callable[[Progress], None] | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        check_count("sweeps", self.sweeps)
        if self.seconds is not None and not self.seconds > 0:
            raise UsageError(f"time_limit={self.seconds!r} is not allowed; it must be above 0 seconds, or None.")

    def over(self, sweeps: int, began: float) -> bool:
        """Whether to stop after this many sweeps since `began`, a `time.perf_counter`."""
        return sweeps >= self.sweeps or (self.seconds is not None and time.perf_counter() - began >= self.seconds)


@dataclass(frozen=True, eq=False)
class Sweep:
    """One sweep, from values `before` to values `after` by a policy; `low` and `high` bound all later changes."""

    before: Tensor
    after: Tensor
    choose: Choice
    low: float
    high: float
    iteration: int

    @property
    def gap(self) -> float:
        return self.high - self.low

    @cached_property
    def policy(self) -> Tensor:
        """`[S, A]`"""
        return self.choose()


def factor(gamma: float) -> float:
    """The factor by which all later sweeps together can repeat the last change; 1 per step for gamma 1."""
    return gamma / (1 - gamma) if gamma < 1 else 1.0


def bounds(change: Tensor, gamma: float) -> tuple[float, float]:
    """Bounds on the total change by all later sweeps, given the change of one; for gamma 1, bounds on the gain."""
    least, most = change.aminmax()
    return factor(gamma) * float(least), factor(gamma) * float(most)


def bounds_in_place(change: Tensor, gamma: float) -> tuple[float, float]:
    """The same for Gauss–Seidel sweeps: they pass on between none and γ of a constant."""
    low, high = bounds(change, gamma)
    return min(low, 0.0), max(high, 0.0)


def iterate(
    backup: Callable[[Tensor], tuple[Tensor, Choice]],
    start: Tensor,
    gamma: float,
    stop: Stop,
    chain: Callable[[Sweep], Chain] | None = None,
    steps: int = 0,
    limits: Callable[[Tensor, float], tuple[float, float]] = bounds,
    watch: Callable[[Sweep], None] = lambda sweep: None,
) -> Sweep:
    """Sweep until the bounds are within the tolerance, or rounding is all that is left.

    backup: values `[S]` -> values one step before, and the policy that has them. Between two sweeps the values are
    advanced by up to `steps` steps in the `chain` of that policy, with the world fixed at the worst one for the last
    values: a Newton step with a truncated linear solver. If it does not bring the bounds closer together it is undone,
    so that convergence is as certain as with sweeps alone.
    """
    began, values, kept, allowed, trial, iteration = time.perf_counter(), start, None, steps, False, 0
    while True:
        iteration += 1
        after, choose = backup(values)
        change = after - values
        now = Sweep(values, after, choose, *limits(change, gamma), iteration)
        if stop.progress is not None:
            stop.progress(Progress(iteration, now.gap, time.perf_counter() - began))
        if now.gap <= max(stop.tolerance, FLOOR * factor(gamma) * float(after.abs().max())):
            return now
        if stop.over(iteration, began):
            return now if kept is None or now.gap <= kept.gap else kept
        watch(now)
        if trial and kept is not None and now.gap > gamma * kept.gap:
            values, trial, allowed = kept.after, False, allowed // 4
            continue
        kept, values, trial = now, after, chain is not None and allowed > 0
        if chain is not None and trial:
            values = after + further(change, chain(now), gamma, allowed)
        allowed = min(steps, 2 * max(allowed, 1))
        if gamma == 1:
            values = values - values[0]


def further(change: Tensor, step: Chain, gamma: float, steps: int) -> Tensor:
    """Σ_j (γP)^j·change over j = 1, 2, … until its span is small; constants do not matter."""
    total, enough = torch.zeros_like(change), LEFT * span(change)
    for _ in range(steps):
        change = gamma * step(change)
        total += change
        if span(change) <= enough:
            break
    return total


def span(x: Tensor) -> float:
    least, most = x.aminmax()
    return float(most - least)

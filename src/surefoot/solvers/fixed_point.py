"""Where values repeat themselves: sweeps with two-sided bounds, sped up by what the present policy would make of them.

A backup T is monotone and T(v + c) = T v + γc, so one sweep δ = T v − v bounds what all the others can still add:

    γ/(1−γ)·min δ  ≤  V − T v  ≤  γ/(1−γ)·max δ          (MacQueen 1966, Porteus 1971)
    min δ  ≤  gain  ≤  max δ                              for averages, γ = 1 (Odoni 1969)

Both hold for any v, and the policy that attains T v keeps the lower one; so the gap of a solution is certain however v
was found.
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

LEFT = 0.05  # how much of a sweep's span the steps of its policy leave
FLOOR = 32 * torch.finfo(torch.float64).eps  # of the largest value: below it a sweep changes by rounding alone


@dataclass(frozen=True)
class Stop:
    """When sweeps end: bounds within the tolerance, so many of them, or seconds. `progress` is told after each."""

    tolerance: float
    sweeps: int
    progress: Callable[[Progress], None] | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        check_count("sweeps", self.sweeps)
        if self.seconds is not None and not self.seconds > 0:
            raise UsageError(f"time_limit={self.seconds!r} is not allowed; it must be above 0 seconds, or None.")

    def over(self, sweeps: int, began: float) -> bool:
        """Whether it ends after so many sweeps since a moment of `time.perf_counter`."""
        return sweeps >= self.sweeps or (self.seconds is not None and time.perf_counter() - began >= self.seconds)


@dataclass(frozen=True, eq=False)
class Sweep:
    """One of them, from values `before` to values `after` by a policy; `low` and `high` bound all that are to come."""

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
    """How often all later sweeps can repeat the last change, together; of gamma 1, once a step."""
    return gamma / (1 - gamma) if gamma < 1 else 1.0


def bounds(change: Tensor, gamma: float) -> tuple[float, float]:
    """What all later sweeps add at least and at most, if one changed the values so; of gamma 1, the gain."""
    least, most = change.aminmax()
    return factor(gamma) * float(least), factor(gamma) * float(most)


def bounds_in_place(change: Tensor, gamma: float) -> tuple[float, float]:
    """The same for sweeps that use new values at once: they pass on at most γ of a constant, and may pass on none."""
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

    backup: values `[S]` -> values one step before, and the policy that has them. Between two sweeps the values go up to
    `steps` steps further in the `chain` of that policy, its world being held as it is worst for the last values: this
    is Newton's step with its linear solver cut short. Where it did not bring the bounds closer together it is taken
    back, so that it never converges less surely than sweeps alone.
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
    """Σ_j (γP)^j·change over j = 1, 2, … until little of its span is left; a constant does not matter."""
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

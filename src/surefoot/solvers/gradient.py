"""Robust policy gradient: mirror ascent on the policy's own values, against its worst world at each step.

    π(a|s) ← π(a|s)·exp(η_t·G(s, a)) / normaliser,      G = ∂V(s)/∂π(a|s) at the values of π,   η_t = c/√t

G is the value of a pair in the worst world (envelope theorem). It is the policy gradient of directly parameterised
policies, with equal weight for all states instead of their visits, in the geometry of the entropy; steps that shrink
like 1/√t also suit kinks, which s-rectangular sets have. A slow method that shares only the backups with the others, to
check them and to see how policies move. Li, Lan and Zhao (2022); Wang, Ho and Petrik (2023).
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from surefoot.solvers.backups import Backup
from surefoot.solvers.fixed_point import Stop, Sweep, iterate, span
from surefoot.solvers.solution import Progress

FIRST = 4.0  # c, in units of 1/span of G
WITHIN = 0.05  # relative to the last gap: accuracy of the values before the policy moves
STEPS = 200


def ascend(backup: Backup, policy: Tensor, gamma: float, stop: Stop) -> Sweep:
    """Mirror ascent from a policy `[S, A]` until no policy is better by more than the tolerance.

    The bounds of the result: the values of the last policy, and the maximum gap to the best ones.
    """
    began, gap, values, best = time.perf_counter(), torch.inf, torch.zeros(len(policy), dtype=policy.dtype), None
    for iteration in range(1, stop.sweeps + 1):
        followed = backup.follow(policy)
        inner = Stop(max(WITHIN * min(gap, 1.0), 0.1 * stop.tolerance), stop.sweeps)
        own = iterate(
            lambda v, f=followed, p=policy: (f.backup(v), lambda: p),
            values,
            gamma,
            inner,
            lambda sweep, f=followed: f.chain(sweep.before),
            STEPS,
        )
        values = own.after + 0.5 * (own.low + own.high)
        improved, _ = backup.improve(values)
        above = float((improved - values).max().clamp(min=0)) / (1 - gamma) + 0.5 * own.gap
        now = Sweep(values, values, lambda p=policy: p, -0.5 * own.gap, above, iteration)
        gap = now.gap
        best = now if best is None or gap < best.gap else best
        if stop.progress is not None:
            stop.progress(Progress(iteration, gap, time.perf_counter() - began))
        if gap <= stop.tolerance or stop.over(iteration, began):
            break
        slope = backup.marginal(values, policy)
        slope = slope - slope.amax(-1, keepdim=True)
        step = FIRST / (max(span(torch.where(policy > 0, slope, 0.0)), 1e-300) * iteration**0.5)
        policy = policy * torch.exp(step * slope)
        policy = policy / policy.sum(-1, keepdim=True)
    assert best is not None
    return Sweep(best.before, best.after, best.choose, best.low, best.high, iteration)

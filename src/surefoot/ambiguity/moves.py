"""Sets whose worst case moves mass from outcome to outcome, found by sorting: total variation, L1, L∞, contamination.

With `support="all"` mass may go to any outcome, with `"nominal"` only to those that the nominal can produce.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.ambiguity.contract import Plan, Solution
from surefoot.ambiguity.core import Divergence
from surefoot.ambiguity.levels import LOWEST_SHARE, level_plan
from surefoot.ambiguity.search import increasing_root, lowest, take, untake
from surefoot.ambiguity.shared import lowest_of_rows, lowest_outcomes
from surefoot.hyperparameters import hyperparameter


def filled(capacity: Tensor, amount: Tensor) -> Tensor:
    """`amount` `[..., 1]` distributed along the last axis, up to the capacity of each place, the first ones first."""
    before = capacity.cumsum(-1) - capacity
    return torch.minimum((amount - before).clamp_(min=0), capacity)


@dataclass(frozen=True)
class Supported(Divergence):
    """Base of divergences that are finite for mass outside the nominal's support."""

    support: str = hyperparameter(
        "all",
        choices=("all", "nominal"),
        help="Where probability may move: to all outcomes, or only to those that the nominal distribution can produce.",
    )

    def allowed(self, nominal: Tensor) -> Tensor:
        """The outcomes on which the worst case may have mass."""
        return torch.ones_like(nominal, dtype=torch.bool) if self.support == "all" else nominal > 0

    def within(self, distribution: Tensor, nominal: Tensor, divergence: Tensor) -> Tensor:
        """`divergence`, infinite where mass is on a forbidden outcome."""
        outside = ((distribution > 0) & ~self.allowed(nominal)).any(-1)
        return torch.where(outside, torch.inf, divergence)


def moved(values: Tensor, nominal: Tensor, allowed: Tensor, taken: Tensor, paid: Tensor | float = 0.0) -> Solution:
    """The mass `taken` `[..., n]` of the nominal moved to the lowest allowed outcome, at a price `paid` `[..., 1]`."""
    least = lowest(values, allowed)
    value = (nominal * values).sum(-1, keepdim=True) - (taken * (values - least)).sum(-1, keepdim=True) + paid

    def distribution() -> Tensor:
        target = torch.where(allowed, values, torch.inf).argmin(-1, keepdim=True)
        kept = nominal - taken
        target = target.expand(kept.shape[:-1] + (1,))
        return kept.scatter_add(-1, target, taken.sum(-1, keepdim=True).expand(target.shape))

    return Solution(value.squeeze(-1), distribution)


@dataclass(frozen=True)
class TotalVariation(Supported):
    """Total variation, **half** the L1 distance: D = ½ Σ|q − p|, the mass that is moved, between 0 and 1."""

    name = "total-variation"
    aliases = ("tv",)
    symbol = "TV(q, p)"
    times: ClassVar[float] = 1.0  # D in units of the mass moved

    def ball(self, values: Tensor, nominal: Tensor, radius: Tensor) -> Solution:
        order = values.argsort(-1, descending=True)
        taken = untake(filled(take(nominal, order), radius / self.times), order)
        return moved(values, nominal, self.allowed(nominal), taken)

    def penalised(self, values: Tensor, nominal: Tensor, penalty: Tensor) -> Solution:
        """E_p min(v, v_min + penalty): mass more than the price above the lowest value is moved."""
        allowed = self.allowed(nominal)
        least, penalty = lowest(values, allowed), self.times * penalty
        taken = torch.where(values > least + penalty, nominal, 0.0)
        # Mass so high has penalty < inf, so the price of moving nothing is 0 and not inf·0.
        price = torch.where(taken > 0, penalty, 0.0)
        return moved(values, nominal, allowed, taken, (price * taken).sum(-1, keepdim=True))

    def plan(self, values: Tensor, sample: Tensor, strength: Tensor | None) -> Plan | None:
        """The lowest share 1 − radius of the mass stays in place."""
        assert strength is not None
        lowest, span = values.min(), values.max() - values.min()
        if self.penalty is not None:
            return self._clipped(values, lowest + self.times * strength) if len(strength) == 1 else None

        targets = lowest_outcomes(values, self.support)

        def kept(radius: Tensor) -> Tensor:
            return 1 - (radius / self.times).clamp(max=1)

        def worst(kept_sum: Tensor, probabilities: Tensor, radius: Tensor) -> Tensor:
            target = lowest_of_rows(values, targets, probabilities)
            return lowest + span * kept_sum + (1 - kept(radius)) * (target - lowest)

        return level_plan(LOWEST_SHARE, values, sample, strength, kept, worst, targets)

    def _clipped(self, values: Tensor, ceiling: Tensor) -> Plan:
        """A penalty caps every value at the lowest value plus the price of moving there."""

        def finish(means: Tensor, probabilities: Tensor, strength: Tensor | None) -> tuple[Tensor, Tensor]:
            return means.squeeze(-1), (probabilities > 0).all(-1)  # the lowest outcome of all must be allowed

        lowest = lowest_outcomes(values, self.support)[:1]
        return Plan(values.minimum(ceiling.squeeze())[:, None], finish, lowest)

    def divergence(self, distribution: Tensor, nominal: Tensor) -> Tensor:
        return self.within(distribution, nominal, 0.5 * self.times * (distribution - nominal).abs().sum(-1))


@dataclass(frozen=True)
class L1(TotalVariation):
    """The L1 distance D = Σ|q − p|, **twice** the total variation, between 0 and 2."""

    name = "l1"
    aliases = ()
    symbol = "‖q−p‖₁"
    times = 2.0


@dataclass(frozen=True)
class LInfinity(Supported):
    """The L∞ distance D = max_j |q_j − p_j|: every probability moves by at most the radius."""

    name = "l-infinity"
    aliases = ("linf",)
    symbol = "‖q−p‖∞"

    def ball(self, values: Tensor, nominal: Tensor, radius: Tensor) -> Solution:
        order = values.argsort(-1)
        v, p, allowed = take(values, order), take(nominal, order), take(self.allowed(nominal), order)
        q, _ = within_distance(v, p, allowed, radius)
        return Solution((q * v).sum(-1), lambda: untake(q, order))

    def penalised(self, values: Tensor, nominal: Tensor, penalty: Tensor) -> Solution:
        """min over r of ball(r) + penalty·r, which is convex in r: bisection on its slope."""
        order = values.argsort(-1)
        v, p, allowed = take(values, order), take(nominal, order), take(self.allowed(nominal), order)

        def slope(radius: Tensor) -> tuple[Tensor, Tensor]:
            _, gain = within_distance(v, p, allowed, radius)
            return penalty - gain, torch.zeros_like(gain)

        nowhere = torch.full_like(slope(torch.ones_like(penalty))[0], 1e-200)
        radius = increasing_root(slope, nowhere, torch.ones_like(nowhere), nowhere)
        radius = torch.where(slope(nowhere)[0] >= 0, 0.0, radius)
        q, _ = within_distance(v, p, allowed, radius)
        paid = torch.where(radius > 0, penalty * (q - p).abs().amax(-1, keepdim=True), 0.0).squeeze(-1)
        return Solution((q * v).sum(-1) + paid, lambda: untake(q, order))

    def divergence(self, distribution: Tensor, nominal: Tensor) -> Tensor:
        return self.within(distribution, nominal, (distribution - nominal).abs().amax(-1))


def within_distance(v: Tensor, p: Tensor, allowed: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """The worst case of ascending values within an L∞ distance, and the rate at which its value falls with it.

    Every place gives up the mass it may, and the sum is redistributed from the lowest value on; the place where it runs
    out is the pivot: a unit more distance moves one unit of mass from each place above it and to each place below it.
    """
    given = torch.minimum(p, radius)
    poured = filled(torch.where(allowed, radius + given, 0.0), given.sum(-1, keepdim=True))
    pivot = torch.where(poured > 0, v, -torch.inf).amax(-1, keepdim=True)
    moving = ((v > pivot) & (p > radius)) | ((v < pivot) & allowed)
    return p - given + poured, torch.where(moving, (v - pivot).abs(), 0.0).sum(-1, keepdim=True)


def pieces(v: Tensor, p: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """`within_distance` for all distances from 0 to 1: the lengths `[..., 2n + 1]` of the intervals of the distance on
    which the value of ascending values falls at one rate, and these rates, which decrease.

    An interval ends at a probability, which is given up in full from there on, or where the first k places begin to
    take all mass given up above them: at the root of k·d − Σ_{i>k} min(p_i, d), convex in d and linear between
    probabilities.
    """
    n = p.shape[-1]
    full = torch.cat([p.sort(-1).values, torch.ones_like(p[..., :1])], -1)
    above = torch.minimum(p.unsqueeze(-2), full.unsqueeze(-1)).flip(-1).cumsum(-1).flip(-1)[..., 1:]
    taken = full.unsqueeze(-1) * allowed.cumsum(-1).unsqueeze(-2)
    room = taken - torch.nn.functional.pad(above, (0, 1))  # [..., distance, k]
    place = torch.arange(n + 1, device=p.device).unsqueeze(-1)
    last = torch.where(room < 0, place, 0).amax(-2)  # the last distance at which the first k places do not take all
    here, there = last, (last + 1).clamp(max=n)
    start, end = (full.gather(-1, one) for one in (here, there))
    lacking, left = (room.gather(-2, one.unsqueeze(-2)).squeeze(-2) for one in (here, there))
    share = (-lacking / torch.where(left > lacking, left - lacking, torch.inf)).clamp(0, 1)
    ends = torch.cat([full, start + share * (end - start)], -1).sort(-1).values
    starts = torch.nn.functional.pad(ends[..., :-1], (1, 0))
    middle = (0.5 * (starts + ends)).clamp(min=1e-200).unsqueeze(-1)  # at 0 nothing moves
    _, rate = within_distance(v.unsqueeze(-2), p.unsqueeze(-2), allowed.unsqueeze(-2), middle)
    return ends - starts, rate.squeeze(-1).cummin(-1).values

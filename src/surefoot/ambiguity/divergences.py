"""Sets that stay within the nominal's support, because leaving it costs an infinite divergence: KL and χ²."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.ambiguity.core import Divergence, Plan, Solution
from surefoot.ambiguity.levels import chi_square_plan
from surefoot.ambiguity.search import increasing_root, lowest, take
from surefoot.ambiguity.shared import mean_plan
from surefoot.ambiguity.tilting import tilt_plan

TINY = 1e-200  # stands in for a penalty of zero


def log_partition(gaps: Tensor, nominal: Tensor) -> tuple[Tensor, Tensor]:
    """log E_p exp(−gaps) for gaps ≥ 0, the axis kept, accurate for tiny and for huge gaps; and p·exp(−gaps)."""
    small = (nominal * torch.expm1(-gaps)).sum(-1, keepdim=True)
    terms = nominal * torch.exp(-gaps)
    return torch.where(small > -0.5, torch.log1p(small), torch.log(terms.sum(-1, keepdim=True))), terms


def support_gaps(values: Tensor, nominal: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest value on the support `[..., 1]`, and how far each value lies above it (0 outside the support)."""
    inside = nominal > 0
    least = lowest(values, inside)
    return least, torch.where(inside, values - least, 0.0)


def at_lowest(gaps: Tensor, nominal: Tensor) -> Tensor:
    """The nominal given that the lowest value of the support is drawn."""
    mass = torch.where(gaps == 0, nominal, 0.0)
    return mass / mass.sum(-1, keepdim=True)


def _tilt(gaps: Tensor, nominal: Tensor, radius: Tensor, tolerance: float = 1e-14) -> tuple[Tensor, Tensor, Tensor]:
    """Whether the KL ball holds the draw of the lowest value alone, else the t of its worst case p·exp(−t·v/span)."""
    span = gaps.amax(-1, keepdim=True)
    span, equal = torch.where(span > 0, span, 1.0), span == 0
    scaled = gaps / span
    mass = torch.where(gaps == 0, nominal, 0.0).sum(-1, keepdim=True)
    full = equal | (radius >= -torch.log(mass))
    wanted = torch.where(~full & (radius > 0), radius, 1.0)

    def excess(log_tilt: Tensor) -> tuple[Tensor, Tensor]:
        """log KL − log radius and its slope: KL grows from tilt²·Var/2 to −log of the lowest's mass."""
        tilt = torch.exp(log_tilt)
        tilted = (tilt * scaled).clamp_(max=800.0)
        log_z, terms = log_partition(tilted, nominal)
        q = terms / terms.sum(-1, keepdim=True)
        mean = (q * tilted).sum(-1, keepdim=True)
        variance = (q * (tilted - mean) ** 2).sum(-1, keepdim=True)
        kl = (-mean - log_z).clamp_(min=1e-300)
        return torch.log(kl / wanted), variance / kl

    mean = (nominal * scaled).sum(-1, keepdim=True)
    variance = (nominal * (scaled - mean) ** 2).sum(-1, keepdim=True).clamp_(min=1e-300)
    low = 0.5 * torch.log(8 * wanted)  # values in [0, 1] have a variance of at most 1/4
    start = 0.5 * torch.log(2 * wanted / variance)
    high = torch.full_like(low, 46.0).maximum(low)
    return full, span, torch.exp(increasing_root(excess, low, high, start, tolerance))


@dataclass(frozen=True)
class KL(Divergence):
    """The Kullback–Leibler divergence D = Σ q log(q/p) of the worst case from the nominal.

    The worst case tilts exponentially, q ∝ p·exp(−v/λ); under a penalty λ its value is the entropic risk
    −λ log E exp(−v/λ).
    """

    name = "kl"
    symbol = "KL(q‖p)"

    def ball(self, values: Tensor, nominal: Tensor, radius: Tensor) -> Solution:
        least, gaps = support_gaps(values, nominal)
        full, span, tilt = _tilt(gaps, nominal, radius)
        inside = ~full & (radius > 0)
        log_z, terms = log_partition((tilt * (gaps / span)).clamp_(max=800.0), nominal)
        value = torch.where(inside, -span * (log_z + radius) / tilt, (nominal * gaps).sum(-1, keepdim=True))
        value = least + torch.where(full, 0.0, value)

        def distribution() -> Tensor:
            q = torch.where(inside, terms / terms.sum(-1, keepdim=True), nominal)
            return torch.where(full & (radius > 0), at_lowest(gaps, nominal), q)

        return Solution(value.squeeze(-1), distribution)

    def penalised(self, values: Tensor, nominal: Tensor, penalty: Tensor) -> Solution:
        least, gaps = support_gaps(values, nominal)
        penalty = penalty.clamp(TINY, 1 / TINY)
        log_z, terms = log_partition(gaps / penalty, nominal)
        return Solution((least - penalty * log_z).squeeze(-1), lambda: terms / terms.sum(-1, keepdim=True))

    def plan(self, values: Tensor, sample: Tensor, strength: Tensor | None) -> Plan | None:
        assert strength is not None
        if self.penalty is None:
            if bool((strength == 0).all()):
                return mean_plan(values)
            full, span, tilts = _tilt(support_gaps(values, sample)[1], sample, strength, tolerance=1e-2)
            inside = (~full & (strength > 0)).squeeze(-1)
            return tilt_plan(values, sample[inside], (tilts / span)[inside]) if inside.any() else None
        if len(strength) > 1:
            return None
        least, penalty = values.min(), strength.clamp(TINY, 1 / TINY).squeeze()
        gaps = (values - least) / penalty

        def finish(products: Tensor, _: Tensor, strength: Tensor | None) -> tuple[Tensor, Tensor]:
            small, total = products.unbind(-1)
            log_z = torch.where(small > -0.5, torch.log1p(small), torch.log(total))
            return least - penalty * log_z, total > 1e-280  # else too little is left above the smallest numbers

        return Plan(torch.stack([torch.expm1(-gaps), torch.exp(-gaps)], -1), finish)

    def divergence(self, distribution: Tensor, nominal: Tensor) -> Tensor:
        outside = ((distribution > 0) & (nominal == 0)).any(-1)
        ratio = distribution / torch.where(nominal > 0, nominal, 1.0)
        return torch.where(outside, torch.inf, torch.special.xlogy(distribution, ratio).sum(-1).clamp(min=0))


@dataclass(frozen=True)
class ChiSquare(Divergence):
    """Pearson's χ² divergence D = Σ (q − p)²/p, without the factor ½ that some write.

    The worst case falls linearly in the value until it is zero: q ∝ p·(α − v)₊ for a level α. Within the set of
    outcomes below α everything has a closed form in their mass P, mean m and variance s²; sorting finds the set.
    """

    name = "chi-square"
    aliases = ("chi2",)
    symbol = "χ²(q‖p)"

    def ball(self, values: Tensor, nominal: Tensor, radius: Tensor) -> Solution:
        least, gaps = support_gaps(values, nominal)
        at_least, above = (torch.where(where, nominal, 0.0).sum(-1, keepdim=True) for where in (gaps == 0, gaps > 0))
        full = (radius * at_least >= above) & (radius > 0)  # the ball holds the draw of the lowest alone

        def drawn(level: Tensor, mass: Tensor, first: Tensor, second: Tensor) -> Tensor:
            reach = level * mass - first  # E(α − v)₊; χ² + 1 = E(α − v)₊² / E(α − v)₊² falls as α rises
            return level * reach - (level * first - second) >= (1 + radius) * reach * reach

        p, rest, mean, variance = _below_level(values, gaps, nominal, drawn)
        mass, deviation = p.sum(-1, keepdim=True), variance.sqrt()
        root = (radius * mass - rest).clamp(min=0).sqrt()
        value = least + torch.where(full, 0.0, mean - deviation * root)

        def distribution() -> Tensor:
            slope = root / torch.where(deviation > 0, deviation, torch.inf)
            q = p * (1 - (gaps - mean) * slope).clamp(min=0)
            q = torch.where(radius > 0, q / q.sum(-1, keepdim=True), nominal)
            return torch.where(full, at_lowest(gaps, nominal), q)

        return Solution(value.squeeze(-1), distribution)

    def penalised(self, values: Tensor, nominal: Tensor, penalty: Tensor) -> Solution:
        least, gaps = support_gaps(values, nominal)
        penalty = penalty.clamp(TINY, 1 / TINY)

        def drawn(level: Tensor, mass: Tensor, first: Tensor, _: Tensor) -> Tensor:
            return level * mass - first < 2 * penalty

        p, rest, mean, variance = _below_level(values, gaps, nominal, drawn)
        mass = p.sum(-1, keepdim=True)
        value = least + mean - mass * variance / (4 * penalty) + penalty * rest / mass

        def distribution() -> Tensor:
            q = p * (1 / mass - (gaps - mean) / (2 * penalty)).clamp(min=0)
            return q / q.sum(-1, keepdim=True)

        return Solution(value.squeeze(-1), distribution)

    def plan(self, values: Tensor, sample: Tensor, strength: Tensor | None) -> Plan | None:
        assert strength is not None
        if self.penalty is None and bool((strength == 0).all()):
            return mean_plan(values)
        return chi_square_plan(self.penalty is not None, values, sample, strength)

    def divergence(self, distribution: Tensor, nominal: Tensor) -> Tensor:
        outside = ((distribution > 0) & (nominal == 0)).any(-1)
        terms = (distribution - nominal) ** 2 / torch.where(nominal > 0, nominal, 1.0)
        return torch.where(outside, torch.inf, terms.sum(-1))


def _below_level(
    values: Tensor, gaps: Tensor, nominal: Tensor, drawn: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The nominal below the level of the worst case, the mass left out, and mean and variance of the gaps below it.

    drawn: (a gap, and mass, first and second moment of what lies below it) -> whether the level is at least this high.
    """
    order = values.argsort(-1)
    gap, p = take(gaps, order), take(nominal, order)
    moments = (m.cumsum(-1)[..., :-1] for m in (p, p * gap, p * gap * gap))
    highest = torch.where(drawn(gap[..., 1:], *moments) & (p[..., 1:] > 0), gap[..., 1:], 0.0)
    below = gaps <= torch.nn.functional.pad(highest, (0, 1)).amax(-1, keepdim=True)
    p, rest = torch.where(below, nominal, 0.0), torch.where(below, 0.0, nominal).sum(-1, keepdim=True)
    mass = p.sum(-1, keepdim=True)
    mean = (p * gaps).sum(-1, keepdim=True) / mass
    return p, rest, mean, (p * (gaps - mean) ** 2).sum(-1, keepdim=True) / mass

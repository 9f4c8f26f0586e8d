"""Sets within the nominal's support, because leaving it has an infinite divergence: KL and χ²."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.ambiguity.contract import Plan, Solution
from surefoot.ambiguity.core import Divergence
from surefoot.ambiguity.levels import chi_square_plan
from surefoot.ambiguity.search import increasing_root, lowest, moments, take
from surefoot.ambiguity.shared import mean_plan
from surefoot.ambiguity.tilting import tilt_plan

TINY = 1e-200  # replaces a penalty of zero


def log_partition(gaps: Tensor, nominal: Tensor) -> tuple[Tensor, Tensor]:
    """log E_p exp(−gaps) for gaps ≥ 0, the axis kept, accurate for tiny and for huge gaps; and p·exp(−gaps)."""
    small = (nominal * torch.expm1(-gaps)).sum(-1, keepdim=True)
    terms = nominal * torch.exp(-gaps)
    return torch.where(small > -0.5, torch.log1p(small), torch.log(terms.sum(-1, keepdim=True))), terms


def support_gaps(values: Tensor, nominal: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest value on the support `[..., 1]`, and the gap of each value to it (0 outside the support)."""
    inside = nominal > 0
    least = lowest(values, inside)
    return least, torch.where(inside, values - least, 0.0)


def scaled_gaps(values: Tensor, nominal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The lowest value on the support, the span of the values there (1 if they are equal), and the gap of each
    value to the lowest in this unit, clipped to [0, 1] outside the support."""
    inside = nominal > 0
    least = lowest(values, inside)
    span = torch.where(inside, values, -torch.inf).amax(-1, keepdim=True) - least
    span = torch.where(span > 0, span, 1.0)
    return least, span, ((values - least) / span).clamp_(0.0, 1.0)


def at_lowest(gaps: Tensor, nominal: Tensor) -> Tensor:
    """The nominal conditioned on the lowest value of the support."""
    mass = torch.where(gaps == 0, nominal, 0.0)
    return mass / mass.sum(-1, keepdim=True)


class Exponential(NamedTuple):
    """A distribution q = p·eˣ: its KL divergence from p, the variance of x under it, both `[..., 1]`, and q."""

    kl: Tensor
    variance: Tensor
    q: Tensor


def exponential(x: Tensor, normaliser: Tensor, nominal: Tensor) -> Exponential:
    """p·eˣ with x = x′ − normaliser for x′ ≤ 0, which is overwritten by x.

    KL is the mean of x·eˣ − (eˣ − 1), in which no term is negative: nothing cancels where nearly all mass stays in its
    place and a rare outcome grows by many orders of magnitude. What rounding leaves of it there must not make the slope
    of its logarithm: x²·eˣ is at most 2 + max x times that term, so KL is at least that share of the variance.
    """
    x = x.sub_(normaliser)
    gained = nominal * torch.expm1(x.clamp(max=700.0))  # q − p
    q = nominal + gained
    kl = torch.addcmul(-gained, q, x).sum(-1, keepdim=True)
    variance = (q * (x - kl) ** 2).sum(-1, keepdim=True)
    return Exponential(torch.maximum(kl, variance / (2 - normaliser)).clamp_(min=1e-300), variance, q)


def _tilt(gaps: Tensor, nominal: Tensor, radius: Tensor, tolerance: float = 1e-14) -> tuple[Tensor, Tensor]:
    """Whether the KL ball contains all mass on the lowest value, else the t of its worst case p·exp(−t·gap)."""
    at_least, above = (torch.where(where, nominal, 0.0).sum(-1, keepdim=True) for where in (gaps == 0, gaps > 0))
    total = at_least + above
    full = radius >= torch.log1p(above / at_least)
    inside = ~full & (radius > 0)
    wanted = torch.where(inside, radius, 1.0)

    def excess(log_tilt: Tensor) -> tuple[Tensor, Tensor]:
        """log KL − log radius and its slope: KL grows from t²·Var/2 to −log of the lowest's mass."""
        x = torch.exp(log_tilt) * gaps
        normaliser = torch.log((nominal * torch.exp(-x)).sum(-1, keepdim=True) / total)
        kl, variance, _ = exponential(x.neg_(), normaliser, nominal)
        return torch.log(kl / wanted), variance / kl

    mean = (nominal * gaps).sum(-1, keepdim=True)
    variance = (nominal * (gaps - mean) ** 2).sum(-1, keepdim=True).clamp_(min=1e-300)
    low = 0.5 * torch.log(8 * wanted)  # values in [0, 1] have a variance of at most 1/4
    start = 0.5 * torch.log(2 * wanted / variance)
    high = torch.where(inside, 46.0, low).maximum(low)  # the other rows have no root to wait for
    return full, torch.exp(increasing_root(excess, low, high, start, tolerance))


@dataclass(frozen=True)
class KL(Divergence):
    """The Kullback–Leibler divergence D = Σ q log(q/p) of the worst case from the nominal.

    The worst case tilts exponentially, q ∝ p·exp(−v/λ); under a penalty λ its value is the entropic risk
    −λ log E exp(−v/λ).
    """

    name = "kl"
    symbol = "KL(q‖p)"

    def ball(self, values: Tensor, nominal: Tensor, radius: Tensor) -> Solution:
        least, span, gaps = scaled_gaps(values, nominal)
        full, tilt = _tilt(gaps, nominal, radius)
        inside = ~full & (radius > 0)
        log_z, terms = log_partition(tilt * gaps, nominal)
        value = torch.where(inside, (-(log_z + radius) / tilt).clamp(min=0), (nominal * gaps).sum(-1, keepdim=True))
        value = least + span * torch.where(full & (radius > 0), 0.0, value)

        def distribution() -> Tensor:
            q = torch.where(inside, terms / terms.sum(-1, keepdim=True), nominal)
            return torch.where(full & (radius > 0), at_lowest(gaps, nominal), q)

        return Solution(value.squeeze(-1), distribution)

    def penalised(self, values: Tensor, nominal: Tensor, penalty: Tensor) -> Solution:
        least, span, gaps = scaled_gaps(values, nominal)
        penalty = (penalty / span).clamp(TINY, 1 / TINY)
        log_z, terms = log_partition(gaps / penalty, nominal)
        value = least - span * (penalty * log_z)
        return Solution(value.squeeze(-1), lambda: terms / terms.sum(-1, keepdim=True))

    def plan(self, values: Tensor, sample: Tensor, strength: Tensor | None) -> Plan | None:
        assert strength is not None
        if self.penalty is None:
            if bool((strength == 0).all()):
                return mean_plan(values)
            _, span, gaps = scaled_gaps(values, sample)
            full, tilts = _tilt(gaps, sample, strength, tolerance=1e-2)
            inside = (~full & (strength > 0)).squeeze(-1)
            return tilt_plan(values, sample[inside], (tilts / span)[inside]) if inside.any() else None
        if len(strength) > 1:
            return None
        least, span = values.min(), values.max() - values.min()
        penalty = (strength / span).clamp(TINY, 1 / TINY).squeeze()
        gaps = (values - least) / span / penalty

        def finish(products: Tensor, _: Tensor, strength: Tensor | None) -> tuple[Tensor, Tensor]:
            small, total = products.unbind(-1)
            log_z = torch.where(small > -0.5, torch.log1p(small), torch.log(total))
            return least - span * (penalty * log_z), total > 1e-280  # otherwise the rest is too close to 0

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
        least, span, gaps = scaled_gaps(values, nominal)
        at_least, above = (torch.where(where, nominal, 0.0).sum(-1, keepdim=True) for where in (gaps == 0, gaps > 0))
        full = (radius * at_least >= above) & (radius > 0)  # the ball contains all mass on the lowest

        def drawn(first: Tensor, second: Tensor) -> Tensor:
            return second >= (1 + radius) * first * first  # χ² + 1 = E(α − v)₊² / E²(α − v)₊ falls as α rises

        below = _below(values, gaps, nominal, drawn)
        deviation, root = below.variance.sqrt(), (radius * below.mass - below.rest).clamp(min=0).sqrt()
        value = least + span * torch.where(full, 0.0, (below.mean - deviation * root).clamp(min=0))

        def distribution() -> Tensor:
            slope = root / torch.where(deviation > 0, deviation, torch.inf)
            q = below.nominal * (1 - below.centred * slope).clamp(min=0)
            q = torch.where(radius > 0, q / q.sum(-1, keepdim=True), nominal)
            return torch.where(full, at_lowest(gaps, nominal), q)

        return Solution(value.squeeze(-1), distribution)

    def penalised(self, values: Tensor, nominal: Tensor, penalty: Tensor) -> Solution:
        least, span, gaps = scaled_gaps(values, nominal)
        penalty = (penalty / span).clamp(TINY, 1 / TINY)
        below = _below(values, gaps, nominal, lambda first, _: first < 2 * penalty)
        mass = below.mass
        paid = penalty * below.rest / mass
        value = least + span * (below.mean - mass * below.variance / (4 * penalty) + paid)

        def distribution() -> Tensor:
            q = below.nominal * (1 / mass - below.centred / (2 * penalty)).clamp(min=0)
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


class Below(NamedTuple):
    """The outcomes at or below a level: the nominal there, the mass above, and the moments of the gaps."""

    nominal: Tensor
    rest: Tensor
    mass: Tensor
    mean: Tensor
    centred: Tensor
    variance: Tensor


def _below(values: Tensor, gaps: Tensor, nominal: Tensor, drawn: Callable[[Tensor, Tensor], Tensor]) -> Below:
    """The outcomes below the level of the worst case.

    drawn: (E(α − v)₊ and E(α − v)₊² for the value α of an outcome) -> whether the level is at least this high. Both are
    summed from outcome to outcome, each term positive, so that levels that are nearly equal keep their digits.
    """
    order = values.argsort(-1)
    height = take(gaps, order)
    step = height.diff(dim=-1)
    more = step * take(nominal, order).cumsum(-1)[..., :-1]
    first = more.cumsum(-1)
    second = (step * (2 * first - more)).cumsum(-1)
    highest = torch.where(drawn(first, second), height[..., 1:], 0.0)
    inside = gaps <= torch.nn.functional.pad(highest, (0, 1)).amax(-1, keepdim=True)
    p, rest = torch.where(inside, nominal, 0.0), torch.where(inside, 0.0, nominal).sum(-1, keepdim=True)
    return Below(p, rest, *moments(gaps, p))

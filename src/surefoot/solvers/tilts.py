"""The costs of divergences whose worst case tilts a row: KL by an exponential, reverse KL and Hellinger by a power."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.ambiguity.core import Divergence
from surefoot.ambiguity.divergences import exponential, log_partition, support_gaps
from surefoot.ambiguity.search import increasing_root, lowest
from surefoot.ambiguity.tilts import FLOOR, PowerTilt
from surefoot.solvers.costs import CLOSE, TINY, Cost, Smooth

NOISE = 1e-14  # of a mean: what is less than this beside it, and the square of it in a divergence, is rounding


class Tilted(Smooth):
    """KL: at a price s a row is tilted, q ∝ p·exp(−s·z)."""

    def __init__(self, divergence: Divergence, values: Tensor, nominal: Tensor) -> None:
        least, self.gaps = support_gaps(values, nominal)
        self.nominal, self.least = nominal, least.squeeze(-1)
        self.span = self.gaps.amax(-1)
        mean = (nominal * self.gaps).sum(-1)
        self.mean = self.least + mean
        self.variance = (nominal * (self.gaps - mean.unsqueeze(-1)) ** 2).sum(-1)
        self.at_least = torch.where(self.gaps == 0, nominal, 0.0).sum(-1)

    def _tilt(self, price: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean of the gaps under a tilt, variance of s·gaps, and KL."""
        x = price.unsqueeze(-1) * self.gaps
        log_z, _ = log_partition(x, self.nominal)
        kl, variance, q = exponential(x.neg_(), log_z, self.nominal)
        return (q * self.gaps).sum(-1), variance.squeeze(-1), kl.squeeze(-1)

    def at_price(self, price: Tensor) -> tuple[Tensor, Tensor]:
        _, variance, kl = self._tilt(price)
        return torch.where(price * self.span > 0, kl, 0.0), variance

    def at_value(self, u: Tensor) -> Cost:
        need = self.mean - u
        touched = (need > 0) & (self.span > 0)
        gap = torch.maximum(u - self.least, 1e-14 * self.span)
        low = 4 * need / (self.span * self.span)  # because no variance is above span²/4
        high = 1 / (math.e * self.at_least * gap)  # because E[g·exp(−s·g)] ≤ 1/(e·s)
        start = need / self.variance.clamp(min=TINY)
        low, high, start = (torch.where(touched, torch.log(x), 0.0) for x in (low, high, start))

        def excess(log_price: Tensor) -> tuple[Tensor, Tensor]:
            mean, variance, _ = self._tilt(torch.exp(log_price))
            return gap - mean, torch.exp(-log_price) * variance

        price = torch.exp(increasing_root(excess, low, high.maximum(low), start, CLOSE))
        mean, variance, kl = self._tilt(price)
        spent = (kl + price * (mean - gap)).clamp(min=0)
        bend = price / (variance / price).clamp(min=TINY)
        return Cost(*(torch.where(touched, x, 0.0) for x in (spent, price, bend)))


class Held(NamedTuple):
    """Rows `[B, A]` under a power tilt, values in units of their span."""

    mean: Tensor  # mean of the gaps
    slope: Tensor  # derivative of the mean in log w
    level: Tensor  # log of the power mean of g + w with exponent −k, equal to −log(k·price)
    rise: Tensor  # derivative of the level in log w
    spent: Tensor  # the divergence


class PowerTilted(Smooth):
    """Reverse KL (k = 1) and Hellinger (k = 2): at a price s a row is tilted by a power, q ∝ p·(g + w)^−k.

    In units of the span, g is the gap of an outcome to the lowest allowed one, and w > 0 falls as the price rises:
    k·s = (E (g + w)^−k)^{1/k}. A row without mass on the lowest reaches w = 0 at some price; from there on it is
    q = p·(k·s·g)^−k, and the rest of the mass goes to the lowest.
    """

    def __init__(self, divergence: PowerTilt, values: Tensor, nominal: Tensor) -> None:
        self.divergence, self.nominal, self.power = divergence, nominal, divergence.power
        least = lowest(values, divergence.allowed(nominal))
        gaps = torch.where(nominal > 0, values - least, 0.0)
        self.least, self.span = least.squeeze(-1), gaps.amax(-1)
        self.unit = torch.where(self.span > 0, self.span, 1.0)
        self.gaps = torch.where(nominal > 0, gaps / self.unit.unsqueeze(-1), 1.0)  # what has no mass must stay finite
        self.middle = (nominal * self.gaps).sum(-1)
        self.spread = (nominal * (self.gaps - self.middle.unsqueeze(-1)) ** 2).sum(-1)
        self.variance = self.spread * self.unit**2
        self.mean = self.least + self.unit * self.middle
        self.nearest = lowest(self.gaps, nominal > 0).squeeze(-1)
        self.at_least = torch.where(self.gaps == 0, nominal, 0.0).sum(-1)
        self.end = self.nearest + FLOOR
        y = self.end.unsqueeze(-1) / (self.gaps + FLOOR)  # the tilt at w = 0, or as near to it as doubles allow
        terms = nominal * y**self.power
        self.full = terms.sum(-1)
        self.base = (terms * self.gaps).sum(-1) / self.full  # the mean there
        self.distance = divergence.distance(y / (nominal * y).sum(-1, keepdim=True), nominal)[0].squeeze(-1)

    def _tilt(self, w: Tensor) -> Held:
        w = w.unsqueeze(-1)
        c = self.nearest.unsqueeze(-1) + w
        y = c / (self.gaps + w)
        terms = self.nominal * y**self.power
        total = terms.sum(-1, keepdim=True)
        q, share = terms / total, w * y / c
        mean, rise = ((q * x).sum(-1, keepdim=True) for x in (self.gaps, share))
        slope = self.power * (q * (self.gaps - mean) * (rise - share)).sum(-1, keepdim=True)
        level = torch.log(c) - torch.log(total) / self.power
        distance, _ = self.divergence.distance(y / (self.nominal * y).sum(-1, keepdim=True), self.nominal)
        spent = self.divergence.of_distance(distance).clamp(min=0)
        return Held(*(x.squeeze(-1) for x in (mean, slope.clamp(min=TINY), level, rise, spent)))

    def _spilled(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the divergence of rows with mass moved to the lowest outcome."""
        log_mass = torch.log(self.full) + self.power * (level - torch.log(self.end))
        return self.base * torch.exp(log_mass), self.divergence.of_distance(self.distance - log_mass / self.power)

    def at_price(self, price: Tensor) -> tuple[Tensor, Tensor]:
        k, price = self.power, (price * self.unit).clamp(min=TINY)
        level = -torch.log(k * price)
        spills = level < torch.log(self.end) - torch.log(self.full) / k
        # The power mean of g + w is concave in w, at most w + E g and at most w·P(0)^{-1/k}.
        wanted = torch.exp(level)
        low = torch.stack([wanted - self.middle, wanted * self.at_least ** (1 / k), 1e-18 * self.nearest]).amax(0)
        low = torch.where(spills, level, torch.log(low.clamp(min=FLOOR)).minimum(level))

        def excess(log_w: Tensor) -> tuple[Tensor, Tensor]:
            held = self._tilt(torch.exp(log_w))
            return held.level - level, held.rise

        held = self._tilt(torch.exp(increasing_root(excess, low, level, low, CLOSE)))
        mean, spent = self._spilled(level)
        slope = torch.where(spills, k * mean, torch.where(held.spent > NOISE**2, held.slope / held.rise, 0.0))
        return torch.where(spills, spent, held.spent), price * slope

    def at_value(self, u: Tensor) -> Cost:
        k, need = self.power, (self.mean - u) / self.unit
        touched = (need > 0) & (self.span > 0)
        need = torch.where(touched, need, 1.0)
        gap = torch.where(touched, torch.maximum((u - self.least) / self.unit, torch.tensor(1e-14)), self.middle)
        spills = gap <= self.base
        low = torch.maximum(gap * self.at_least, 1e-18 * self.nearest).clamp(
            min=FLOOR
        )  # because the mean is at most w/P(0)
        high = torch.maximum(self.middle, 8 * self.spread / need.clamp(min=TINY))  # beyond E g it is near E g
        start = k * self.spread / need.clamp(min=TINY)
        searched = touched & ~spills
        low, high, start = (torch.where(searched, torch.log(x.clamp(min=TINY)), 0.0) for x in (low, high, start))

        def excess(log_w: Tensor) -> tuple[Tensor, Tensor]:
            """The log-odds of the mean between its limits, nearly linear in log w."""
            held = self._tilt(torch.exp(log_w))
            above, below = (held.mean - self.base).clamp(min=TINY), (self.middle - held.mean).clamp(min=TINY)
            odds = torch.log(above / (gap - self.base)) - torch.log(below / need)
            steady = (above > NOISE * self.base) & (below > NOISE * self.middle)  # else rounding makes the slope
            return odds, torch.where(steady, held.slope * (self.middle - self.base) / (above * below), 0.0)

        rounding = (4e-16 * torch.maximum(1 / need, self.base / (gap - self.base).clamp(min=TINY))).clamp(CLOSE, 1e-3)
        held = self._tilt(torch.exp(increasing_root(excess, low, high.maximum(low), start, rounding)))
        level = torch.log(self.end) + (torch.log(gap / self.base) - torch.log(self.full)) / k
        price = torch.exp(-torch.where(spills, level, held.level)) / k
        spent = torch.where(spills, self._spilled(level)[1], held.spent + price * (held.mean - gap))
        bend = price * torch.where(spills, 1 / (k * gap), held.rise / held.slope)
        cost = spent.clamp(min=0), price / self.unit, bend / self.unit**2
        return Cost(*(torch.where(touched, x, 0.0) for x in cost))

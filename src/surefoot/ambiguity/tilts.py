"""Reverse KL and Hellinger: the worst case tilts by a power, q ∝ p·(v − η)^−k, k = 1 and 2, for a level η below all v.

Both are finite for mass outside the nominal's support. With `support="all"` and an outcome there that is lower than all
outcomes of the nominal, the level stops at that outcome, and the remaining divergence is spent on mass there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity.contract import Solution
from surefoot.ambiguity.divergences import TINY
from surefoot.ambiguity.moves import Supported
from surefoot.ambiguity.search import increasing_root, lowest
from surefoot.hyperparameters import hyperparameter

FLOOR = 1e-280  # minimum distance of the level from the lowest value, in units of the span of the values
LEAST = torch.finfo(torch.float64).tiny  # minimum probability of an outcome of the nominal under the worst case
RIGID = 1e13  # a penalty of this many spans changes the value by less than its rounding error


@dataclass(frozen=True)
class PowerTilt(Supported):
    """Base of both divergences. In units of the span, g = v − (lowest allowed) and w = (lowest allowed) − η > 0 is
    searched for.

    All is computed from y = c/(g + w), scaled into (0, 1] by the c of the lowest g. A tilt has a distance τ: the
    reverse KL itself, or −log of the Bhattacharyya coefficient. Scaled to a mass s, with the rest outside the support,
    it is τ − log(s)/k.
    """

    power: ClassVar[int]

    def distance(self, ratio: Tensor, nominal: Tensor) -> tuple[Tensor, Tensor]:
        """τ from the ratio y/E_p[y], and dτ/dw in units of E_p[y]/c."""
        raise NotImplementedError

    def of_distance(self, tau: Tensor) -> Tensor:
        """The divergence that corresponds to a distance τ."""
        raise NotImplementedError

    def to_distance(self, divergence: Tensor) -> Tensor:
        """The distance τ that corresponds to a divergence."""
        raise NotImplementedError

    def ball(self, values: Tensor, nominal: Tensor, radius: Tensor) -> Solution:
        span, gaps = self._gaps(values, nominal)
        radius, _ = torch.broadcast_tensors(radius, span)
        inside = radius > 0
        wanted = self.to_distance(torch.where(inside, radius, 0.5))

        def shortage(log_w: Tensor) -> tuple[Tensor, Tensor]:
            """log wanted τ − log τ and its slope: τ falls as the level moves away, like Var(g)/2w² in the end."""
            c, y, mean = _inverse(gaps, log_w, nominal)
            tau, slope = self.distance(y / mean, nominal)
            tau = tau.clamp(min=1e-300)
            return torch.log(wanted / tau), -slope * mean * torch.exp(log_w) / (c * tau)

        middle = (nominal * gaps).sum(-1, keepdim=True)
        variance = (nominal * (gaps - middle) ** 2).sum(-1, keepdim=True)
        low = torch.full_like(wanted, FLOOR).log()
        high = torch.log(0.5 / wanted.sqrt()).maximum(low)  # Kantorovich: τ ≤ 1/4w² for gaps in [0, 1]
        start = torch.log(((variance / (2 * wanted)).sqrt() - middle).clamp(min=FLOOR))
        log_w = increasing_root(shortage, low, high, start)
        _, y, mean = _inverse(gaps, log_w, nominal)
        # At the end of the bracket the tilt is as strong as possible, and the rest of τ moves mass.
        left = torch.where(log_w <= low + 1, wanted - self.distance(y / mean, nominal)[0], 0.0).clamp(min=0)
        tilt = nominal * y**self.power
        tilt = torch.where(inside, tilt / tilt.sum(-1, keepdim=True), nominal)
        return self._solution(values, nominal, tilt, torch.where(inside, -self.power * left, 0.0))

    def penalised(self, values: Tensor, nominal: Tensor, penalty: Tensor) -> Solution:
        span, gaps = self._gaps(values, nominal)
        scaled, _ = torch.broadcast_tensors((penalty / span).clamp(TINY, 1 / TINY), span)
        wanted = torch.log(scaled / self.power)

        def excess(log_w: Tensor) -> tuple[Tensor, Tensor]:
            """log of the power mean of g + w with exponent −k, less log(penalty/k): 0 where the tilt sums to one."""
            c, y, _ = _inverse(gaps, log_w, nominal)
            total = (nominal * y**self.power).sum(-1, keepdim=True)
            steeper = (nominal * y ** (self.power + 1)).sum(-1, keepdim=True)
            return torch.log(c) - torch.log(total) / self.power - wanted, torch.exp(log_w) * steeper / (c * total)

        low = torch.full_like(wanted, FLOOR).log()
        log_w = increasing_root(excess, low, wanted, wanted)
        # If a tilt does not sum to one even at the end of the bracket, mass is left to move.
        log_mass = torch.where(log_w <= low + 1, -self.power * excess(log_w)[0], 0.0).clamp(max=0)
        _, y, mean = _inverse(gaps, log_w, nominal)
        tau = self.distance(y / mean, nominal)[0] - log_mass / self.power
        paid = span * scaled * self.of_distance(tau)
        tilt = nominal * y**self.power
        rigid = scaled >= RIGID
        tilt = torch.where(rigid, nominal, tilt / tilt.sum(-1, keepdim=True))
        return self._solution(values, nominal, tilt, log_mass, torch.where(rigid, 0.0, paid))

    def _gaps(self, values: Tensor, nominal: Tensor) -> tuple[Tensor, Tensor]:
        """The span of the support above the lowest allowed value, and the gaps to that value in this unit."""
        inside = nominal > 0
        gaps = torch.where(inside, values - lowest(values, self.allowed(nominal)), 0.0)
        span = gaps.amax(-1, keepdim=True)
        span = torch.where(span > 0, span, 1.0)
        return span, torch.where(inside, gaps / span, 1.0)  # entries without mass only need to be finite

    def _solution(
        self, values: Tensor, nominal: Tensor, tilt: Tensor, log_mass: Tensor, paid: Tensor | float = 0.0
    ) -> Solution:
        """The tilt with its mass, and the rest of the mass on the lowest allowed outcome."""
        least = lowest(values, self.allowed(nominal))
        q = log_mass.exp() * tilt
        value = least + (q * (values - least)).sum(-1, keepdim=True) + paid

        def distribution() -> Tensor:
            target = torch.where(self.allowed(nominal), values, torch.inf).argmin(-1, keepdim=True)
            rest = -torch.expm1(log_mass)
            # Outcomes of the nominal keep positive probability, or the reverse KL would be infinite.
            made = torch.where(nominal > 0, q.clamp(min=LEAST), q)
            return made.scatter_add(-1, target.expand(rest.shape), rest)

        return Solution(value.squeeze(-1), distribution)


def _inverse(gaps: Tensor, log_w: Tensor, nominal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """c, y = c/(gaps + w) and E_p[y], where c is gaps + w at the lowest gap of the support."""
    w = torch.exp(log_w)
    c = lowest(gaps, nominal > 0) + w
    y = c / (gaps + w)
    return c, y, (nominal * y).sum(-1, keepdim=True)


@dataclass(frozen=True)
class ReverseKL(PowerTilt):
    """The Kullback–Leibler divergence of the nominal from the worst case, D = Σ p log(p/q)."""

    name = "reverse-kl"
    symbol = "KL(p‖q)"
    power = 1

    def distance(self, ratio: Tensor, nominal: Tensor) -> tuple[Tensor, Tensor]:
        u = ratio - 1  # E[u] = 0, so −E log(1 + u) is the mean of u − log(1 + u), in which no term is negative
        logarithm = torch.where(u > -0.5, torch.log1p(u), torch.log(ratio))
        return (nominal * (u - logarithm)).sum(-1, keepdim=True), -(nominal * u * u).sum(-1, keepdim=True)

    def of_distance(self, tau: Tensor) -> Tensor:
        return tau

    def to_distance(self, divergence: Tensor) -> Tensor:
        return divergence

    def divergence(self, distribution: Tensor, nominal: Tensor) -> Tensor:
        terms = torch.special.xlogy(nominal, nominal) - torch.special.xlogy(nominal, distribution)
        return self.within(distribution, nominal, terms.sum(-1).clamp(min=0))


@dataclass(frozen=True)
class Hellinger(PowerTilt):
    """The squared Hellinger distance with the factor ½: D = ½ Σ (√q − √p)² = 1 − Σ √(p·q), between 0 and 1."""

    radius: float | Tensor | np.ndarray | None = hyperparameter(None, low=0, high=1, help="Radius of the ball.")
    name = "hellinger"
    symbol = "H²(q, p)"
    power = 2

    def distance(self, ratio: Tensor, nominal: Tensor) -> tuple[Tensor, Tensor]:
        u = ratio - 1
        square = nominal * u * u
        second = square.sum(-1, keepdim=True)
        third = (square / (1 + second) * u).sum(-1, keepdim=True)  # over 1 + second at once: u³ may be too large
        return 0.5 * torch.log1p(second), second / (1 + second) * (second - 1) - third

    def of_distance(self, tau: Tensor) -> Tensor:
        return -torch.expm1(-tau)

    def to_distance(self, divergence: Tensor) -> Tensor:
        return -torch.log1p(-divergence)

    def divergence(self, distribution: Tensor, nominal: Tensor) -> Tensor:
        return self.within(distribution, nominal, 0.5 * ((distribution.sqrt() - nominal.sqrt()) ** 2).sum(-1))

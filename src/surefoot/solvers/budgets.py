"""Every divergence in the form that shared budgets need (see `costs`)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from surefoot.ambiguity import KL, ChiSquare, Hellinger, LInfinity, ReverseKL, TotalVariation, Wasserstein
from surefoot.ambiguity.core import Divergence
from surefoot.ambiguity.divergences import support_gaps
from surefoot.ambiguity.mixtures import Mixture
from surefoot.ambiguity.moves import filled, pieces
from surefoot.ambiguity.search import increasing_root, lowest, take
from surefoot.ambiguity.transport import hull_edges
from surefoot.solvers.costs import CLOSE, TINY, Cost, Family, Smooth
from surefoot.solvers.tilts import PowerTilted, Tilted

STEP = 1e-6  # relative step of a price for finite differences
ROOM = 1 << 19  # distances times outcomes per block for L∞


def family(divergence: Divergence, values: Tensor, nominal: Tensor) -> Family:
    """The rows `[B, A, K]` of outcomes worth `values`, which broadcast, in the form for their divergence."""
    if isinstance(divergence, (TotalVariation, LInfinity, Wasserstein, Mixture)):
        return moves(divergence, values, nominal)
    kinds = {KL: Tilted, ReverseKL: PowerTilted, Hellinger: PowerTilted, ChiSquare: Cut}
    return kinds.get(type(divergence), Priced)(divergence, values, nominal)


# --- piecewise linear: mass is moved, the best move first ------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Moves:
    """Moves `[B, A, E]` of every row, the best first: the gain per unit of divergence, and the amount available."""

    mean: Tensor
    rate: Tensor
    amount: Tensor

    @property
    def least(self) -> Tensor:
        return self.mean - self._brought[..., -1]

    @cached_property
    def _brought(self) -> Tensor:
        return (self.rate * self.amount).cumsum(-1)

    @cached_property
    def _spent(self) -> Tensor:
        return self.amount.cumsum(-1)

    def at_value(self, u: Tensor) -> Cost:
        need = torch.minimum(self.mean - u, self._brought[..., -1])
        move = torch.searchsorted(self._brought, need.unsqueeze(-1))  # the move that reaches the value
        spent, brought, rate = (x.gather(-1, move).squeeze(-1) for x in (self._spent, self._brought, self.rate))
        price = torch.where(need >= 0, 1 / rate.clamp(min=TINY), 0.0)
        spent = torch.where(need > 0, spent - (brought - need) * price, 0.0).clamp(min=0)
        return Cost(spent, price, torch.zeros_like(price))

    def bought(self, policy: Tensor, budget: Tensor) -> Tensor:
        rate = (policy.unsqueeze(-1) * self.rate).flatten(1)
        order = rate.argsort(dim=-1, descending=True, stable=True)
        spent = filled(self.amount.flatten(1).gather(-1, order), budget)
        return torch.zeros_like(spent).scatter_(-1, order, spent).view_as(self.amount).sum(-1)


def moves(divergence: Divergence, values: Tensor, nominal: Tensor) -> Moves:
    """The moves of total variation, L1, L∞, transport and mixtures."""
    mean = (nominal * values).sum(-1)
    if isinstance(divergence, Mixture):
        worst, _ = divergence.worst_of_all(values, nominal)
        rate = (mean.unsqueeze(-1) - worst).clamp(min=0)
        return Moves(mean, rate, (rate > 0).to(rate.dtype))
    if isinstance(divergence, Wasserstein):
        start, edges = hull_edges(values, divergence.cost.to(values), divergence.allowed(nominal))
        rest = (nominal * torch.take_along_dim(values.expand(start.shape), start, -1)).sum(-1)
        rate, amount = edges.rate.flatten(-2), (nominal.unsqueeze(-2) * edges.cost).flatten(-2)
        order = rate.argsort(dim=-1, descending=True, stable=True)
        rate, amount = (torch.nn.functional.pad(x.gather(-1, order), (0, 1)) for x in (rate, amount))
        return Moves(rest, rate, amount)
    if isinstance(divergence, LInfinity):
        order = values.argsort(-1)
        sorted_ = (take(x, order).expand_as(nominal) for x in (values, nominal, divergence.allowed(nominal)))
        rows = zip(*(x.flatten(0, 1).split(max(1, ROOM // nominal.shape[-1] ** 2)) for x in sorted_))
        amount, rate = (torch.cat(x).view(*nominal.shape[:2], -1) for x in zip(*(pieces(*one) for one in rows)))
        return Moves(mean, rate, amount)
    assert isinstance(divergence, TotalVariation)
    order = values.argsort(-1, descending=True)
    rate = take(values, order) - lowest(values, divergence.allowed(nominal))
    return Moves(mean, rate.clamp(min=0).expand_as(nominal) / divergence.times, divergence.times * take(nominal, order))


# --- χ², and divergences known by their penalty ----------------------------------------------------------------------


class Cut(Smooth):
    """χ²: held at a price s a row is q = p·(1/P + s/2·(m − z)) on the outcomes below a level, of mass P and mean m."""

    def __init__(self, divergence: Divergence, values: Tensor, nominal: Tensor) -> None:
        least, gaps = support_gaps(values, nominal)
        self.least, self.span = least.squeeze(-1), gaps.amax(-1)
        order = torch.where(nominal > 0, gaps, torch.inf).argsort(-1)
        gap, p = gaps.gather(-1, order), nominal.gather(-1, order)
        mass, first = p.cumsum(-1), (p * gap).cumsum(-1)
        above = torch.nn.functional.pad(p.flip(-1).cumsum(-1).flip(-1)[..., 1:], (0, 1))  # 1 − mass, without noise
        # At the level of each outcome E(level − gap)₊ is its reach; the outcomes below have this mean and price
        # under the worst case. All sums, of mass·variance too, go from outcome to outcome, and no term is negative.
        step, before = gap.diff(dim=-1), mass[..., :-1]
        reach, weighted = (
            torch.nn.functional.pad((step * moment[..., :-1]).cumsum(-1), (1, 0)) for moment in (mass, first)
        )
        spread = reach[..., 1:] / before * reach[..., 1:] * (p / mass)[..., 1:]
        self.below = above / mass, first / mass, torch.nn.functional.pad(spread.cumsum(-1), (1, 0))
        self.mean, self.variance = self.least + first[..., -1], self.below[2][..., -1]
        outside = p == 0
        self.level_price = torch.where(outside | (reach <= 0), torch.where(outside, 0.0, torch.inf), 2 / reach)
        self.level_mean = torch.where(reach > 0, weighted / reach, 0.0).masked_fill(outside, torch.inf)
        self.level_mean = self.level_mean.cummax(-1).values

    def _below(self, index: Tensor) -> list[Tensor]:
        """The cost of restriction to the outcomes up to an index `[B, A]`, their mean, and mass·variance."""
        return [x.gather(-1, index.unsqueeze(-1)).squeeze(-1) for x in self.below]

    def at_price(self, price: Tensor) -> tuple[Tensor, Tensor]:
        index = (self.level_price >= price.unsqueeze(-1)).sum(-1).clamp(min=1) - 1
        cut, _, spread = self._below(index)
        paid = 0.25 * price * spread * price
        return cut + paid, 2 * paid

    def at_value(self, u: Tensor) -> Cost:
        touched = (u < self.mean) & (self.span > 0)
        gap = torch.where(touched, u - self.least, 0.0)
        index = (self.level_mean <= gap.unsqueeze(-1)).sum(-1).clamp(min=1) - 1
        cut, mean, spread = self._below(index)
        lowered = (mean - gap).clamp(min=0)
        half = lowered / spread.clamp(min=TINY)
        spent = cut + half * lowered
        return Cost(*(torch.where(touched, x, 0.0) for x in (spent, 2 * half, 2 / spread.clamp(min=TINY))))


class Priced(Smooth):
    """Any divergence with a penalty form: the price s is found by search, and ξ = s·(min { q·z + D/s } − u)."""

    def __init__(self, divergence: Divergence, values: Tensor, nominal: Tensor) -> None:
        self.divergence, self.nominal = divergence, nominal
        none = torch.full_like(nominal[..., :1], 1e-200)
        self.least = divergence.penalised(values.expand_as(nominal), nominal, none).value
        self.gaps = values - self.least.unsqueeze(-1)
        self.span = (nominal * self.gaps).sum(-1).clamp(min=0)
        self.mean = self.least + self.span
        self.variance = (nominal * (self.gaps - self.span.unsqueeze(-1)) ** 2).sum(-1)

    def _held(self, price: Tensor) -> tuple[Tensor, Tensor]:
        """The divergence of the rows at given prices, and their values above the lowest."""
        solved = self.divergence.penalised(self.gaps, self.nominal, 1 / price.clamp(min=TINY).unsqueeze(-1))
        q = solved.distribution()
        return self.divergence.divergence(q, self.nominal), (q * self.gaps).sum(-1)

    def _slope(self, price: Tensor, mean: Tensor) -> Tensor:
        """The rate at which a row falls with the logarithm of its price, by a difference quotient, for Newton steps."""
        return ((mean - self._held(price * (1 + STEP))[1]) / STEP).clamp(min=0)

    def at_price(self, price: Tensor) -> tuple[Tensor, Tensor]:
        spent, mean = self._held(price)
        return spent, price * self._slope(price, mean)

    def at_value(self, u: Tensor) -> Cost:
        touched = (u < self.mean) & (self.span > 0)
        gap = u - self.least
        low, high = (torch.where(touched, bound, 0.0) for bound in self.prices())

        def excess(log_price: Tensor) -> tuple[Tensor, Tensor]:
            price = torch.exp(log_price)
            mean = self._held(price)[1]
            return gap - mean, self._slope(price, mean)

        start = torch.where(touched, torch.log((self.mean - u) / self.variance.clamp(min=TINY)), 0.0)
        price = torch.exp(increasing_root(excess, low, high, start, CLOSE))
        spent, mean = self._held(price)
        missed = mean - gap
        missed = torch.where(missed.abs() > 1e-15 * (self.span + u.abs()), missed, 0.0)  # less is rounding
        spent = (spent + price * missed).clamp(min=0)
        slope = self._slope(price, mean)
        bend = torch.where(slope > 1e-8 * self.span, price / slope, 0.0)  # a smaller one may be rounding
        return Cost(*(torch.where(touched, x, 0.0) for x in (spent, price, bend)))

"""The adversary's cost of lowering a row to a value: the divergences in the form that shared budgets need.

For a row p with outcomes worth z, and a divergence D, this is

    ξ(u) = min { D(q‖p) : q·z ≤ u },      s(u) = −ξ′(u) ≥ 0,

convex and decreasing from the lowest attainable value to the mean, 0 from there on. If a unit of value is worth s units
of divergence (its price), the adversary minimises q·z + D/s for a row. Each family of rows gives the cost of a value
and the best use of a budget. All tensors are `[B, A]` for rows `[B, A, K]`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from surefoot.ambiguity.search import increasing_root

TINY = 1e-300
CLOSE = 1e-12  # relative accuracy of a price; cost and gain are accurate to its square


class Cost(NamedTuple):
    """ξ, its slope s and −s′, the rate at which s falls with the value (0 if unknown)."""

    spent: Tensor
    price: Tensor
    bend: Tensor


class Family(Protocol):
    """The rows of some states under one divergence."""

    @property
    def mean(self) -> Tensor:
        """The nominal values of the rows."""
        ...

    @property
    def least(self) -> Tensor:
        """The lowest attainable value."""
        ...

    def at_value(self, u: Tensor) -> Cost:
        """The cost of lowering the rows to values u `[B, 1]`, none below `least`."""
        ...

    def bought(self, policy: Tensor, budget: Tensor) -> Tensor:
        """The worst allocation `[B, A]` of a budget `[B, 1]` for rows weighted by a policy `[B, A]`."""
        ...


class Smooth:
    """Base of families whose divergence at a price is known: a budget is spent at one price for all rows."""

    mean: Tensor
    least: Tensor
    span: Tensor
    variance: Tensor  # of the values under the nominal

    def at_price(self, price: Tensor) -> tuple[Tensor, Tensor]:
        """ξ of the rows at prices `[B, A]`, and its slope in the logarithm of the price."""
        raise NotImplementedError

    def bought(self, policy: Tensor, budget: Tensor) -> Tensor:
        """A row of weight π has the price π·s, with one s per state."""
        wanted = budget.clamp(min=TINY)

        def excess(log_price: Tensor) -> tuple[Tensor, Tensor]:
            spent, slope = self.at_price(policy * torch.exp(log_price))
            bought, rise = (x.sum(-1, keepdim=True) for x in (spent, slope))
            total = bought.clamp(min=TINY)  # where rounding leaves 0, the slope is meaningless too
            return torch.log(total / wanted), torch.where(bought > 0, rise / total, 0.0)

        # D is at most its gain at its price, hence at most π·s·span, and near the nominal about (π·s)²·Var/2.
        low = torch.log(wanted / (policy * self.span).sum(-1, keepdim=True).clamp(min=TINY))
        near = 0.5 * torch.log(2 * wanted / (policy**2 * self.variance).sum(-1, keepdim=True).clamp(min=TINY))
        high = self.prices()[1].maximum(low)
        price = increasing_root(excess, low, high, near, CLOSE)
        # The amount may jump at a price; then all parts of the jump are equally bad, and the budget limits them.
        around = 10 * CLOSE * (1 + price.abs())
        less, more = (self.at_price(policy * torch.exp(price + side))[0] for side in (-around, around))
        left = budget - less.sum(-1, keepdim=True)
        return less + (more - less) * (left / (more - less).sum(-1, keepdim=True).clamp(min=TINY)).clamp(0, 1)

    def prices(self) -> tuple[Tensor, Tensor]:
        """Logarithms `[B, 1]` of a price so low that almost nothing is spent, and of one so high that all is spent."""
        span = self.span.amax(-1, keepdim=True)
        span = torch.where(span > 0, span, 1.0)
        return torch.log(1e-12 / span), torch.log(1e40 / span)

"""What it costs the adversary to bring a row down to a value: the divergences in the form that shared budgets need.

For a row p with outcomes worth z, and a divergence D, this is

    ξ(u) = min { D(q‖p) : q·z ≤ u },      s(u) = −ξ′(u) ≥ 0,

convex and falling from the lowest value in reach up to the mean, 0 from there on. Where a unit of value is worth s
units of divergence, the price of it, a row is held where q·z + D/s is least. Each family of rows says what a value
costs, and what a budget buys. All tensors are `[B, A]` for rows `[B, A, K]`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from surefoot.ambiguity.search import increasing_root

TINY = 1e-300
CLOSE = 1e-12  # how well a price is found, relatively; what is spent and gained is right to the square of it


class Cost(NamedTuple):
    """ξ, its slope s and how fast s falls with the value, −s′ (0 where that is not known)."""

    spent: Tensor
    price: Tensor
    bend: Tensor


class Family(Protocol):
    """The rows of some states under one divergence."""

    @property
    def mean(self) -> Tensor:
        """What they are worth untouched."""
        ...

    @property
    def least(self) -> Tensor:
        """The lowest value in reach."""
        ...

    def at_value(self, u: Tensor) -> Cost:
        """What it costs to bring the rows down to values u `[B, 1]` that are at least all of `least`."""
        ...

    def bought(self, policy: Tensor, budget: Tensor) -> Tensor:
        """The share `[B, A]` of a budget `[B, 1]` that hurts most when the rows are weighed by a policy `[B, A]`."""
        ...


class Smooth:
    """Base of families whose purchase at a price is known: a budget is bought at the one price at which it is spent."""

    mean: Tensor
    least: Tensor
    span: Tensor
    variance: Tensor  # of the values under the nominal

    def at_price(self, price: Tensor) -> tuple[Tensor, Tensor]:
        """ξ where the rows are held at prices `[B, A]`, and its slope in the logarithm of the price."""
        raise NotImplementedError

    def bought(self, policy: Tensor, budget: Tensor) -> Tensor:
        """A row of weight π is held at the price π·s, for one s in a state."""
        wanted = budget.clamp(min=TINY)

        def excess(log_price: Tensor) -> tuple[Tensor, Tensor]:
            spent, slope = self.at_price(policy * torch.exp(log_price))
            bought, rise = (x.sum(-1, keepdim=True) for x in (spent, slope))
            total = bought.clamp(min=TINY)  # where rounding leaves nothing, the slope beside it says nothing either
            return torch.log(total / wanted), torch.where(bought > 0, rise / total, 0.0)

        # D is at most what it gains at its price, hence no more than π·s·span, and near the nominal about (π·s)²·Var/2.
        low = torch.log(wanted / (policy * self.span).sum(-1, keepdim=True).clamp(min=TINY))
        near = 0.5 * torch.log(2 * wanted / (policy**2 * self.variance).sum(-1, keepdim=True).clamp(min=TINY))
        high = self.prices()[1].maximum(low)
        price = increasing_root(excess, low, high, near, CLOSE)
        # What is bought may jump at a price; then every share of the jump hurts alike, and the budget says how much.
        around = 10 * CLOSE * (1 + price.abs())
        less, more = (self.at_price(policy * torch.exp(price + side))[0] for side in (-around, around))
        left = budget - less.sum(-1, keepdim=True)
        return less + (more - less) * (left / (more - less).sum(-1, keepdim=True).clamp(min=TINY)).clamp(0, 1)

    def prices(self) -> tuple[Tensor, Tensor]:
        """Logarithms `[B, 1]` of a price so low that it buys hardly anything, and of one so high that it buys all."""
        span = self.span.amax(-1, keepdim=True)
        span = torch.where(span > 0, span, 1.0)
        return torch.log(1e-12 / span), torch.log(1e40 / span)

"""Sets whose worst case moves mass from outcome to outcome, found by sorting: total variation, L1, L∞, contamination.

With `support="all"` mass may go to any outcome, with `"nominal"` only to those that the nominal can produce.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity.core import Divergence, Solution
from surefoot.ambiguity.search import lowest, take, untake
from surefoot.hyperparameters import hyperparameter

Support = Literal["all", "nominal"]
SUPPORT_HELP = "Where mass may go: to all outcomes, or only to those the nominal can produce."


def filled(capacity: Tensor, amount: Tensor) -> Tensor:
    """`amount` `[..., 1]` poured along the last axis, each place taking at most its capacity, the first ones first."""
    before = capacity.cumsum(-1) - capacity
    return torch.minimum((amount - before).clamp_(min=0), capacity)


@dataclass(frozen=True)
class Supported(Divergence):
    """A divergence that is finite for mass outside the nominal's support."""

    support: str = hyperparameter("all", choices=("all", "nominal"), help=SUPPORT_HELP)

    def allowed(self, nominal: Tensor) -> Tensor:
        """Where the worst case may have mass."""
        return torch.ones_like(nominal, dtype=torch.bool) if self.support == "all" else nominal > 0

    def within(self, distribution: Tensor, nominal: Tensor, divergence: Tensor) -> Tensor:
        """`divergence`, infinite where mass is on a forbidden outcome."""
        outside = ((distribution > 0) & ~self.allowed(nominal)).any(-1)
        return torch.where(outside, torch.inf, divergence)


def moved(values: Tensor, nominal: Tensor, allowed: Tensor, taken: Tensor, paid: Tensor | float = 0.0) -> Solution:
    """The mass `taken` `[..., n]` of the nominal moved to the lowest allowed outcome, for a price `paid` `[..., 1]`."""
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

    def ball(self, values: Tensor, nominal: Tensor, radius: Tensor) -> Solution:
        order = values.argsort(-1, descending=True)
        taken = untake(filled(take(nominal, order), radius), order)
        return moved(values, nominal, self.allowed(nominal), taken)

    def penalised(self, values: Tensor, nominal: Tensor, penalty: Tensor) -> Solution:
        """E_p min(v, v_min + penalty): what lies more than the price of moving it above the lowest is moved."""
        allowed = self.allowed(nominal)
        least = lowest(values, allowed)
        taken = torch.where(values > least + penalty, nominal, 0.0)
        # What lies that high has penalty < inf, so the price of moving nothing is 0 and not inf·0.
        price = torch.where(taken > 0, penalty, 0.0)
        return moved(values, nominal, allowed, taken, (price * taken).sum(-1, keepdim=True))

    def divergence(self, distribution: Tensor, nominal: Tensor) -> Tensor:
        return self.within(distribution, nominal, 0.5 * (distribution - nominal).abs().sum(-1))


@dataclass(frozen=True)
class L1(TotalVariation):
    """The L1 distance D = Σ|q − p|, **twice** the total variation, between 0 and 2."""

    name = "l1"
    aliases = ()
    symbol = "‖q−p‖₁"

    def ball(self, values: Tensor, nominal: Tensor, radius: Tensor) -> Solution:
        return super().ball(values, nominal, 0.5 * radius)

    def penalised(self, values: Tensor, nominal: Tensor, penalty: Tensor) -> Solution:
        return super().penalised(values, nominal, 2 * penalty)

    def divergence(self, distribution: Tensor, nominal: Tensor) -> Tensor:
        return 2 * super().divergence(distribution, nominal)


@dataclass(frozen=True)
class Contamination(Supported):
    """The share R of the draws that comes from anywhere: q = (1−R)·p + R·anything; D = 1 − min_j q_j/p_j."""

    radius: float | Tensor | np.ndarray | None = hyperparameter(None, low=0, high=1, help="Share of the draws.")
    name = "contamination"
    symbol = "R(q, p)"

    def ball(self, values: Tensor, nominal: Tensor, radius: Tensor) -> Solution:
        return moved(values, nominal, self.allowed(nominal), radius * nominal)

    def penalised(self, values: Tensor, nominal: Tensor, penalty: Tensor) -> Solution:
        """All or nothing: the gain and the price are both linear in the share."""
        allowed = self.allowed(nominal)
        worth = (nominal * (values - lowest(values, allowed))).sum(-1, keepdim=True) > penalty
        return moved(values, nominal, allowed, worth * nominal, torch.where(worth, penalty, 0.0))

    def divergence(self, distribution: Tensor, nominal: Tensor) -> Tensor:
        ratio = torch.where(nominal > 0, distribution / nominal, torch.inf).amin(-1)
        return self.within(distribution, nominal, (1 - ratio).clamp(min=0))

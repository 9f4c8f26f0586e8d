"""The ellipsoid with given axes: a weighted Euclidean distance, solved by water-filling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.ambiguity.arrays import tensor
from surefoot.ambiguity.contract import Solution
from surefoot.ambiguity.divergences import TINY
from surefoot.ambiguity.moves import Supported
from surefoot.ambiguity.search import increasing_root, lowest, take
from surefoot.errors import UsageError


def _wet(bottom: Tensor, width: Tensor) -> Tensor:
    """Which basins `[..., n]` get wet when one unit of water stands over all of them at one level."""
    order = bottom.argsort(-1)
    b, w = take(bottom, order), take(width, order)
    needed = b * w.cumsum(-1) - (w * b).cumsum(-1)  # water needed to raise the level to each bottom
    return (bottom <= torch.where(needed < 1, b, -torch.inf).amax(-1, keepdim=True)) & (width > 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ellipsoid(Supported):
    """The ellipsoid D = Σ (q − p)²/w with positive weights w `[..., n]`: the squares of its half-axes at radius 1.

    w = p is the χ² divergence, w = 1 (the default) the squared Euclidean distance, variances of estimated
    probabilities make it a confidence set of their moments. The worst case is the projection of p − t·w·v onto the
    simplex, q = (p + t·w·(η − v))₊, for a step t: 1/2λ under a penalty λ, found by search for a ball.
    """

    weights: Tensor | None = None
    name = "ellipsoid"
    aliases = ("l2",)
    symbol = "Σ(q−p)²/w"

    def __post_init__(self) -> None:
        if self.weights is not None:
            object.__setattr__(self, "weights", tensor(self.weights, "Ellipsoid: weights", torch.float64))
        super().__post_init__()
        if self.weights is not None and not ((self.weights > 0) & torch.isfinite(self.weights)).all():
            raise UsageError(
                f"Ellipsoid: the least of the weights is {self.weights.min().item():g}; they must be positive and "
                "finite. Use support='nominal' for outcomes that must stay impossible."
            )

    @property
    def outcomes(self) -> int | None:
        return None if self.weights is None else self.weights.shape[-1]

    @property
    def leading(self) -> torch.Size:
        return torch.Size() if self.weights is None else self.weights.shape[:-1]

    def ball(self, values: Tensor, nominal: Tensor, radius: Tensor) -> Solution:
        gaps, _, width = self._gaps(values, nominal)
        end, _ = _projected(gaps, nominal, width, torch.full_like(radius, 1 / TINY))
        full = (radius >= _distance(end, nominal, width)) & (radius > 0)
        inside = ~full & (radius > 0)
        wanted = torch.where(inside, radius, 1.0)

        def excess(log_step: Tensor) -> tuple[Tensor, Tensor]:
            """log D − log radius: D is quadratic in the step while the same outcomes have mass."""
            step = torch.exp(log_step)
            q, spread = _projected(gaps, nominal, width, step)
            distance = _distance(q, nominal, width).clamp(min=1e-300)
            return torch.log(distance / wanted), 2 * step * step * spread / distance

        _, spread = _weighted(gaps, width)
        low = 0.5 * torch.log(wanted / spread.clamp(min=1e-300))  # a projection does not increase distances
        at_lowest = torch.where(gaps == 0, width, 0.0).sum(-1, keepdim=True)
        over = (gaps > 0) & (width > 0)
        emptied = torch.where(over, nominal / width + 1 / at_lowest, 0.0) / torch.where(over, gaps, 1.0)
        high = torch.log(emptied.amax(-1, keepdim=True).clamp(min=1e-300)).maximum(low)
        q, _ = _projected(gaps, nominal, width, torch.exp(increasing_root(excess, low, high, low)))
        q = torch.where(full, end, torch.where(inside, q, nominal))
        return Solution((q * values).sum(-1), lambda: q)

    def penalised(self, values: Tensor, nominal: Tensor, penalty: Tensor) -> Solution:
        gaps, span, width = self._gaps(values, nominal)
        penalty = (penalty / span).clamp(TINY, 1 / TINY)
        q, _ = _projected(gaps, nominal, width, 0.5 / penalty)
        paid = (span * (penalty * _distance(q, nominal, width))).squeeze(-1)
        return Solution((q * values).sum(-1) + paid, lambda: q)

    def divergence(self, distribution: Tensor, nominal: Tensor) -> Tensor:
        weights = torch.ones_like(nominal) if self.weights is None else self.weights.to(nominal)
        return self.within(distribution, nominal, _distance(distribution, nominal, weights).squeeze(-1))

    def _gaps(self, values: Tensor, nominal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gaps of the allowed values to their lowest in units of their span, the span (1 if they are equal), and
        the weights, 0 where no mass is allowed."""
        allowed = self.allowed(nominal)
        width = allowed.to(values.dtype) if self.weights is None else self.weights.to(values) * allowed
        gaps = torch.where(allowed, values - lowest(values, allowed), 0.0)
        span = gaps.amax(-1, keepdim=True)
        span = torch.where(span > 0, span, 1.0)
        return gaps / span, span, width


def _weighted(gaps: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the gaps by their weights, and the weighted sum of their squared deviations from it."""
    mean = (width * gaps).sum(-1, keepdim=True) / width.sum(-1, keepdim=True)
    return mean, (width * (gaps - mean) ** 2).sum(-1, keepdim=True)


def _distance(q: Tensor, nominal: Tensor, width: Tensor) -> Tensor:
    return ((q - nominal) ** 2 / torch.where(width > 0, width, 1.0)).sum(-1, keepdim=True)


def _projected(gaps: Tensor, nominal: Tensor, width: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """The projection of p − step·w·gaps onto the simplex, and the spread of the gaps where it has mass."""
    wet = _wet(step * gaps - nominal / torch.where(width > 0, width, 1.0), width)
    width = torch.where(wet, width, 0.0)
    mean, spread = _weighted(gaps, width)
    freed = torch.where(wet, 0.0, nominal).sum(-1, keepdim=True) / width.sum(-1, keepdim=True)
    q = torch.where(wet, nominal + width * (freed - step * (gaps - mean)), 0.0).clamp(min=0)
    return q, spread

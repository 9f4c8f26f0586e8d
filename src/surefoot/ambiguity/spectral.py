"""Spectral risks: the weight of an outcome depends on its probability and its rank alone.

The i-th lowest outcome gets the weight Φ(p₁ + … + p_i) − Φ(p₁ + … + p_{i−1}), where Φ rises from 0 to 1. A risk is
coherent if Φ is concave, that is, if lower ranks weigh at least as much as higher ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.ambiguity.contract import Plan, Solution
from surefoot.ambiguity.core import Ambiguity
from surefoot.ambiguity.levels import LOWEST_SHARE, level_plan
from surefoot.ambiguity.search import take, untake
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter


@dataclass(frozen=True)
class Distortion(Ambiguity):
    """Base of spectral risks, each defined by its Φ."""

    def cumulative(self, share: Tensor) -> Tensor:
        """Φ: the weight of the lowest `share` of the draws."""
        raise NotImplementedError

    def solve(self, values: Tensor, nominal: Tensor, strength: Tensor | None) -> Solution:
        order = values.argsort(-1)
        share = take(nominal, order).cumsum(-1)
        share = share / share[..., -1:]
        weights = self.cumulative(torch.nn.functional.pad(share, (1, 0))).diff(dim=-1)
        value = (weights * take(values, order)).sum(-1)
        return Solution(value, lambda: untake(weights, order))


def _between(share: Tensor, low: float, high: float) -> Tensor:
    """How much of the interval of shares (low, high] the lowest `share` covers; of a point, whether it is reached."""
    if high > low:
        return ((share - low) / (high - low)).clamp(0, 1)
    return (share > high * (1 - 1e-12) if high > 0 else share > 0).to(share.dtype)


@dataclass(frozen=True)
class CVaR(Distortion):
    """Conditional value at risk: the mean of the lowest share α of the draws; 1 is the mean, 0 the lowest outcome.

    Its set is {q ≤ p/α}. What some texts call the CVaR of a loss at level 0.9 is `CVaR(0.1)` with `maximise=True`.
    """

    level: float = hyperparameter(0.1, low=0, high=1, help="α: share of the lowest draws to average.")
    name = "cvar"
    formula = "CVaR_{level}"

    def cumulative(self, share: Tensor) -> Tensor:
        return _between(share, 0, self.level)

    def plan(self, values: Tensor, sample: Tensor, strength: Tensor | None) -> Plan | None:
        lowest, span = values.min(), values.max() - values.min()
        level = values.new_full((1, 1), self.level)
        return level_plan(
            LOWEST_SHARE, values, sample, None, lambda _: level, lambda found, *_: lowest + span * found / level
        )


@dataclass(frozen=True)
class VaR(Distortion):
    """Value at risk: the lower α-quantile, the least x with P(v ≤ x) ≥ α. Not superadditive."""

    level: float = hyperparameter(0.1, above=0, high=1, help="α: level of the quantile.")
    name = "var"
    formula = "VaR_{level}"

    def cumulative(self, share: Tensor) -> Tensor:
        return _between(share, self.level, self.level)


@dataclass(frozen=True)
class MeanCVaR(Distortion):
    """(1 − w)·mean + w·CVaR_α."""

    level: float = hyperparameter(0.1, low=0, high=1, help="α: level of the CVaR.")
    weight: float = hyperparameter(0.5, low=0, high=1, help="w: weight of the CVaR.")
    name = "mean-cvar"
    formula = "(1−{weight})·E v + {weight}·CVaR_{level}"

    def cumulative(self, share: Tensor) -> Tensor:
        return torch.lerp(share, _between(share, 0, self.level), self.weight)


@dataclass(frozen=True)
class MixedVaR(Distortion):
    """Mixed value at risk (RiskPO, arXiv:2510.00911): (w·RVaR_{0:a} + RVaR_{a:b})/(1 + w).

    RVaR_{a:b} is the mean of the draws between the shares a and b, so the best 1 − b of them do not count. Not
    superadditive where the lowest draws weigh less than the middle ones, w/a < 1/(b − a).
    """

    low: float = hyperparameter(0.2, low=0, high=1, help="a: draws below this share are the tail.")
    high: float = hyperparameter(0.8, low=0, high=1, help="b: draws above this share do not count.")
    weight: float = hyperparameter(1.5, low=0, help="w: weight of the tail relative to the middle.")
    name = "mixed-var"
    formula = "({weight}·RVaR_0:{low} + RVaR_{low}:{high}) / (1+{weight})"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise UsageError(f"MixedVaR: low={self.low} is above high={self.high}; give low <= high.")

    def cumulative(self, share: Tensor) -> Tensor:
        tail, middle = _between(share, 0, self.low), _between(share, self.low, self.high)
        return (self.weight * tail + middle) / (1 + self.weight)


@dataclass(frozen=True)
class Extremile(Distortion):
    """The extremile of order r: the mean of the least of r draws, Φ(u) = 1 − (1 − u)^r; order 1 is the mean."""

    order: float = hyperparameter(2.0, low=1, help="r: number of draws whose minimum is taken.")
    name = "extremile"
    formula = "E min of {order} draws"

    def cumulative(self, share: Tensor) -> Tensor:
        return -torch.expm1(self.order * torch.log1p(-share))


@dataclass(frozen=True)
class ExponentialSpectral(Distortion):
    """The exponential spectral risk (ESRM) of rate ρ: Φ(u) = (1 − e^−ρu)/(1 − e^−ρ); a rate near 0 gives the mean."""

    rate: float = hyperparameter(1.0, above=0, help="ρ: how fast weights fall with the rank.")
    name = "exponential-spectral"
    aliases = ("esrm",)
    formula = "ESRM_{rate}"

    def cumulative(self, share: Tensor) -> Tensor:
        return torch.expm1(-self.rate * share) / torch.expm1(torch.tensor(-self.rate, dtype=share.dtype)).item()


@dataclass(frozen=True)
class Spectral(Distortion):
    """Any spectrum as K steps of equal width: `spectrum[k]` is the weight of the draws between the shares k/K and
    (k+1)/K, the lowest first. It applies directly to K equally likely samples. Coherent if it never increases.
    """

    spectrum: tuple[float, ...] = hyperparameter((1.0,), low=0, help="Weights >= 0 summing to 1, the lowest first.")
    name = "spectral"
    formula = "Σ φ_i·v_(i)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if abs(sum(self.spectrum) - 1) > 1e-9:
            raise UsageError(
                f"Spectral: the spectrum sums to {sum(self.spectrum):.9g}; its {len(self.spectrum)} weights must sum "
                "to 1. Divide them by their sum."
            )

    def cumulative(self, share: Tensor) -> Tensor:
        steps = torch.tensor((0.0, *self.spectrum), dtype=share.dtype, device=share.device).cumsum(0)
        place = share * len(self.spectrum)
        left = place.floor().clamp(max=len(self.spectrum) - 1).long()
        return torch.lerp(steps[left], steps[left + 1], (place - left).clamp(0, 1))

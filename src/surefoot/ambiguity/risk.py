"""Risk measures as their duals: each is a set of re-weightings of the nominal, and its worst case is the risk.

    r = CVaR(0.1)(samples)                    # or (values, probabilities); r.value, r.weights
    r = CVaR(0.1)(losses, maximise=True)      # the upper tail instead

The sign is that of the package: values are rewards, and a risk measures the lower tail. Every risk r is translation
equivariant, r(v + c) = r(v) + c. A coherent one is also monotone, positively homogeneous and superadditive; its mirror
image, r with `maximise=True`, is then subadditive. If a risk lacks one of these properties, its docstring says so.

`spectral` has the risks that weight outcomes by their rank (CVaR and related ones).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from surefoot.ambiguity.contract import Array, Plan, Problem, Solution
from surefoot.ambiguity.core import Ambiguity
from surefoot.ambiguity.divergences import KL, scaled_gaps, support_gaps
from surefoot.ambiguity.operator import solve
from surefoot.ambiguity.search import moments, take
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter


@dataclass(frozen=True)
class Entropic(Ambiguity):
    """The entropic risk −(1/θ)·log E exp(−θ·v), the KL penalty 1/θ; θ = 0 is the mean.

    Monotone and concave, but neither positively homogeneous nor superadditive.
    """

    rate: float = hyperparameter(1.0, low=0, help="θ: risk aversion, in 1/unit of the values.")
    name = "entropic"
    formula = "−1/{rate}·log E exp(−{rate}·v)"

    def solve(self, values: Tensor, nominal: Tensor, strength: Tensor | None) -> Solution:
        price = 1 / self.rate if self.rate > 0 else torch.inf
        return KL(penalty=price).penalised(values, nominal, torch.full_like(nominal[..., :1], price))

    def plan(self, values: Tensor, sample: Tensor, strength: Tensor | None) -> Plan | None:
        price = 1 / self.rate if self.rate > 0 else torch.inf
        return KL(penalty=price).plan(values, sample, values.new_full((1, 1), price))


@dataclass(frozen=True)
class MeanVariance(Ambiguity):
    """The mean less c times the **variance**, E v − c·Var v. Its weights p·(1 − 2c·(v − E v)) may be negative.

    Concave, but neither monotone nor positively homogeneous nor superadditive.
    """

    weight: float = hyperparameter(0.5, low=0, help="c: weight of the variance, in 1/unit of the values.")
    name = "mean-variance"
    formula = "E v − {weight}·Var v"

    def solve(self, values: Tensor, nominal: Tensor, strength: Tensor | None) -> Solution:
        least, gaps = support_gaps(values, nominal)
        _, mean, centred, variance = moments(gaps, nominal)
        value = least + mean - self.weight * variance
        return Solution(value.squeeze(-1), lambda: nominal * (1 - 2 * self.weight * centred))


@dataclass(frozen=True)
class MeanDeviation(Ambiguity):
    """The mean less c times the **standard deviation**, E v − c·√Var v. Its weights may be negative.

    Positively homogeneous and superadditive, but not monotone: a gain in a good outcome can lower it.
    """

    weight: float = hyperparameter(0.5, low=0, help="c: weight of the standard deviation, dimensionless.")
    name = "mean-deviation"
    formula = "E v − {weight}·√Var v"

    def solve(self, values: Tensor, nominal: Tensor, strength: Tensor | None) -> Solution:
        least, span, gaps = scaled_gaps(
            values, nominal
        )  # gaps of equal values are exactly 0, and so is everything below
        _, mean, centred, variance = moments(gaps, nominal)
        deviation = variance.sqrt()
        slope = self.weight / torch.where(deviation > 0, deviation, torch.inf)
        value = least + span * (mean - self.weight * deviation)
        return Solution(value.squeeze(-1), lambda: nominal * (1 - slope * centred))


@dataclass(frozen=True)
class Expectile(Ambiguity):
    """The τ-expectile e of τ·E(v − e)₊ = (1 − τ)·E(e − v)₊ for τ ≤ ½, where it is coherent; ½ is the mean.

    Its set is {q = p·w/E w : w in [τ, 1 − τ]}, so the expectile is the least mean with weight 1 − τ on the k lowest
    values and τ on the others, over all k. For τ > ½ take 1 − τ and `maximise=True`.
    """

    level: float = hyperparameter(
        0.25, above=0, high=0.5, help="τ: weight of the gains; for τ > 0.5 give 1 − τ and maximise=True."
    )
    name = "expectile"
    formula = "expectile_{level}"

    def solve(self, values: Tensor, nominal: Tensor, strength: Tensor | None) -> Solution:
        order = values.argsort(-1)
        v, p = take(values, order), take(nominal, order)
        mass, moment = p.cumsum(-1), (p * v).cumsum(-1)
        more = 1 - 2 * self.level
        means = (self.level * moment[..., -1:] + more * moment) / (self.level * mass[..., -1:] + more * mass)
        edge = torch.take_along_dim(v.expand_as(means), means.argmin(-1, keepdim=True), -1)
        weights = nominal * torch.where(values <= edge, 1 - self.level, self.level)
        weights = weights / weights.sum(-1, keepdim=True)
        return Solution((weights * values).sum(-1), lambda: weights)


@dataclass(frozen=True)
class Mixed(Ambiguity):
    """The average Σ w_i·risk_i(v) of several risks or sets, with weights ≥ 0 that sum to one; coherent if they are."""

    risks: tuple[Ambiguity, ...]
    weights: tuple[float, ...] = hyperparameter((), low=0, help="Weight of each risk.")
    name = "mixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.risks) != len(self.weights) or abs(sum(self.weights) - 1) > 1e-9:
            raise UsageError(
                f"Mixed: weights={self.weights!r} is not allowed for {len(self.risks)} risks; give one weight >= 0 for "
                "each, summing to 1."
            )

    @property
    def parts(self) -> tuple[Problem, ...]:
        return tuple(part for risk in self.risks for part in risk.parts)

    @property
    def outcomes(self) -> int | None:
        return next((part.outcomes for part in self.parts if part.outcomes is not None), None)

    @property
    def leading(self) -> torch.Size:
        own = (part.strength.shape for part in self.parts if isinstance(part.strength, Array))
        return torch.broadcast_shapes(*(part.leading for part in self.parts), *own)

    def solve(self, values: Tensor, nominal: Tensor, strength: Tensor | None) -> Solution:
        parts = [solve(values, nominal, risk, risk.strength) for risk in self.risks]

        def average(terms: Iterable[Tensor]) -> Tensor:
            return reduce(torch.add, (w * term for w, term in zip(self.weights, terms)))

        return Solution(average(p.value for p in parts), lambda: average(p.distribution() for p in parts))

    def __str__(self) -> str:
        return " + ".join(f"{w:g}·[{risk}]" for w, risk in zip(self.weights, self.risks))

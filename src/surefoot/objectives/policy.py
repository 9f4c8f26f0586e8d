"""The common policy-gradient estimator.

    ∇J = Σ c · f'(ρ, Â) · ∇π/d        ρ = π/d

with an aggregation c, a stabilizer f, a denominator d (the ratio) and an advantage Â. The axes are the caller's:
env steps `[time, batch]`, tokens `[batch, length]`, denoising steps `[batch, steps, time]`, whole trajectories. After
the common objective of arXiv:2509.04419.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import check, hyperparameter
from surefoot.objectives import aggregation as aggregations
from surefoot.objectives import ratios, stabilizers
from surefoot.objectives.advantages import Advantage, gae, standardize
from surefoot.objectives.aggregation import Aggregation
from surefoot.objectives.divergences import k3
from surefoot.objectives.likelihoods import Likelihood, plain
from surefoot.objectives.part import SLOTS, Part
from surefoot.objectives.ratios import Ratio
from surefoot.objectives.stabilizers import Stabilizer

# exp(20) is 5e8: larger ratios are noise, and their squares would overflow in float32.
MAX_LOG_RATIO = 20.0

PARTS: dict[str, type[Part]] = {
    "advantage": Advantage,
    "ratio": Ratio,
    "stabilizer": Stabilizer,
    "likelihood": Likelihood,
    "aggregation": Aggregation,
}


@dataclass(frozen=True)
class PolicyObjective:
    """Four parts and an aggregation, with two regularizers and their coefficients."""

    advantage: Advantage = dataclasses.field(default_factory=gae)
    ratio: Ratio = dataclasses.field(default_factory=ratios.old)
    stabilizer: Stabilizer = dataclasses.field(default_factory=stabilizers.clip)
    likelihood: Likelihood = dataclasses.field(default_factory=plain)
    aggregation: Aggregation = dataclasses.field(default_factory=aggregations.mean)
    standardize: bool = hyperparameter(False, help="Standardise advantages within the batch of the loss.")
    entropy: float = hyperparameter(0.0, help="Weight of the policy's entropy (a bonus).")
    divergence: float = hyperparameter(0.0, low=0, help="Weight of the divergence from the old or reference policy.")

    def __post_init__(self) -> None:
        for name, kind in PARTS.items():
            if not isinstance(part := getattr(self, name), kind):
                known = ", ".join(f"{known}()" for known in sorted(SLOTS[kind.slot]))
                raise UsageError(f"an objective's {name} cannot be {part!r}; it must be one of {known}.")
        check(self)

    def loss(
        self,
        log_prob: Float[Tensor, "..."],
        old_log_prob: Float[Tensor, "..."],
        advantage: Float[Tensor, "..."],
        *,
        valid: Bool[Tensor, "..."] | None = None,
        entropy: Float[Tensor, "..."] | None = None,
        divergence: Float[Tensor, "..."] | None = None,
        divergence_weight: float | Tensor | None = None,
        weights: Float[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The loss whose gradient is the estimator, and metrics of the batch.

        `log_prob` carries the gradient (as do `entropy` and `divergence`, one number per element); all else is
        constant. The loss is `−Σ c·coefficient·log π`: its gradient is right, its value is not the surrogate's;
        the surrogate is among the metrics. `divergence_weight` overrides the coefficient (a learned multiplier).
        `weights` are those of the aggregation where this is a piece of a larger batch: the losses of the pieces then
        add up to the loss of the whole.
        """
        if self.standardize:
            advantage = standardize(advantage, valid)
        ratio, coefficient = self.coefficient(log_prob, old_log_prob, advantage, valid)
        weights = self._weights(log_prob, valid) if weights is None else weights
        log_ratio = (log_prob.detach() - old_log_prob).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        # The product with the weights comes first: a NaN coefficient of padding must not reach the gradient.
        loss = -_dot(torch.where(weights != 0, weights * coefficient, torch.zeros_like(weights)), log_prob)
        metrics = {
            "surrogate": _dot(weights, self.stabilizer(ratio, advantage)),
            "kl": _dot(weights, k3(log_ratio)),
            "ratio_deviation": _dot(weights, (ratio - 1).abs()),
            "stopped_fraction": _dot(weights, self._stopped(ratio, advantage)),
        }
        if (outside := self.stabilizer.outside(ratio)) is not None:
            metrics["clip_fraction"] = _dot(weights, outside.to(ratio.dtype))
        if entropy is not None:
            metrics["entropy"] = _dot(weights, entropy)
            if self.entropy:
                loss = loss - self.entropy * metrics["entropy"]
        if divergence is not None:
            metrics["divergence"] = _dot(weights, divergence)
            loss = loss + (self.divergence if divergence_weight is None else divergence_weight) * metrics["divergence"]
        return loss, {name: value.detach() for name, value in metrics.items()}

    def coefficient(
        self, log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The ratio ρ and the coefficient of ∇log π for every element, both detached: `f'(ρ, Â) · ρ · F'(π)`."""
        log_prob, old_log_prob, advantage = log_prob.detach(), old_log_prob.detach(), advantage.detach()
        log_ratio = log_prob - self.ratio.log_denominator(log_prob, old_log_prob, valid)
        ratio = torch.exp(log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
        return ratio, self.stabilizer.weight(ratio, advantage) * ratio * self.likelihood.slope(log_prob)

    def _weights(self, like: Tensor, valid: Tensor | None) -> Tensor:
        valid = torch.ones_like(like, dtype=torch.bool) if valid is None else valid
        return self.aggregation.weights(valid, like.dtype)

    def _stopped(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """1 where the stabilizer has removed or reversed the advantage's gradient."""
        return (self.stabilizer.weight(ratio, advantage) * advantage <= 0).to(ratio.dtype) * (advantage != 0)

    def __str__(self) -> str:
        advantage = f"standardize({self.advantage})" if self.standardize else str(self.advantage)
        likelihood = "" if isinstance(self.likelihood, plain) else f"\n  likelihood {self.likelihood}"
        entropy = f" + {self.entropy:g}·H[π]" if self.entropy else ""
        divergence = f" − {self.divergence:g}·D(π_ref, π)" if self.divergence else ""
        return (
            f"maximise {self.aggregation}[ {self.stabilizer} ]{entropy}{divergence}\n"
            f"  with {self.ratio}\n  and  Â = {advantage}{likelihood}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The objective as JSON-ready data."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: v.to_dict() if isinstance(v, Part) else v for name, v in values.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PolicyObjective:
        """The objective that `to_dict` wrote."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in data:
            if name not in known:
                raise UsageError(f"an objective has no part {name!r}. {nearest(name, known)}")
        values: dict[str, Any] = {n: PARTS[n].from_dict(v) if n in PARTS else v for n, v in data.items()}
        return cls(**values)


def _dot(weights: Tensor, x: Tensor) -> Tensor:
    """Σ weights·x where the weight is not 0: padding may hold NaN, and 0·NaN is NaN."""
    return torch.where(weights != 0, weights * x, torch.zeros((), dtype=x.dtype)).sum()

"""Ratios `ρ = π / d`: the denominators of the policy's probability.

A ratio part returns `log d`, detached. If d is the policy itself, ρ = 1 and the estimator is plain REINFORCE; if it
is the policy that collected the data, the estimator is importance weighted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.objectives.advantages import masked_mean
from surefoot.objectives.part import Part


@dataclass(frozen=True)
class Ratio(Part, slot="ratio"):
    """Base of ratios."""

    def log_denominator(
        self,
        log_prob: Float[Tensor, "..."],
        old_log_prob: Float[Tensor, "..."],
        valid: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """Log of the denominator for every element; all inputs are detached."""
        raise NotImplementedError


@dataclass(frozen=True)
class old(Ratio):
    """The policy that collected the data: ρ = π / π_old (PPO, GRPO, TRPO)."""

    formula = "ρ = π/π_old"

    def log_denominator(self, log_prob: Tensor, old_log_prob: Tensor, valid: Tensor | None = None) -> Tensor:
        return old_log_prob


@dataclass(frozen=True)
class current(Ratio):
    """The policy itself: ρ = 1 (REINFORCE, A2C, RLOO, SFT)."""

    formula = "ρ = π/sg[π]"

    def log_denominator(self, log_prob: Tensor, old_log_prob: Tensor, valid: Tensor | None = None) -> Tensor:
        return log_prob


@dataclass(frozen=True)
class constant(Ratio):
    """d = 1, so ρ = π: off-policy data of unknown origin, taken as uniform."""

    formula = "ρ = π"

    def log_denominator(self, log_prob: Tensor, old_log_prob: Tensor, valid: Tensor | None = None) -> Tensor:
        return torch.zeros_like(log_prob)


@dataclass(frozen=True)
class sequence(Ratio):
    """The length-normalised ratio of a whole sequence, the same for all its elements (GSPO, arXiv:2507.18071)."""

    axis: int = hyperparameter(-1, help="Axis of the sequence.")
    formula = "ρ = exp(mean_t log π/π_old)"

    def log_denominator(self, log_prob: Tensor, old_log_prob: Tensor, valid: Tensor | None = None) -> Tensor:
        return log_prob - masked_mean(log_prob - old_log_prob, valid, self.axis)


@dataclass(frozen=True)
class truncated(Ratio):
    """The importance weight itself is clipped and never masked (CISPO, arXiv:2506.13585)."""

    low: float = hyperparameter(1.0, low=0, help="ρ ≥ 1 − low.")
    high: float = hyperparameter(0.28, low=0, help="ρ ≤ 1 + high.")
    formula = "ρ = clip(π/π_old, 1−{low:g}, 1+{high:g})"

    def log_denominator(self, log_prob: Tensor, old_log_prob: Tensor, valid: Tensor | None = None) -> Tensor:
        ratio = torch.exp(log_prob - old_log_prob).clamp(1 - self.low, 1 + self.high)
        return log_prob - torch.log(ratio)

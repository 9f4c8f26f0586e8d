"""Stabilizers: functions that limit steps on old data.

A stabilizer is a function f(ρ, Â) of the ratio and the advantage, to be maximised, applied element by element.
`weight` is its slope ∂f/∂ρ in closed form: the mask times the advantage for clips, something smoother for others. The
policy gradient is `weight · ρ · ∇log π`; the two forms agree wherever f is differentiable.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.objectives.part import Part


@dataclass(frozen=True)
class Stabilizer(Part, slot="stabilizer"):
    """Base of stabilizers."""

    def __call__(self, ratio: Float[Tensor, "..."], advantage: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The value f(ρ, Â) of every element."""
        raise NotImplementedError

    def weight(self, ratio: Float[Tensor, "..."], advantage: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The slope ∂f/∂ρ of every element."""
        raise NotImplementedError

    def outside(self, ratio: Float[Tensor, "..."]) -> Bool[Tensor, "..."] | None:
        """Whether each ratio has left the clip range, or None for a stabilizer without one."""
        return None


@dataclass(frozen=True)
class none(Stabilizer):
    """The unclipped surrogate ρÂ."""

    formula = "ρÂ"

    def __call__(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return ratio * advantage

    def weight(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return advantage


@dataclass(frozen=True)
class clip(Stabilizer):
    """PPO's pessimistic clip (arXiv:1707.06347); with `high` different from `low` it is DAPO's clip-higher."""

    low: float = hyperparameter(0.2, above=0, help="Lower clip range: no gain from moving ρ below 1 − low.")
    high: float | None = hyperparameter(
        None, above=0, help="Upper clip range: no gain from moving ρ above 1 + high; `low` if None."
    )

    def bounds(self) -> tuple[float, float]:
        """The interval of ratios inside which the surrogate is unchanged."""
        return 1 - self.low, 1 + (self.low if self.high is None else self.high)

    def outside(self, ratio: Tensor) -> Tensor:
        low, high = self.bounds()
        return (ratio < low) | (ratio > high)

    def __call__(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return torch.minimum(ratio * advantage, ratio.clamp(*self.bounds()) * advantage)

    def weight(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        low, high = self.bounds()
        outside = torch.where(advantage > 0, ratio > high, ratio < low)
        return advantage * ~outside  # a product, so that a NaN advantage is never hidden

    def __str__(self) -> str:
        low, high = self.bounds()
        return f"min(ρÂ, clip(ρ, {low:g}, {high:g})Â)"


@dataclass(frozen=True)
class dual_clip(clip):
    """PPO's clip with the loss of a bad action capped at `bound`·Â for large ratios (arXiv:1912.09729)."""

    bound: float = hyperparameter(3.0, above=1, help="Ratio at which the loss of a bad action is capped.")

    def __call__(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        pessimistic = super().__call__(ratio, advantage)
        return torch.where(advantage < 0, torch.maximum(pessimistic, self.bound * advantage), pessimistic)

    def weight(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        beyond = (advantage < 0) & (ratio > self.bound)
        return super().weight(ratio, advantage) * ~beyond

    def __str__(self) -> str:
        return f"max({super().__str__()}, {self.bound:g}Â if Â<0)"


@dataclass(frozen=True)
class log_clip(clip):
    """PPO's clip on log ρ instead of ρ: inside it the gradient is Â·∇log π whatever ρ is (arXiv:2505.12504)."""

    def __call__(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        low, high = self.bounds()
        return advantage + torch.minimum(ratio.log() * advantage, ratio.clamp(low, high).log() * advantage)

    def weight(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return super().weight(ratio, advantage) / ratio

    def __str__(self) -> str:
        low, high = self.bounds()
        return f"Â + min(Â·log ρ, Â·clip(log ρ, log {low:g}, log {high:g}))"


@dataclass(frozen=True)
class smoothed(Stabilizer):
    """Another stabilizer at the ratio ρ̃ = (1−α)ρ + α of a policy mixed with the old one (arXiv:2509.21282)."""

    alpha: float = hyperparameter(0.1, low=0, high=1, help="Share of the old policy in the mixture.")
    inner: Stabilizer = dataclasses.field(default_factory=none)

    def __call__(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return self.inner(self._mixed(ratio), advantage)

    def weight(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return (1 - self.alpha) * self.inner.weight(self._mixed(ratio), advantage)

    def outside(self, ratio: Tensor) -> Tensor | None:
        return self.inner.outside(self._mixed(ratio))

    def _mixed(self, ratio: Tensor) -> Tensor:
        return (1 - self.alpha) * ratio + self.alpha

    def __str__(self) -> str:
        return f"{self.inner} at ρ̃ = {1 - self.alpha:g}ρ + {self.alpha:g}"


@dataclass(frozen=True)
class quadratic(Stabilizer):
    """SPO's penalty (arXiv:2401.16025): concave in ρ, its maximum exactly at ρ = 1 + ε·sign(Â), pulling back beyond."""

    epsilon: float = hyperparameter(0.2, above=0, help="Distance of the optimal ratio from 1.")
    formula = "ρÂ − |Â|(ρ−1)²/(2·{epsilon:g})"

    def outside(self, ratio: Tensor) -> Tensor:
        return (ratio - 1).abs() > self.epsilon

    def __call__(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return ratio * advantage - advantage.abs() * (ratio - 1) ** 2 / (2 * self.epsilon)

    def weight(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return advantage - advantage.abs() * (ratio - 1) / self.epsilon

"""The E-step of policy improvement as inference: weights for the better half of a batch, and its dual losses.

Maximising E_ψ[Â] over distributions ψ on the samples with KL(ψ ‖ uniform) ≤ ε gives ψ ∝ exp(Â/η), where the
temperature η minimises the dual `temperature_loss`; the M-step fits the policy to ψ by maximum likelihood
(`weighted_likelihood`) while a `multiplier_loss` keeps it near the old one. V-MPO (arXiv:1909.12238) uses only the
better half of the samples.

Everything is computed over all axes of a batch. Advantages carry no gradient; elements not in `kept` may be NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from surefoot.objectives.stabilizers import Stabilizer


def top_half(advantage: Float[Tensor, "..."], valid: Bool[Tensor, "..."]) -> Bool[Tensor, "..."]:
    """The valid samples whose advantage is at least the median of the valid ones, including all ties."""
    highest = torch.full((), torch.inf, dtype=advantage.dtype)
    ascending = torch.where(valid, advantage, highest).flatten().sort().values
    # For an even number this is the upper of the middle two, which selects the same samples as their mean.
    threshold = ascending.gather(0, (valid.sum() // 2).clamp(max=valid.numel() - 1).unsqueeze(0))
    return valid & (advantage >= threshold)


def weights(
    advantage: Float[Tensor, "..."], temperature: Float[Tensor, ""], kept: Bool[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """ψ = softmax(Â/η) over the kept samples, 0 elsewhere; all 0 where none is kept. Carries no gradient."""
    terms, _ = _exponentials(advantage, temperature.detach(), kept)
    return terms / terms.sum().clamp(min=1)


def temperature_loss(
    advantage: Float[Tensor, "..."], temperature: Float[Tensor, ""], kept: Bool[Tensor, "..."], bound: float
) -> Float[Tensor, ""]:
    """η·ε + η·log mean exp(Â/η) over the kept samples; its slope in η is ε − KL(ψ ‖ uniform). 0 where none is kept."""
    terms, peak = _exponentials(advantage, temperature, kept)
    mean = terms.sum().clamp(min=1) / kept.sum().clamp(min=1)
    return torch.where(kept.any(), peak + temperature * (bound + torch.log(mean)), torch.zeros_like(peak))


def _exponentials(advantage: Tensor, temperature: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """exp((Â − peak)/η) of the kept samples, 0 elsewhere, and the peak: their sum is at least 1 if any is kept."""
    advantage = advantage.detach()
    lowest = torch.full((), -torch.inf, dtype=advantage.dtype)
    peak = torch.where(kept, advantage, lowest).amax()
    below = torch.where(kept, advantage - peak, torch.zeros_like(advantage))
    return torch.exp(below / temperature) * kept, peak


def multiplier_loss(divergence: Float[Tensor, ""], multiplier: Float[Tensor, ""], bound: float) -> Float[Tensor, ""]:
    """The Lagrangian of `divergence ≤ bound`, `α·(ε − sg[D]) + sg[α]·D`: descent on it reduces the penalised divergence
    of the policy and moves the multiplier with slope ε − D, upwards exactly while the bound is violated."""
    return multiplier * (bound - divergence.detach()) + multiplier.detach() * divergence


@dataclass(frozen=True)
class weighted_likelihood(Stabilizer):
    """Â(1 + log ρ): maximum likelihood with the advantage as weight, so that the gradient is Â·∇log π whatever ρ is."""

    formula = "Â(1 + log ρ)"

    def __call__(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return advantage * (1 + torch.log(ratio))

    def weight(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return advantage / ratio

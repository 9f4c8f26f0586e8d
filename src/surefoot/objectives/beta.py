"""An advantage normalised by the distribution of success rates over the prompts of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.objectives.advantages import Advantage, group_mean, masked_mean


@dataclass(frozen=True)
class beta_normalized(Advantage):
    """(R − p)/f(p) for rewards in [0, 1] `[..., prompts, samples]`, p the mean of a prompt (arXiv:2506.02864).

    f is the Beta(1 + a/3, 1 + b/3) density, where Beta(a, b) has the mean and the variance of the p of the batch: of
    all Beta densities the one that minimises the variance of the gradient, if p has that distribution. Both parameters
    are at least 1. Beta(1, 1) is Dr.GRPO's advantage, Beta(3/2, 3/2) GRPO's times π/8.
    """

    cap: float = hyperparameter(1e6, above=0, help="Cap on 1/f(p).")
    formula = "(R − p) / Beta(1+a/3, 1+b/3)(p)"

    def __call__(self, rewards: Tensor, **signals: Any) -> Tensor:
        valid = signals.get("valid")
        p = masked_mean(rewards, valid, -1)
        return group_mean()(rewards, **signals) * normalizer(p.squeeze(-1), self.cap).unsqueeze(-1)


def fitted(p: Float[Tensor, "... prompts"]) -> tuple[Float[Tensor, "... 1"], Float[Tensor, "... 1"]]:
    """(α, β) = (max(1, 1 + a/3), max(1, 1 + b/3)) for the moments of `p`; (1, 1) if no Beta has them."""
    mean = p.mean(-1, keepdim=True)
    if p.shape[-1] < 2:
        return torch.ones_like(mean), torch.ones_like(mean)
    size = mean * (1 - mean) / p.var(-1, keepdim=True).clamp(min=1e-6) - 1
    return (1 + size * mean / 3).clamp(min=1), (1 + size * (1 - mean) / 3).clamp(min=1)


def normalizer(p: Float[Tensor, "... prompts"], cap: float) -> Float[Tensor, "... prompts"]:
    """1/f(p) for the fitted density, at most `cap`."""
    alpha, beta = fitted(p)
    log_f = (
        torch.special.xlogy(alpha - 1, p)
        + torch.special.xlogy(beta - 1, 1 - p)
        - (torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta))
    )
    return torch.exp(-log_f).clamp(max=cap)

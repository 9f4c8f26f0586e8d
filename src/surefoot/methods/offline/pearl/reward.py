"""Robust reward learning (PEARL, arXiv:2306.03615): a Gaussian reward from soft labels that may be wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

import gymnasium as gym
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from surefoot.models.actors import layers
from surefoot.models.networks import Encoder, Observation

LOG_STD = (-5.0, 2.0)  # limits of the log standard deviation of a reward
ENTROPY = 0.5 * math.log(2 * math.pi * math.e)  # of a Gaussian with a deviation of 1


class GaussianReward(nn.Module):
    """The mean and the log standard deviation of the reward of an action in [−1, 1] in a state."""

    def __init__(self, space: gym.Space, actions: int, hidden: Sequence[int], activation: str, cnn: str) -> None:
        super().__init__()
        self.encoder = Encoder(space, (), activation, cnn)
        self.layers = layers(self.encoder.features + actions, hidden, activation, 2)

    def forward(self, observation: Observation, action: Tensor) -> tuple[Tensor, Tensor]:
        """Both, `[...]` each, of actions `[..., dim]`."""
        mean, log_std = self.layers(torch.cat([self.encoder(observation, action.dtype), action], -1)).unbind(-1)
        return mean, log_std.clamp(*LOG_STD)


def soft_cross_entropy(rewards: Float[Tensor, "two pairs steps"], label: Float[Tensor, "pairs"]) -> Float[Tensor, ""]:
    """−z·log P − (1 − z)·log(1 − P), a mean over pairs: P = σ(Σ_t r_0t − Σ_t r_1t) that the first is preferred."""
    logit = rewards[0].sum(-1) - rewards[1].sum(-1)
    return (softplus(logit) - label * logit).mean()


def robust_loss(
    mean: Float[Tensor, "two pairs steps"],
    log_std: Float[Tensor, "two pairs steps"],
    label: Float[Tensor, "pairs"],
    noise: Float[Tensor, "two pairs steps"],
    *,
    sampled: float,
    level: float,
    weight: float,
) -> tuple[Tensor, Tensor]:
    """`CE(mean) + λ·CE(mean + std·noise) + α·max(0, η − h)`, and the mean entropy h of a step's reward; λ is `sampled`,
    η the `level` and α the `weight`. Without the last term deviations would shrink to nothing."""
    entropy = ENTROPY + log_std.mean()
    noisy = soft_cross_entropy(mean + log_std.exp() * noise, label)
    return soft_cross_entropy(mean, label) + sampled * noisy + weight * (level - entropy).clamp(min=0), entropy

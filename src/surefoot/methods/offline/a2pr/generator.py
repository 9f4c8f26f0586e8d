"""The generator of A2PR (arXiv:2405.19909): an autoencoder of actions in a state, and the divergence of its code."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import torch
from torch import Tensor, nn

from surefoot.models.actors import layers
from surefoot.models.networks import Encoder, Observation

LOG_STD = (-4.0, 15.0)  # limits of the log standard deviation of z


class Generator(nn.Module):
    """A conditional variational autoencoder of actions in [−1, 1], with two latent numbers for each of an action."""

    def __init__(self, space: gym.Space, actions: int, hidden: Sequence[int], activation: str, cnn: str) -> None:
        super().__init__()
        self.seen = Encoder(space, (), activation, cnn)
        self.encode = layers(self.seen.features + actions, hidden, activation, 4 * actions)
        self.decode = layers(self.seen.features + 2 * actions, hidden, activation, actions)

    def forward(self, observation: Observation, action: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The action made of z `[..., dim]`, and the mean and log standard deviation of z `[..., 2·dim]`."""
        seen = self.seen(observation, action.dtype)
        mean, log_std = self.encode(torch.cat([seen, action], -1)).chunk(2, -1)
        log_std = log_std.clamp(*LOG_STD)
        latent = mean + log_std.exp() * noise
        return torch.tanh(self.decode(torch.cat([seen, latent], -1))), mean, log_std


def divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, std²) ‖ N(0, 1)), a mean over the batch and over dimensions."""
    return (-0.5 * (1 + 2 * log_std - mean**2 - (2 * log_std).exp())).mean()

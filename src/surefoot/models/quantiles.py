"""Critics of whole distributions: quantiles of the return at any fractions, and their mean (IQN, arXiv:1806.06923)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Tensor, nn

from surefoot.hyperparameters import check, hyperparameter
from surefoot.models.actors import action_size, layers
from surefoot.models.networks import ACTIVATIONS, Encoder, Observation

COSINES = 64  # features of a fraction


class QuantileValue(nn.Module):
    """Quantiles of the return of an action in [−1, 1]: features of (s, a), times those of a fraction, through one more
    hidden layer."""

    def __init__(
        self, observation_space: gym.Space, actions: int, hidden: Sequence[int], activation: str, cnn: str, count: int
    ) -> None:
        super().__init__()
        self.count = count
        self.encoder = Encoder(observation_space, (), activation, cnn)
        *first, last = hidden
        width = first[-1] if first else last
        self.features = layers(self.encoder.features + actions, first[:-1], activation, width)
        self.fractions = nn.Linear(COSINES, width)
        self.layers = layers(width, [last], activation, 1)
        self.act = ACTIVATIONS[activation]()

    def forward(self, observation: Observation, action: Tensor, fractions: Tensor | None = None) -> Tensor:
        """Quantiles `[..., n]` at fractions `[..., n]`; without these the mean `[...]` of those at (i + ½)/count."""
        dtype = self.fractions.weight.dtype
        seen = self.encoder(observation, dtype)
        features = self.act(self.features(torch.cat([seen, action], -1)))
        if fractions is None:
            middle = (torch.arange(self.count, dtype=dtype) + 0.5) / self.count
            return self._at(features, middle).mean(-1)
        return self._at(features, fractions)

    def _at(self, features: Tensor, fractions: Tensor) -> Tensor:
        angles = math.pi * torch.arange(COSINES, dtype=fractions.dtype)
        weights = self.act(self.fractions((fractions.unsqueeze(-1) * angles).cos()))
        both = features.unsqueeze(-2) * weights
        return self.layers(both.reshape(-1, both.shape[-1])).reshape(both.shape[:-1])  # flat, as exports need it


@dataclass(frozen=True)
class QuantileNetwork:
    """The architecture of a critic of quantiles."""

    hidden: tuple[int, ...] = hyperparameter((256, 256), low=1, high=2**16, help="Sizes of the hidden layers.")
    activation: str = hyperparameter("relu", choices=tuple(ACTIVATIONS), help="Activation between linear layers.")
    cnn: str = hyperparameter("nature", choices=("nature", "impala"), help="Image encoder.")
    count: int = hyperparameter(8, low=1, high=1000, help="Quantiles of which the mean is the value.")

    def __post_init__(self) -> None:
        check(self)

    def make(self, observation_space: gym.Space, action_space: gym.Space) -> QuantileValue:
        """A freshly initialised critic for these spaces."""
        rest = self.hidden, self.activation, self.cnn, self.count
        return QuantileValue(observation_space, action_size(action_space), *rest)


def fractions(uniform: Tensor) -> tuple[Tensor, Tensor]:
    """From uniform numbers `[..., n]` the middles of n random intervals of [0, 1], and their lengths: those of u + 0.1,
    scaled to add up to 1."""
    lengths = (uniform + 0.1) / (uniform + 0.1).sum(-1, keepdim=True)
    return lengths.cumsum(-1) - lengths / 2, lengths

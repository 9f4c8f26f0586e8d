"""Policies of a user, in a module of its own: what `module:name` names in tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


class Actor(nn.Module):
    """A network that returns scores or actions."""

    def __init__(self, hidden: int = 8, outputs: int = 2, inputs: int = 4, activation: str = "tanh") -> None:
        super().__init__()
        self.body = nn.Linear(inputs, hidden)
        self.head = nn.Linear(hidden, outputs)
        self.activation = {"tanh": torch.tanh, "relu": torch.relu}[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.activation(self.body(x)))


class Lean:
    """Pushes against the pole's fall, with a gain."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return lean(observation, self.gain), state


def lean(observation, gain=1.0):
    return (gain * (observation @ [0.1, 0.4, 2.0, 1.6]) > 0).astype(np.int64)


number = 3

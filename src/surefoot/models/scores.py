"""Networks about data: the noise in a noisy copy of a row, where an action leads, and which action leads somewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import gymnasium as gym
import torch
from torch import Tensor, nn

from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter
from surefoot.models.actors import action_size, layers
from surefoot.models.networks import ACTIVATIONS, is_image

FREQUENCIES = (1.0, 2.0, 4.0)  # of the logarithm of the noise level
OF = ("action", "change", "state")


class Score(nn.Module):
    """The noise ε(x, σ) in x, of which −ε/σ is the score."""

    def __init__(self, size: int, hidden: tuple[int, ...], activation: str) -> None:
        super().__init__()
        self.layers = layers(size + 1 + 2 * len(FREQUENCIES), hidden, activation, size)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """`[..., dim]` of noisy rows `[..., dim]` at levels `[...]`."""
        log = sigma.log().unsqueeze(-1)
        waves = [wave(f * log) for f in FREQUENCIES for wave in (torch.sin, torch.cos)]
        return self.layers(torch.cat([x, log, *waves], -1))


class Dynamics(nn.Module):
    """From a state and an action to the change, or from a state and a change to the action, which is in [−1, 1]."""

    def __init__(self, inputs: int, outputs: int, hidden: tuple[int, ...], activation: str, bounded: bool) -> None:
        super().__init__()
        self.layers, self.bounded = layers(inputs, hidden, activation, outputs), bounded

    def forward(self, state: Tensor, other: Tensor) -> Tensor:
        """`[..., outputs]`."""
        out = self.layers(torch.cat([state, other], -1))
        return out.tanh() if self.bounded else out


class Scale(nn.Module):
    """The units of data: means and deviations of states, and deviations of their changes in units of these."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(size))
        self.deviation, self.change = (nn.Parameter(torch.ones(size)) for _ in range(2))

    def forward(self, observation: Tensor) -> Tensor:
        """States `[..., size]` in units of the data, and the units of changes beside each, `[..., 2·size]`."""
        x = observation.reshape(*observation.shape[:1], -1).to(self.mean.dtype)
        state = (x - self.mean) / self.deviation
        return torch.cat([state, self.change.expand_as(state)], -1)


@dataclass(frozen=True)
class ScoreNetwork:
    """The architecture of a score: of (s, a), of (s, change) or of s alone."""

    of: str = hyperparameter("action", choices=OF, help="What it is the score of, beside the state.")
    hidden: tuple[int, ...] = hyperparameter((256, 256, 256), low=1, high=2**16, help="Sizes of the hidden layers.")
    activation: str = hyperparameter("swish", choices=tuple(ACTIVATIONS), help="Activation between linear layers.")

    def __post_init__(self) -> None:
        check(self)

    def make(self, observation_space: gym.Space, action_space: gym.Space) -> Score:
        """A freshly initialised score for these spaces."""
        size = state_size(observation_space)
        beside = {"action": action_size(action_space), "change": size, "state": 0}[self.of]
        return Score(size + beside, self.hidden, self.activation)


@dataclass(frozen=True)
class DynamicsNetwork:
    """The architecture of a model of one step, forward or inverse."""

    inverse: bool = hyperparameter(False, help="From the change to the action.")
    hidden: tuple[int, ...] = hyperparameter((256, 256), low=1, high=2**16, help="Sizes of the hidden layers.")
    activation: str = hyperparameter("swish", choices=tuple(ACTIVATIONS), help="Activation between linear layers.")

    def __post_init__(self) -> None:
        check(self)

    def make(self, observation_space: gym.Space, action_space: gym.Space) -> Dynamics:
        """A freshly initialised model for these spaces."""
        state, action = state_size(observation_space), action_size(action_space)
        ends = (2 * state, action) if self.inverse else (state + action, state)
        return Dynamics(*ends, self.hidden, self.activation, self.inverse)


@dataclass(frozen=True)
class ScaleNetwork:
    """The units of data, kept beside networks that see states in them."""

    hidden: ClassVar[tuple[int, ...]] = ()

    def make(self, observation_space: gym.Space, action_space: gym.Space) -> Scale:
        """Units of 1."""
        return Scale(state_size(observation_space))


def state_size(space: gym.Space) -> int:
    """Numbers in a state. Raises `UsageError` unless it is one Box of numbers that is no image."""
    if not isinstance(space, gym.spaces.Box) or is_image(space):
        raise UsageError(f"scores need states that are vectors, but the observation space is {space}.")
    return action_size(space)

"""A network that takes noise off observations before another one sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Tensor, nn

from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter
from surefoot.models.actors import layers
from surefoot.models.networks import ACTIVATIONS, is_image


class Denoiser(nn.Module):
    """D(x) = x − f(x) for observations `[..., *shape]`. The last layer of f starts at 0, and so D as the identity.

    For vectors f has the hidden layers given; for images it is DnCNN's row of 3×3 convolutions of 64 channels
    (arXiv:1608.03981), without its batch normalisation, on pixels divided by 255.
    """

    def __init__(self, space: gym.Space, hidden: Sequence[int], activation: str, convolutions: int) -> None:
        super().__init__()
        if not isinstance(space, gym.spaces.Box):
            raise UsageError(
                f"a denoiser needs observations that are one Box; these are {space}. Flatten them with "
                "wrappers=['flatten'], or use smoothed-agents, which needs no denoiser."
            )
        self.shape, self.image = space.shape, is_image(space)
        if self.image:
            self.first = space.shape[0] < space.shape[-1]
            self.network = _convolutions(space.shape[0 if self.first else -1], convolutions)
        else:
            size = int(torch.Size(space.shape).numel())
            self.network = layers(size, hidden, activation, size)
        last = self.network[-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        lead = x.shape[: x.dim() - len(self.shape)]
        if not self.image:
            flat = x.reshape(*lead, -1)
            return (flat - self.network(flat)).reshape(*lead, *self.shape)
        pixels = x.reshape(-1, *self.shape).float()
        pixels = pixels if self.first else pixels.movedim(-1, 1)
        clean = pixels - 255.0 * self.network(pixels / 255.0)
        return (clean if self.first else clean.movedim(1, -1)).reshape(*lead, *self.shape)


def _convolutions(channels: int, count: int) -> nn.Sequential:
    made: list[nn.Module] = [nn.Conv2d(channels, 64, 3, padding=1), nn.ReLU()]
    for _ in range(count - 2):
        made += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*made, nn.Conv2d(64, channels, 3, padding=1))


@dataclass(frozen=True)
class DenoiserNetwork:
    """The architecture of a denoiser."""

    hidden: tuple[int, ...] = hyperparameter((64, 64), low=1, high=2**16, help="Sizes of its hidden layers.")
    activation: str = hyperparameter("relu", choices=tuple(ACTIVATIONS), help="Activation between linear layers.")
    convolutions: int = hyperparameter(17, low=2, high=100, help="Convolutions, for images.")

    def __post_init__(self) -> None:
        check(self)

    def make(self, observation_space: gym.Space, action_space: gym.Space) -> Denoiser:
        """A denoiser that changes nothing yet."""
        return Denoiser(observation_space, self.hidden, self.activation, self.convolutions)

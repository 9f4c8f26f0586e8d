"""Conditional flows: velocities that carry Gaussian noise to actions, one field for every label, and guidance between.

At time t, from 0 to 1, a path is at x_t = (1 − t)·noise + t·action; the field is fitted to its velocity, action − noise
(flow matching, arXiv:2210.02747). Following the field from noise samples an action.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import gymnasium as gym
import torch
from jaxtyping import Float
from torch import Tensor, nn

from surefoot.hyperparameters import check, hyperparameter
from surefoot.models.acting import Ask, Rule, Said
from surefoot.models.actors import action_size, layers
from surefoot.models.networks import ACTIVATIONS, Encoder, Observation

Field = Callable[[Tensor, Tensor], Tensor]
"""From places `[batch, dim]` and times `[batch]` to velocities `[batch, dim]`."""
WAVES = 8  # sines, and as many cosines, of the time
LABEL = 32  # numbers that a label is embedded in


def on_path(noise: Float[Tensor, "... dim"], action: Float[Tensor, "... dim"], time: Float[Tensor, "..."]) -> Tensor:
    """Where the straight path from noise to action is at a time, `[..., dim]`."""
    return torch.lerp(noise, action, time.unsqueeze(-1))


def guided(clone: Tensor, given: Tensor, weight: float) -> Tensor:
    """`clone + weight·(given − clone)`, exactly the first at weight 0 and exactly the second at 1: classifier-free
    guidance (arXiv:2207.12598) beyond 1. Scores and velocities of paths from Gaussian noise combine alike."""
    return torch.lerp(clone, given, weight)


def transported(field: Field, noise: Float[Tensor, "batch dim"], steps: int) -> Float[Tensor, "batch dim"]:
    """Where the field carries noise from time 0 to 1, in steps of Euler."""
    x = noise
    for step in range(steps):
        x = x + field(x, torch.full_like(x[..., 0], step / steps)) / steps
    return x


class Flow(nn.Module):
    """The velocity `[..., dim]` of actions in [−1, 1] at a place and a time, given an observation and a label."""

    def __init__(
        self,
        observation_space: gym.Space,
        actions: int,
        hidden: Sequence[int],
        activation: str,
        cnn: str,
        labels: int,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(observation_space, (), activation, cnn)
        self.labels = nn.Parameter(torch.randn(labels, LABEL))
        inputs = self.encoder.features + actions + 2 * WAVES + LABEL
        self.layers = layers(inputs, hidden, activation, actions)

    def forward(self, observation: Observation, x: Tensor, time: Tensor, label: int) -> Tensor:
        """Velocities at `x [..., dim]` and `time [...]`, for observations of the same leading axes."""
        features = self.encoder(observation, self.labels.dtype)
        angle = time.unsqueeze(-1) * (math.pi * 2.0 ** torch.arange(WAVES, dtype=x.dtype) / 2)
        told = self.labels[label].expand(*x.shape[:-1], LABEL)
        return self.layers(torch.cat([features, x, angle.sin(), angle.cos(), told], -1))


def without(observation: Observation, entries: Sequence[int]) -> Observation:
    """Vectors `[..., n]` with some entries set to 0."""
    if not entries:
        return observation
    assert isinstance(observation, Tensor)
    kept = [float(i not in entries) for i in range(observation.shape[-1])]
    return observation * observation.new_tensor(kept)


@dataclass(frozen=True)
class FlowNetwork:
    """The architecture of a conditional flow."""

    hidden: tuple[int, ...] = hyperparameter((256, 256), low=1, high=2**16, help="Sizes of the hidden layers.")
    activation: str = hyperparameter("swish", choices=tuple(ACTIVATIONS), help="Activation between linear layers.")
    cnn: str = hyperparameter("nature", choices=("nature", "impala"), help="Image encoder.")
    labels: int = hyperparameter(2, low=1, high=1000, help="Labels; 0 is none.")

    def __post_init__(self) -> None:
        check(self)

    def make(self, observation_space: gym.Space, action_space: gym.Space) -> Flow:
        """A freshly initialised flow for these spaces."""
        rest = self.hidden, self.activation, self.cnn, self.labels
        return Flow(observation_space, action_size(action_space), *rest)


@dataclass(frozen=True)
class Guided(Rule):
    """Acts by the agent's flow, between and beyond its labels 0 and 1. The most likely action is taken for the one to
    which the middle of the noise, 0, is carried."""

    asks: ClassVar[tuple[str, ...]] = ("flow",)

    guidance: float = hyperparameter(
        3.0, low=0, high=1000, help="Weight w of the labelled field: 0 is none of it, 1 is that, above is beyond it."
    )
    flow_steps: int = hyperparameter(16, low=1, high=1000, help="Steps of Euler from noise to an action.")
    unseen: tuple[int, ...] = hyperparameter((), low=0, help="Entries of the observation that label 0 does not see.")

    def __call__(self, ask: Ask, observation: Observation, said: Said) -> Tensor:
        shape = said.action()
        noise = torch.randn_like(shape) if said.sample else torch.zeros_like(shape)

        def field(x: Tensor, time: Tensor) -> Tensor:
            clone = ask("flow", without(observation, self.unseen), x, time, 0)[0]
            return guided(clone, ask("flow", observation, x, time, 1)[0], self.guidance)

        return transported(field, noise, self.flow_steps).clamp(-1, 1)

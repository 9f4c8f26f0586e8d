"""An actor-critic whose policy is the median over noisy copies of what it sees."""

from __future__ import annotations

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.models.networks import ActorCritic, Observation
from surefoot.models.smoothing import boxes, draw, median, noisy_copies

NOISE = "noise of {}"  # the entry of an observation that is the noise of another


class MedianActorCritic(ActorCritic):
    """Every parameter of the action distribution is its median over the copies, one coordinate at a time; the critic
    sees the observation itself. Observations `[..., *shape]` come with their noise `[..., draws, *shape]`."""

    def policy(
        self, observation: Observation, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        assert isinstance(observation, dict)
        names = {key: NOISE.format(key) for key in observation}
        noise = {key: observation[name] for key, name in names.items() if name in observation}
        clean = {key: x for key, x in observation.items() if key not in names.values()}
        lead = {key: clean[key].dim() - len(self.actor.encoder.spaces[key].shape or ()) for key in noise}
        seen = noisy_copies(clean, {key: x.movedim(lead[key], 0) for key, x in noise.items()})
        return median(super().policy(seen)[0]), None


def noise_of(
    space: gym.Space, shape: tuple[int, ...], draws: int, sigma: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """The noise of observations with these leading axes, as more of their entries."""
    drawn = draw(space, (*shape, draws), sigma, generator)
    return {NOISE.format(key): drawn[key] for key in boxes(space)}

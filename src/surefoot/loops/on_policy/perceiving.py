"""What an actor sees besides observations: the random numbers of a method's `perception`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.loops.common.collect import Arrays
from surefoot.loops.on_policy.method import OnPolicy


def perception(
    method: OnPolicy, space: gym.Space, shape: tuple[int, ...], streams: Sequence[torch.Generator]
) -> dict[str, Tensor]:
    """The random numbers `[seeds, *shape, ...]`, a stream for each seed."""
    drawn = [method.perception(space, shape, generator) for generator in streams]
    return {key: torch.stack([x[key] for x in drawn]) for key in drawn[0]}


def seen(observation: Arrays, drawn: Mapping[str, Tensor], t: int) -> Arrays:
    """The observations `[seeds · envs, ...]` of a step as the actor sees them."""
    if not drawn:
        return observation
    entries = observation if isinstance(observation, dict) else {"": observation}
    return {**entries, **{key: x[:, t].flatten(0, 1).numpy() for key, x in drawn.items()}}

"""The two players of `envs.parameter_game.ParameterGame`: what each sees, and a batch as each learns from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.loops.networks.nets import Batch

Observed = dict[str, Tensor]
"""Observations of the game by name: state, parameters, and perhaps previous_state and previous_action."""


def sizes(observation_space: gym.Space) -> tuple[int, int]:
    """The number of state variables and of parameters."""
    assert isinstance(observation_space, gym.spaces.Dict)
    return tuple(observation_space[name].shape[0] for name in ("state", "parameters"))  # type: ignore[index,return-value]


def unbounded(size: int) -> gym.spaces.Box:
    """The space of vectors of this size."""
    return gym.spaces.Box(-torch.inf, torch.inf, (size,))


def own_actions(observation_space: gym.Space, action_space: gym.Space) -> gym.spaces.Box:
    """The agent's part of the joint actions."""
    assert isinstance(action_space, gym.spaces.Box)
    own = action_space.shape[0] - sizes(observation_space)[1]
    return gym.spaces.Box(action_space.low[:own], action_space.high[:own])


def agents_part(batch: Batch, seen: Callable[[Observed], Tensor]) -> Batch:
    """A batch as the agent learns from it: what it sees, its own actions and their noise.

    `parameters` are those in force in the transition, which the observation after it holds.
    """
    parameters = batch["next_observation"]["parameters"]
    own = batch["action"].shape[-1] - parameters.shape[-1]
    noise: dict[str, Any] = {"target": batch["noise"]["target"][..., :own]}
    return {
        **batch,
        "observation": seen(batch["observation"]),
        "next_observation": seen(batch["next_observation"]),
        "action": batch["action"][..., :own],
        "parameters": parameters,
        "noise": noise,
        "parameter_noise": batch["noise"]["target"][..., own:],
        "move": batch["action"][..., own:],
    }

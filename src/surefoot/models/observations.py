"""Observations as tensors: their entries, which of them are normalised, and noise on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.models.networks import Observation, is_image
from surefoot.models.normalizers import normalize
from surefoot.models.spaces import MASK_KEY


def entries(space: gym.Space) -> dict[str, Any]:
    """The spaces of a dict space by key; any other space under the key ''."""
    return dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {"": space}


def normalized_shapes(space: gym.Space) -> dict[str, tuple[int, ...]]:
    """The observation entries that are normalised by running statistics, with their shapes; '' is the whole
    observation.

    These are all numeric Boxes except images (which are divided by 255) and the action mask.
    """
    return {
        key: s.shape
        for key, s in entries(space).items()
        if key != MASK_KEY and isinstance(s, gym.spaces.Box) and s.dtype.kind in "fiu" and not is_image(s)
    }


def normalized_keys(space: gym.Space) -> dict[str, int]:
    """The normalised entries with their sizes."""
    return {key: math.prod(shape) for key, shape in normalized_shapes(space).items()}


def normalized_since(space: gym.Space) -> list[str]:
    """The normalised entries that older versions, which normalised only float vectors, left unchanged."""
    found = entries(space)
    return [k for k, shape in normalized_shapes(space).items() if len(shape) != 1 or found[k].dtype.kind != "f"]


def normalize_observation(observation: Observation, scales: dict[str, tuple[Tensor, Tensor]]) -> Observation:
    """The observation with its normalised entries scaled; entries without a scale pass through."""
    if isinstance(observation, dict):
        return {k: normalize(x, *scales[k]) if k in scales else x for k, x in observation.items()}
    return normalize(observation, *scales[""]) if "" in scales else observation


def floats(observation: Observation) -> Observation:
    """The observation in single precision where it is in double."""
    if isinstance(observation, dict):
        return {key: x.float() if x.dtype == torch.float64 else x for key, x in observation.items()}
    return observation.float() if observation.dtype == torch.float64 else observation


def plus(observation: Observation, sigma: float, noisy_boxes: Mapping[str, Any]) -> Observation:
    """Observations with N(0, sigma²) noise in their own units, differentiable."""
    if isinstance(observation, dict):
        return {k: x + sigma * torch.randn(x.shape) if k in noisy_boxes else x for k, x in observation.items()}
    return observation + sigma * torch.randn(observation.shape)

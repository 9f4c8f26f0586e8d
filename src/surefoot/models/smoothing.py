"""Noise that a smoothed policy adds to what it sees: one fresh draw an observation, never averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from surefoot.errors import UsageError
from surefoot.models.spaces import MASK_KEY


def noisy(observation: Any, sigma: float, keys: Sequence[str] = ()) -> Any:
    """Observations `[batch, ...]` with N(0, sigma²) noise in their own units, from torch's global generator, from which
    policies sample. Integers are rounded and kept within the limits of their type, which is done after the noise and so
    costs a certificate nothing. Of a dict only the entries `keys` are noisy."""
    if isinstance(observation, dict):
        return {key: noisy(x, sigma) if key in keys else x for key, x in observation.items()}
    array = np.asarray(observation)
    return moved(array, sigma * torch.randn(array.shape, dtype=torch.float64).numpy())


def moved(array: np.ndarray, change: np.ndarray) -> np.ndarray:
    """`array + change` in the array's type: integers rounded, within the limits of their type."""
    made = array + change
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        made = np.clip(np.rint(made), limits.min, limits.max)
    return made.astype(array.dtype)


def noisy_keys(space: gym.Space) -> tuple[str, ...]:
    """The entries of a dict observation that are noisy: every Box but the mask of allowed actions; none of a single
    Box.

    Raises:
        UsageError: there is nothing to which Gaussian noise could be added.
    """
    if isinstance(space, gym.spaces.Box):
        return ()
    entries = space.spaces if isinstance(space, gym.spaces.Dict) else {}
    keys = tuple(key for key, one in entries.items() if isinstance(one, gym.spaces.Box) and key != MASK_KEY)
    if not keys:
        raise UsageError(
            f"smoothing needs a Box observation space, or a Dict with one; this one is {space}, to which no Gaussian "
            "noise can be added. For a finite MDP, surefoot solve computes the exact worst case."
        )
    return keys

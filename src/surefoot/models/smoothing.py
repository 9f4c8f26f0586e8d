"""Noise that a smoothed policy adds to what it sees: one fresh draw an observation, or several that decide together.

Noise of several draws is added after the observation is normalised, in units of that; images are in units of 255.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter
from surefoot.models.networks import Observation, is_image, one_hot
from surefoot.models.spaces import MASK_KEY


def noisy(observation: Any, sigma: float, keys: Sequence[str] = ()) -> Any:
    """Observations `[batch, ...]` with N(0, sigma²) noise in their own units, from torch's global generator, from which
    policies sample. Integers are rounded and kept within the limits of their type, which is done after the noise and so
    costs a certificate nothing. Of a dict only the entries `keys` are noisy."""
    if isinstance(observation, dict):
        return {key: noisy(x, sigma) if key in keys else x for key, x in observation.items()}
    array = np.asarray(observation)
    made = array + sigma * torch.randn(array.shape, dtype=torch.float64).numpy()
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


@dataclass(frozen=True)
class Smoothing:
    """How a policy acts on several noisy copies of an observation: by the median of the distribution's parameters, one
    coordinate at a time, or by the votes of the copies for their best actions."""

    by: str = hyperparameter("median", choices=("median", "vote"), help="What decides: medians, or votes.")
    sigma: float = hyperparameter(0.2, above=0, help="Standard deviation of the noise, observations normalised.")
    draws: int = hyperparameter(100, low=1, high=10**6, help="Noisy copies of an observation.")

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, answers: Tensor, distribution: Any) -> Tensor:
        """Parameters `[batch, size]` from those of all copies `[draws, batch, size]`; votes are shares."""
        return median(answers) if self.by == "median" else votes(answers, distribution)


def median(answers: Tensor) -> Tensor:
    """The median over the first axis, the lower one of two: a gradient reaches the copy that it is."""
    return answers.median(0).values


def votes(answers: Tensor, distribution: Any) -> Tensor:
    """The share of the copies, the first axis, whose best action is each, `[batch, size]`."""
    parts = answers.split(distribution.choices, -1)
    return torch.cat([one_hot(part.argmax(-1), part.shape[-1]).to(answers.dtype) for part in parts], -1).mean(0)


def boxes(space: gym.Space) -> dict[str, gym.spaces.Box]:
    """The noisy entries of an observation space by key; '' for a single one. Raises `UsageError` if there are none."""
    keys = noisy_keys(space)
    return {key: space[key] for key in keys} if keys else {"": space}  # type: ignore[dict-item,index]


def draw(
    space: gym.Space, shape: tuple[int, ...], sigma: float, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """N(0, sigma²) noise `[*shape, ...]` for every noisy entry of an observation, by key."""
    units = {key: sigma * (255.0 if is_image(one) else 1.0) for key, one in boxes(space).items()}
    shapes = {key: (*shape, *one.shape) for key, one in boxes(space).items()}
    return {key: unit * torch.randn(shapes[key], generator=generator) for key, unit in units.items()}


def noisy_copies(observation: Observation, noise: Mapping[str, Tensor]) -> Observation:
    """Noisy copies `[draws, batch, ...]` of normalised observations `[batch, ...]`, with noise `[draws, batch, ...]` by
    key; entries without noise are repeated."""
    entries = observation if isinstance(observation, dict) else {"": observation}
    count = len(next(iter(noise.values())))
    made = {
        key: x.unsqueeze(0) + noise[key].to(x.dtype if x.is_floating_point() else noise[key].dtype)
        if key in noise
        else x.unsqueeze(0).expand(count, *x.shape)
        for key, x in entries.items()
    }
    return made if isinstance(observation, dict) else made[""]

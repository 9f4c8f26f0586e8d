"""What a network's output means in an action space: an action, or the scores of discrete ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.models.distributions import MultiDiscrete, for_space

UNTOLD = (
    "does not say how its observations were processed in training, so it gets the environment's raw ones (not "
    "normalised, frames not stacked, images not divided by 255), and its outputs are taken for actions in the "
    "environment's units, or for scores of which the highest is chosen. If that is wrong, write a function "
    "observation -> action around it and give module:function."
)


def fits(shape: Sequence[Any], whole: bool, space: spaces.Space) -> bool:
    """Whether an output of this shape without the batch axis is an action of the space or the scores of one.

    shape: sizes, where one that is not fixed may be anything but a number. whole: whether it holds whole numbers.
    """
    own = tuple(space.shape or ())
    if isinstance(space, spaces.Box):
        return not whole and (_same(shape, own) or _same(shape, (math.prod(own),)))
    if whole:
        return _same(shape, own) or _same(shape, (*own, 1))
    return _same(shape, (scores(space),))


def _same(shape: Sequence[Any], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(not isinstance(a, int) or a == b for a, b in zip(shape, wanted))


def scores(space: spaces.Space) -> int:
    """The number of scores of a discrete action: those of its parts one after another."""
    found: Any = for_space(space)
    return found.size


def actions_from(output: np.ndarray, space: spaces.Space, mask: np.ndarray | None = None) -> np.ndarray:
    """The actions `[batch, *shape]` that an output `[batch, ...]` means; of scores, the highest that the mask allows.

    Raises:
        UsageError: it has the shape of no action and of no scores.
    """
    whole, own = output.dtype.kind in "iub", tuple(space.shape or ())
    if not fits(output.shape[1:], whole, space):
        raise UsageError(
            f"The policy's output has shape {list(output.shape)} and type {output.dtype}, which is neither an action "
            f"of {space} nor a score for each. {wanted(space)}"
        )
    if isinstance(space, spaces.Box) or whole:
        return output.reshape(len(output), *own)
    distribution = for_space(space)
    assert isinstance(distribution, MultiDiscrete)
    found = torch.as_tensor(output)
    found = found if mask is None else distribution.masked(found, torch.as_tensor(mask))
    return distribution.to_env(distribution.mode(found)).numpy()


def wanted(space: spaces.Space) -> str:
    """Which outputs a policy for an action space may have, in words."""
    own = tuple(space.shape or ())
    if isinstance(space, spaces.Box):
        return f"Give actions in the environment's units, of shape {['batch', *own]}."
    return f"Give whole numbers of shape {['batch', *own]}, or scores of shape {['batch', scores(space)]}."


def tensors_of(answer: Any) -> list[Tensor]:
    """The tensors that a module returned: one, several, or what a torch.distributions object is about."""
    if isinstance(answer, torch.distributions.Distribution):
        inner: Any = answer
        return [inner.logits if hasattr(inner, "logits") else inner.mean]
    if isinstance(answer, Tensor):
        return [answer]
    if isinstance(answer, dict):
        answer = answer.values()
    if isinstance(answer, (tuple, list)) or hasattr(answer, "__iter__"):
        return [tensor for part in answer for tensor in tensors_of(part)]
    return []

"""Tokens as time: what the estimators of values along an episode are for completions `[rows, length]`."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from surefoot.objectives.advantages import Advantage


def token_advantages(
    advantage: Advantage,
    reward: Float[Tensor, " rows"],
    value: Float[Tensor, "rows length"],
    valid: Bool[Tensor, "rows length"],
) -> Float[Tensor, "rows length"]:
    """The advantage of every token, 0 where `valid` is False. A row is an episode of its valid tokens, which follow one
    another; `value` is that of the state before each, and all of `reward` comes with the last.

    A completion that the limit cut off has ended like any other, in a state of value 0: the reward is of what it is,
    and nobody will ask for what it would have become.
    """
    last = valid & ~_following(valid)
    return advantage(
        torch.where(last, reward[:, None], torch.zeros_like(value)).T,
        values=value.T,
        next_values=_following(value).T,
        terminated=last.T,
        valid=valid.T,
    ).T


def _following(x: Tensor) -> Tensor:
    """What stands one place further on, 0 or False after the last."""
    return torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)

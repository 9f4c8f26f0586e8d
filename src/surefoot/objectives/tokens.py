"""Tokens as time: advantage estimation for completions `[rows, length]`."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from surefoot.objectives.advantages import Advantage, following


def token_advantages(
    advantage: Advantage,
    reward: Float[Tensor, " rows"],
    value: Float[Tensor, "rows length"],
    valid: Bool[Tensor, "rows length"],
) -> Float[Tensor, "rows length"]:
    """The advantage of every token, 0 where `valid` is False. A row is an episode of its valid tokens, which are
    consecutive; `value` is that of the state before each, and all of `reward` comes with the last.

    A completion cut off by the token limit has ended like any other, in a state of value 0: its reward is for the
    completion as it is, so there is nothing to bootstrap.
    """
    value, valid = value.T, valid.T  # time is the first axis
    last = valid & ~following(valid)
    rewards = torch.where(last, reward, torch.zeros_like(value))
    return advantage(rewards, values=value, next_values=following(value), terminated=last, valid=valid).T

"""A token-level critic on the policy's hidden states: a single output unit next to the output layer, with a shared
trunk."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Critic(nn.Module):
    """V of the state before a token, `w·h + b` of the last hidden state h, from which the policy predicts that token.

    It is initialised to 0, so at first its error changes only `w` and `b`, not the trunk. Its weights and values are
    float32 whatever the data type of the network. `b` is a row of one number, because sharding divides rows.
    """

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, device=device))
        self.bias = nn.Parameter(torch.zeros(1, device=device))

    def forward(self, hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, " tokens"]:
        return hidden.float() @ self.weight + self.bias

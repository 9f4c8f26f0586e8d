"""A critic of tokens on the hidden states of the policy: one column beside the output layer, one trunk for both."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Critic(nn.Module):
    """V of the state before a token, `w·h + b` of the last hidden state h, from which the policy predicts that token.

    It starts at 0 everywhere, so at first its error moves `w` and `b` alone and leaves the trunk as it was. Its weights
    and its values are float32, whatever the network computes in: a value is a number, not a choice. `b` is a row of one
    number, because processes that share the model divide rows.
    """

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, device=device))
        self.bias = nn.Parameter(torch.zeros(1, device=device))

    def forward(self, hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, " tokens"]:
        return hidden.float() @ self.weight + self.bias

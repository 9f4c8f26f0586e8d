"""What judges on the policy's hidden states, next to its output layer and with a shared trunk: a critic of tokens, or
the heads of a reward model."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Critic(nn.Module):
    """V of the state before a token, `w·h + b` of the last hidden state h, from which the policy predicts that token.

    It is initialised to 0, so at first its error changes only `w` and `b`, not the trunk. Its weights and values are
    float32 whatever the data type of the network. `b` is a row of one number, because sharding divides rows.
    """

    outputs: ClassVar[tuple[int, ...]] = ()  # the shape of what it says about a token: one number

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, device=device))
        self.bias = nn.Parameter(torch.zeros(1, device=device))

    def forward(self, hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, " tokens"]:
        return hidden.float() @ self.weight + self.bias


class Heads(nn.Module):
    """Scores `w_k·h` of the last hidden state of a text, one of each head.

    Without a bias, because a constant changes no comparison; the weights are float32 and start with a standard
    deviation of 1/√(width + 1) (arXiv:2009.01325), so heads differ from the beginning, and scores have a size of 1.
    """

    def __init__(self, width: int, heads: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.outputs = (heads,)
        self.weight = nn.Parameter((torch.randn(heads, width) / (width + 1) ** 0.5).to(device))

    def forward(self, hidden: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens heads"]:
        return hidden.float() @ self.weight.T

"""What the policy says of an image: the parameters of a Beta distribution for every cell, and its densities."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

OWN = 0.1  # the share of an image's own parameters
LOW, HIGH = -3.0, 5.0  # log parameters of a Beta stay within


class Base(nn.Module):
    """The log parameters of all cells, A and then B, that the policy moves away from image by image."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.logs = nn.Parameter(torch.rand(size))

    def forward(self) -> Tensor:
        return self.logs


def log_parameters(base: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """A and B `[..., cells]` of every row, the logarithms of its Betas' parameters, from the base `[..., 2·cells]` and
    the policy's head."""
    a, b = ((1 - OWN) * base + OWN * head).clamp(LOW, HIGH).chunk(2, -1)
    return a, b


def log_density(
    mask: Float[Tensor, "... cells"], log_a: Float[Tensor, "... cells"], log_b: Float[Tensor, "... cells"]
) -> Float[Tensor, "... cells"]:
    """log Beta(m; a, b) of every cell."""
    a, b = log_a.exp(), log_b.exp()
    return (a - 1) * mask.log() + (b - 1) * (1 - mask).log() - log_beta(a, b)


def log_beta(a: Tensor, b: Tensor) -> Tensor:
    """The logarithm of the Beta function."""
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def entropy(log_a: Tensor, log_b: Tensor) -> Tensor:
    """The differential entropy of every cell; 0, the greatest, for the uniform distribution."""
    a, b = log_a.exp(), log_b.exp()
    own = (a - 1) * torch.digamma(a) + (b - 1) * torch.digamma(b)
    return log_beta(a, b) - own + (a + b - 2) * torch.digamma(a + b)

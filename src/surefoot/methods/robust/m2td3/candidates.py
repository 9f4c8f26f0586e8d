"""The candidates for the worst parameters, and the probabilities with which episodes have them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LENGTH = 1000.0  # of an episode, before any has ended


def draw(count: int, size: int, generator: torch.Generator | None = None) -> Tensor:
    """Logits of points that are uniform in the box."""
    return torch.logit(torch.rand(count, size, generator=generator), eps=1e-6)


class Candidates(nn.Module):
    """Points of the box [−1, 1]^k, uniform in it at first."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(draw(count, size))

    def forward(self) -> Tensor:
        return 2.0 * torch.sigmoid(self.logits) - 1.0


class Chances(nn.Module):
    """The probability of each candidate, and the length of recent episodes."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.chances = nn.Parameter(torch.cat([torch.full((count,), 1.0 / count), torch.tensor([LENGTH])]))

    def forward(self) -> Tensor:
        return self.chances


def moved(chances: Tensor, worst: Tensor, length: Tensor) -> Tensor:
    """Probabilities `[K]` after one more step in which candidate `worst` was the worst, c = 1/length."""
    chosen = torch.zeros_like(chances).scatter(0, worst.unsqueeze(0), 1.0)
    return chances + (chosen - chances) / length


def redrawn(points: Tensor, chances: Tensor, distance: float, least: float) -> Tensor:
    """Which candidates `[K, dim]` are drawn anew: the later one of a pair within an ℓ1 `distance`, and those whose
    probability is below `least`."""
    pairs = (points.unsqueeze(0) - points.unsqueeze(1)).abs().sum(-1) <= distance
    return pairs.triu(1).any(0) | (chances < least)


def renewed(chances: Tensor, fresh: Tensor) -> Tensor:
    """Probabilities where `fresh` candidates have the mean of the others', normalised; uniform if all are fresh."""
    if fresh.all():
        return torch.full_like(chances, 1.0 / len(chances))
    filled = torch.where(fresh, chances[~fresh].mean(), chances)
    return filled / filled.sum()

"""The temporary replicas of a model's head, the episodes that their predictions are, and the losses of episodes."""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from surefoot.models.row_network import RowModule, RowNetwork

BLOCKS = ("linear", "released", "residual")


class Replicas(RowModule):
    """A network of rows with blocks after its body, each of which starts as nothing but its dropout.

    `forward(x)` is the network without them. `forward(x, "chain", keep)` gives the scores `[1 + T, batch, k]` of the
    body's features and of those after every block; keep `[T, batch, width]` is what dropout multiplies by.
    """

    def __init__(self, network: RowNetwork, shape: tuple[int, ...], outputs: int, count: int, kind: str) -> None:
        super().__init__(network, shape, outputs)
        width = (self.width, self.width)
        inner = [nn.Sequential(*[nn.Linear(*width), nn.ReLU()] * (kind == "residual")) for _ in range(count)]
        outer = [_nothing(nn.Linear(*width)) for _ in range(count)]
        self.blocks = nn.ModuleList(nn.Sequential(a, b) for a, b in zip(inner, outer, strict=True))
        self.rectified = kind == "released"

    def forward(self, x: Tensor, only: str = "", keep: Tensor | None = None) -> Tensor:
        if only != "chain":
            return super().forward(x, only)
        assert keep is not None
        features = [self.body(x)]
        for block, kept in zip(self.blocks, keep, strict=True):
            dropped = features[-1] * kept
            more = block(dropped)
            features.append(dropped + (F.relu(more) if self.rectified else more))
        return self.head(torch.stack(features))


def _nothing(layer: nn.Linear) -> nn.Linear:
    """The layer with zero weights and biases."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@cache
def width_of(network: RowNetwork, shape: tuple[int, ...]) -> int:
    """The number of features that a network's head sees."""
    with torch.device("meta"):
        return network.make(shape, 1).width


def observed(right: Bool[Tensor, "steps rows"]) -> Float[Tensor, "steps_1 rows"]:
    """The state o before every prediction and after the last: 1 while all have been right, 0 where one was wrong for
    the first time, and −1 or 0 ever after, o ← o·(o + 1[right]) − 1. It never returns to 1."""
    state = torch.ones(right.shape[1:], dtype=torch.get_default_dtype(), device=right.device)
    states = [state]
    for one in right:
        state = state * (state + one) - 1
        states.append(state)
    return torch.stack(states)


def live(right: Bool[Tensor, "steps rows"]) -> Float[Tensor, "steps rows"]:
    """1 where a prediction belongs to its row's episode, which ends with the first that is wrong."""
    return (observed(right)[:-1] == 1).to(torch.get_default_dtype())


def average_over_live(
    losses: Float[Tensor, "steps rows"], alive: Float[Tensor, "steps rows"], weights: Float[Tensor, "steps"]
) -> Tensor:
    """The hyperparameter version: every step's mean over the rows that are alive, 0 if none is, weighted by step."""
    return (weights * (alive * losses).sum(1) / alive.sum(1).clamp(min=1)).sum()


def weighted_by_return(
    losses: Float[Tensor, "steps rows"], alive: Float[Tensor, "steps rows"], weights: Float[Tensor, "steps"]
) -> Tensor:
    """The architecture version: the losses of a row's episode, times 1 + the weights of the steps that it reached."""
    returns = (weights.unsqueeze(1) * alive).sum(0)  # the first weight is 1, and the first step always alive
    return (returns * (alive * losses).sum(0)).mean()


def as_large_as(loss: Tensor, base: Tensor) -> Tensor:
    """The loss times exp(base − loss), a constant in the gradient, which keeps it near the size of the base loss."""
    return loss * (base - loss).exp().detach()

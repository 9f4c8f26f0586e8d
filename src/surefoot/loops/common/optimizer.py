"""Adam, descent with momentum and gradient-norm clipping on flat vectors: a few vector operations that a compiler
fuses into one pass."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

BETA1, BETA2 = 0.9, 0.999


class Adam(NamedTuple):
    """Running means of the gradient and of its square, and the number of steps taken. Leading axes are seeds."""

    mean: Float[Tensor, "... size"]
    square: Float[Tensor, "... size"]
    count: Float[Tensor, "..."]

    @classmethod
    def start(cls, vector: Float[Tensor, "... size"]) -> Adam:
        return cls(torch.zeros_like(vector), torch.zeros_like(vector), torch.zeros(vector.shape[:-1]))

    def step(
        self, vector: Float[Tensor, "size"], gradient: Float[Tensor, "size"], lr: Tensor | float, epsilon: float = 1e-8
    ) -> tuple[Float[Tensor, "size"], Adam]:
        """The vector after one descent step, and the new running means (arXiv:1412.6980)."""
        count = self.count + 1
        mean = torch.lerp(self.mean, gradient, 1 - BETA1)
        square = torch.lerp(self.square, gradient * gradient, 1 - BETA2)
        # What corrects the means for their start at 0 is applied to the rate and to ε: two numbers, not two vectors.
        # Both powers are one tensor, which a compiler computes before the vectors, not anew for all of their parts.
        logarithms = vector.new_tensor((math.log(BETA1), math.log(BETA2)))
        first, second = (1 - torch.exp(count.unsqueeze(-1) * logarithms)).unbind(-1)
        root = torch.sqrt(second)
        return vector - (lr * root / first) * mean / (torch.sqrt(square) + epsilon * root), Adam(mean, square, count)


class Momentum(NamedTuple):
    """The running sum of gradients of stochastic gradient descent. Leading axes are seeds."""

    mean: Float[Tensor, "... size"]

    @classmethod
    def start(cls, vector: Float[Tensor, "... size"]) -> Momentum:
        return cls(torch.zeros_like(vector))

    def step(
        self, vector: Float[Tensor, "size"], gradient: Float[Tensor, "size"], lr: Tensor | float, momentum: float
    ) -> tuple[Float[Tensor, "size"], Momentum]:
        """The vector after one descent step along `momentum·mean + gradient`, which becomes the mean."""
        mean = momentum * self.mean + gradient
        return vector - lr * mean, Momentum(mean)


def clip_norm(gradient: Float[Tensor, "size"], limit: float | None) -> tuple[Float[Tensor, "size"], Float[Tensor, ""]]:
    """The gradient scaled down to norm `limit` if its norm is greater, and its norm before that."""
    norm = torch.linalg.vector_norm(gradient)
    return (gradient if limit is None else gradient * (limit / (norm + 1e-6)).clamp(max=1.0)), norm

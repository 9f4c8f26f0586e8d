"""Running normalisation, stored as plain tensors so that it is part of every checkpoint."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CLIP = 10.0
EPSILON = 1e-8


class Moments(NamedTuple):
    """Count, mean and (population) variance of all data seen, float64. Leading axes are independent normalisers."""

    count: Float[Tensor, "..."]
    mean: Float[Tensor, "... dim"]
    variance: Float[Tensor, "... dim"]

    @classmethod
    def start(cls, *shape: int) -> Moments:
        """Nothing seen yet: mean 0 and variance 1, which leaves data unchanged."""
        float64 = torch.float64
        return cls(
            torch.zeros(shape[:-1], dtype=float64), torch.zeros(shape, dtype=float64), torch.ones(shape, dtype=float64)
        )

    def update(self, x: Float[Tensor, "... batch dim"], valid: Bool[Tensor, "... batch"]) -> Moments:
        """The moments after a batch, by the parallel formula of Chan, Golub and LeVeque (1979)."""
        weight = valid.unsqueeze(-1).double()
        data = torch.where(valid.unsqueeze(-1), x.double(), torch.zeros((), dtype=torch.float64))
        count = weight.sum(-2).squeeze(-1)
        each = count.clamp(min=1).unsqueeze(-1)
        mean = data.sum(-2) / each
        variance = (weight * (data - mean.unsqueeze(-2)) ** 2).sum(-2) / each
        total = self.count + count
        share = (count / total.clamp(min=1)).unsqueeze(-1)
        shift = mean - self.mean
        # Before any data the variance of 1 is a placeholder, and share = 1 removes it.
        new_variance = (1 - share) * self.variance + share * variance + share * (1 - share) * shift**2
        return Moments(total, self.mean + share * shift, new_variance)

    @classmethod
    def of_scale(cls, mean: Tensor, inverse_std: Tensor, count: float) -> Moments:
        """The moments after `count` data whose `scale` this is, `[...]`, as one normaliser `[1, dim]`."""
        variance = (inverse_std.double() ** -2 - EPSILON).clamp(min=0)
        parts = torch.tensor([float(count)], dtype=torch.float64), mean.double().view(1, -1), variance.view(1, -1)
        return cls(*parts)

    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and inverse standard deviation in float32, for `normalize`."""
        return self.mean.float(), (self.variance + EPSILON).rsqrt().float()


def normalize(x: Float[Tensor, "..."], mean: Tensor, inverse_std: Tensor) -> Float[Tensor, "..."]:
    """(x − mean) / std, clipped to ±10, as floats."""
    x = x if x.is_floating_point() else x.to(mean.dtype)
    return ((x - mean) * inverse_std).clamp(-CLIP, CLIP)

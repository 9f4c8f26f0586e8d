"""Aggregations: how the contributions of elements are combined into one loss.

An aggregation returns weights c with the shape of the mask; the loss is Σ c·x over the valid elements. Weights never
depend on the contents of padding. The `axis` of a sequence is −1 for tokens `[batch, length]`, 0 for rollouts
`[time, batch]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.objectives.part import Part


@dataclass(frozen=True)
class Aggregation(Part, slot="aggregation"):
    """Base of aggregations."""

    def weights(self, valid: Bool[Tensor, "..."], dtype: torch.dtype = torch.float32) -> Float[Tensor, "..."]:
        """The weight of every element, 0 where `valid` is False."""
        raise NotImplementedError

    def __call__(self, x: Float[Tensor, "..."], valid: Bool[Tensor, "..."] | None = None) -> Float[Tensor, ""]:
        """Σ c·x over the valid elements."""
        if valid is None:
            valid = torch.ones_like(x, dtype=torch.bool)
        zero = torch.zeros((), dtype=x.dtype)
        return (self.weights(valid, x.dtype) * torch.where(valid, x, zero)).sum()


@dataclass(frozen=True)
class mean(Aggregation):
    """Equal weight for every valid element: 1 / number of valid elements."""

    formula = "mean"

    def weights(self, valid: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return valid.to(dtype) / valid.sum().clamp(min=1)


@dataclass(frozen=True)
class per_sequence(Aggregation):
    """Equal weight for every nonempty sequence, shared among its elements: 1 / (sequences · length)."""

    axis: int = hyperparameter(-1, help="Axis of the sequence.")
    formula = "mean_seq mean_t"

    def weights(self, valid: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        lengths = valid.sum(self.axis, keepdim=True)
        return valid.to(dtype) / lengths.clamp(min=1) / (lengths > 0).sum().clamp(min=1)


@dataclass(frozen=True)
class delta_l(Aggregation):
    """Sequences of length L have weight ∝ L^−power, with the sum 1 / length: the same step size for all lengths.

    The gradient summed over a sequence has a variance that grows with L; power 1 gives the mean over sequences with the
    least variance, power 0 is `constant_length` (ΔL normalisation, arXiv:2509.07558).
    """

    power: float = hyperparameter(1.0, low=0, high=1, help="Exponent of the length in the weights.")
    length: float = hyperparameter(1.0, above=0, help="Constant divisor, such as the maximum completion length.")
    axis: int = hyperparameter(-1, help="Axis of the sequence.")
    formula = "Σ_seq w Σ_t / {length:g}, w ∝ L^−{power:g}"

    def weights(self, valid: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        lengths = valid.sum(self.axis, keepdim=True)
        share = torch.where(lengths > 0, lengths.clamp(min=1).to(dtype) ** -self.power, torch.zeros((), dtype=dtype))
        return valid.to(dtype) * share / share.sum().clamp(min=torch.finfo(dtype).tiny) / self.length


@dataclass(frozen=True)
class constant_length(Aggregation):
    """Sum over the sequence divided by one constant, mean over sequences (Dr.GRPO): long answers weigh more."""

    length: float = hyperparameter(1.0, above=0, help="Constant divisor, such as the maximum completion length.")
    axis: int = hyperparameter(-1, help="Axis of the sequence.")
    formula = "mean_seq Σ_t / {length:g}"

    def weights(self, valid: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        sequences = valid.any(self.axis, keepdim=True).sum().clamp(min=1)
        return valid.to(dtype) / self.length / sequences

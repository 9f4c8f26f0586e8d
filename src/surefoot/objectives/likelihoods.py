"""Likelihoods: the function F(π) of the probability that is increased; its slope F'(π) multiplies the gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.objectives.part import Part


@dataclass(frozen=True)
class Likelihood(Part, slot="likelihood"):
    """Base of likelihoods."""

    def slope(self, log_prob: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """F'(π) of every element; the input is detached."""
        raise NotImplementedError


@dataclass(frozen=True)
class plain(Likelihood):
    """F(π) = π."""

    formula = "π"

    def slope(self, log_prob: Tensor) -> Tensor:
        return torch.ones_like(log_prob)


@dataclass(frozen=True)
class saturating(Likelihood):
    """F(π) = π/(π + c): rare actions of a demonstration get more weight than common ones (LUFFY, arXiv:2504.14945)."""

    offset: float = hyperparameter(0.1, above=0, help="c: probability at which F is 1/2.")
    formula = "π/(π + {offset:g})"

    def slope(self, log_prob: Tensor) -> Tensor:
        return self.offset / (torch.exp(log_prob) + self.offset) ** 2

"""Unbiased worst cases from samples: those of empirical distributions, combined by multilevel Monte Carlo.

On average, the worst case of the empirical distribution of m samples lies above that of the true distribution. Let N be
a random level, let 2^{N+1} samples be drawn, and let one, even and odd be the first sample and the two halves:

    σ̂ = σ(one) + (σ(all) − σ(even)/2 − σ(odd)/2) / Pr(N)

The differences telescope: with Pr(N = n) = Ψ(1 − Ψ)^n cut off at a cap M, the mean of σ̂ is that of σ with 2^{M+1}
samples, for M + 2 samples on average at Ψ = 1/2. Source: Blanchet and Glynn, "Unbiased Monte Carlo for optimization
and functions of expectations via multi-level randomization", WSC 2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity import Ambiguity
from surefoot.ambiguity.operator import solve
from surefoot.hyperparameters import check, hyperparameter


class Draws(NamedTuple):
    """Empirical distributions `[4, ..., n]` of one, all, even and odd samples, and their weights `[4, ...]`."""

    laws: Tensor
    weights: Tensor
    samples: Tensor  # [...] how many were drawn


@dataclass(frozen=True)
class Levels:
    """The distribution of the level N: geometric from 0 on, with the mass above the cap moved to the cap."""

    psi: float = hyperparameter(0.5, above=0, below=1, help="Ψ: probability of level 0.")
    cap: int = hyperparameter(8, low=0, high=30, help="Highest level.")

    def __post_init__(self) -> None:
        check(self)

    def probability(self, level: np.ndarray) -> np.ndarray:
        """Pr(N = level), for levels up to the cap."""
        return (1 - self.psi) ** level * np.where(level < self.cap, self.psi, 1.0)

    def draw(self, nominal: Tensor, stream: np.random.Generator) -> Draws:
        """Samples of each of the rows `[..., n]`, each with its own level."""
        rows = (nominal / nominal.sum(-1, keepdim=True)).cpu().numpy()
        level = np.minimum(stream.geometric(self.psi, rows.shape[:-1]) - 1, self.cap)
        half = 1 << level
        even, odd = (stream.multinomial(half, rows) for _ in range(2))
        first = even.cumsum(-1) > (stream.random(half.shape) * half)[..., None]  # all are equally likely to be first
        one = np.diff(first, axis=-1, prepend=False)
        laws = np.stack([one, *(x / half[..., None] for x in ((even + odd) / 2, even, odd))])
        weight = 1 / self.probability(level)
        weights = np.stack([np.ones_like(weight), weight, -weight / 2, -weight / 2])
        return Draws(*(torch.from_numpy(x).to(nominal.device) for x in (laws, weights, 2 * half)))


def worst(values: Tensor, draws: Draws, ambiguity: Ambiguity) -> Tensor:
    """σ̂ `[...]` of values that broadcast with the rows `[..., n]`."""
    return (draws.weights * solve(values, draws.laws, ambiguity, ambiguity.strength).value).sum(0)

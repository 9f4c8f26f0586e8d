"""A matrix from few of its entries: low-rank completion for masks that are not random, with error bounds.

If an entry is seen with probability P, a sum over seen entries with weights 1/P is unbiased for the sum over all of
them (Horvitz and Thompson, 1952). The completion weights its loss in this way; the intervals weight their calibration
entries by the odds (1 − P)/P, which makes them representative of the unseen entries (Gui, Barber and Ma,
"Conformalized matrix completion", NeurIPS 2023).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Completion(NamedTuple):
    """A low-rank matrix left·rightᵀ of `[S, k]` and `[A, k]`, and the spikes beside it `[S, A]`, 0 where unseen."""

    left: Tensor
    right: Tensor
    spikes: Tensor

    @property
    def matrix(self) -> Tensor:
        """The low-rank part `[S, A]`, which is known everywhere."""
        return self.left @ self.right.mT


def complete(
    values: Tensor,
    weight: Tensor,
    rank: int,
    ridge: float,
    sparse: float,
    generator: torch.Generator,
    *,
    sweeps: int = 30,
    restarts: int = 3,
) -> Completion:
    """The best of some restarts of alternating least squares for

        min Σ weight·((values − U Vᵀ − E)² + sparse·|E|) + ridge·(‖U‖² + ‖V‖²)

    over U `[S, rank]`, V `[A, rank]` and spikes E; values, weight: `[S, A]`, weight 0 where nothing is seen.
    """
    right = torch.randn(restarts, values.shape[1], rank, generator=generator, dtype=values.dtype)
    spikes = values.new_zeros(restarts, *values.shape)
    for _ in range(sweeps):
        left = regressed(values - spikes, weight, right, ridge)
        right = regressed((values - spikes).mT, weight.mT, left, ridge)
        rest = values - left @ right.mT
        spikes = torch.where(weight > 0, rest.sign() * (rest.abs() - sparse / 2).clamp(min=0), 0.0)
    loss = (weight * ((values - spikes - left @ right.mT) ** 2 + sparse * spikes.abs())).sum((-2, -1))
    best = int((loss + ridge * (left.square().sum((-2, -1)) + right.square().sum((-2, -1)))).argmin())
    return Completion(left[best], right[best], spikes[best])


def regressed(values: Tensor, weight: Tensor, factors: Tensor, ridge: float) -> Tensor:
    """Each row of values `[..., S, A]` by weighted ridge regression on factors `[..., A, k]`: `[..., S, k]`."""
    right = (weight * values).unsqueeze(-2) @ factors.unsqueeze(-3)
    return torch.linalg.solve(_gram(weight, factors, ridge), right.mT).squeeze(-1)


def leverage(weight: Tensor, factors: Tensor, ridge: float) -> Tensor:
    """√(vᵀ(Vᵀ W_s V + ridge·I)⁻¹v) `[S, A]`: how little the seen entries of row s say about column a (leverage)."""
    solved = torch.linalg.solve(_gram(weight, factors, ridge), factors.mT.unsqueeze(-3))  # [S, k, A]
    return (factors.mT * solved).sum(-2).sqrt()


def _gram(weight: Tensor, factors: Tensor, ridge: float) -> Tensor:
    """Vᵀ W_s V + ridge·I `[..., S, k, k]`."""
    products = (factors.unsqueeze(-1) * factors.unsqueeze(-2)).flatten(-2)  # [..., A, k·k]
    k = factors.shape[-1]
    return (weight @ products).unflatten(-1, (k, k)) + ridge * torch.eye(k, dtype=factors.dtype)


def conformal_width(scores: Tensor, weights: Tensor, target: Tensor, alpha: float) -> Tensor:
    """The weighted quantile that scores exceed with probability at most alpha: `[...]` as `target`.

    scores, weights: `[n]` of calibration entries; target: the weights of the entries to bound. The smallest
    score whose cumulative weight reaches (1 − alpha)·(Σ weights + target), infinite where none does: split conformal
    prediction under covariate shift (Tibshirani et al., NeurIPS 2019).
    """
    ordered, order = scores.sort()
    reached = weights[order].cumsum(0)
    wanted = (1 - alpha) * (weights.sum() + target)
    place = torch.searchsorted(reached, wanted * (1 - 1e-12))
    return torch.cat([ordered, ordered.new_tensor([torch.inf])])[place]

"""Least squares on the features of a linear MDP, a regression for each step: costs to go, next states, widths.

In a linear MDP the kernel is P(s′|s, a) = φ(s, a)ᵀψ(s′), so what any function of the next state is expected to be is
linear in φ, and so is every policy's Q.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def evaluated(covariance: Tensor, phi: Tensor, to_go: Tensor) -> Tensor:
    """θ = Σ⁻¹·mean of φ·L, `[H, d]`: least squares for costs to go `[n, H]` at features `[n, H, d]`."""
    return torch.linalg.solve(covariance, (phi * to_go[..., None]).mean(0))


def width(features: Tensor, matrix: Tensor) -> Tensor:
    """‖φ‖ = √(φᵀM⁻¹φ) `[H, S, A]` of features `[H, S, A, d]` under positive definite matrices M `[H, d, d]`."""
    columns = features.flatten(1, 2).mT
    return (columns * torch.linalg.solve(matrix, columns)).sum(1).sqrt().view(features.shape[:-1])


def remembered(state: Mapping[str, Tensor], phi: Tensor, states: Tensor) -> dict[str, Tensor]:
    """The Gram matrices Σφφᵀ + I `[H, d, d]` and Σφ·1{s′} `[H, d, S]` with the transitions of more episodes.

    The latter is all that a regression of any function of the next state needs.
    """
    gram, after = state["gram"].clone(), state["followed"].clone()
    gram[:-1] += torch.einsum("nhi,nhj->hij", phi[:, :-1], phi[:, :-1])
    for h in range(len(gram) - 1):
        after[h].index_add_(1, states[:, h + 1], phi[:, h].mT)
    return {"gram": gram, "followed": after}


def followed(features: Tensor, state: Mapping[str, Tensor], step: int, values: Tensor) -> Tensor:
    """The regressed expectation `[S, A]` of values `[S]` after a step: φᵀv, v = Gram⁻¹·Σ φ·values(s′)."""
    return features[step] @ torch.linalg.solve(state["gram"][step], state["followed"][step] @ values)

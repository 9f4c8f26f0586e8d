"""Least squares on the features of a linear MDP, a regression for each step: costs to go, next states, widths.

In a linear MDP the kernel is P(s′|s, a) = φ(s, a)ᵀμ(s′), so what any function of the next state is expected to be is
linear in φ, and so is every policy's Q. The regression of all functions of the next state is one matrix: what g(s′) is
expected to be under factor i is estimated by (Λ⁻¹ Σ φ·g(s′))_i = μ̂_i·g, where μ̂ = Λ⁻¹ Σ φ·1{s′}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP
from surefoot.loops.tabular.episodes import episodic


class Sums(NamedTuple):
    """All that regressions on the features need of the transitions, for each step."""

    gram: Tensor  # [H, d, d] Λ = Σ φφᵀ + ridge·I
    followed: Tensor  # [H, d, S'] Σ φ·1{s'}


def nothing(mdp: TabularMDP, ridge: float = 1.0) -> Sums:
    """The sums before any transition."""
    horizon, size = episodic(mdp).horizon, mdp.features.shape[-1]
    gram = ridge * torch.eye(size, dtype=torch.float64).repeat(horizon, 1, 1)
    return Sums(gram, gram.new_zeros(horizon, size, mdp.states))


def remembered(state: Mapping[str, Tensor]) -> Sums:
    """The sums that a method keeps in its state, by their names."""
    return Sums(state["gram"], state["followed"])


def added(sums: Sums, phi: Tensor, next_states: Tensor, weight: Tensor | None = None) -> Sums:
    """The sums with the first h steps of more episodes.

    phi: `[K, h, d]`; next_states: `[K, h]`; weight: `[K, h]` of each transition (None: one).
    """
    weighted = phi if weight is None else phi * weight[..., None]
    gram, followed = sums.gram.clone(), sums.followed.clone()
    gram[: phi.shape[1]] += torch.einsum("khi,khj->hij", weighted, phi)
    for h in range(phi.shape[1]):
        followed[h].index_add_(1, next_states[:, h], weighted[:, h].mT)
    return Sums(gram, followed)


def factors(sums: Sums, step: int) -> Tensor:
    """μ̂ = Λ⁻¹ Σ φ·1{s'} `[d, S']` of a step. Its rows are no distributions: they may be negative and sum to less."""
    return torch.linalg.solve(sums.gram[step], sums.followed[step])


def expectation(features: Tensor, sums: Sums, step: int, values: Tensor) -> Tensor:
    """φᵀμ̂·values `[S, A]`: what values `[S']` are expected to be after a step; features `[H, S, A, d]`."""
    return features[step] @ (factors(sums, step) @ values)


def evaluated(covariance: Tensor, phi: Tensor, to_go: Tensor) -> Tensor:
    """θ = Σ⁻¹·mean of φ·L, `[H, d]`: least squares for costs to go `[n, H]` at features `[n, H, d]`."""
    return torch.linalg.solve(covariance, (phi * to_go[..., None]).mean(0))


# --- widths `[..., S, A]` of features `[..., S, A, d]` under positive definite matrices `[..., d, d]` -----------------


def elliptical_width(features: Tensor, gram: Tensor) -> Tensor:
    """√(φᵀΛ⁻¹φ): the uncertainty of one regression."""
    columns = features.flatten(-3, -2).mT
    return (columns * torch.linalg.solve(gram, columns)).sum(-2).clamp(min=0).sqrt().view(features.shape[:-1])


def coordinate_width(features: Tensor, gram: Tensor) -> Tensor:
    """Σ_i φ_i·√(Λ⁻¹)_ii: the uncertainty of each factor, weighed by how much of it is in φ."""
    return torch.einsum("...sai,...i->...sa", features.abs(), _variances(gram).sqrt())


def diagonal_width(features: Tensor, gram: Tensor) -> Tensor:
    """√(Σ_i φ_i²·(Λ⁻¹)_ii): the same as a Euclidean norm, which is smaller by up to √d."""
    return torch.einsum("...sai,...i->...sa", features**2, _variances(gram)).sqrt()


def _variances(gram: Tensor) -> Tensor:
    """(Λ⁻¹)_ii `[..., d]`."""
    return torch.linalg.inv(gram).diagonal(dim1=-2, dim2=-1)

"""Worst cases in linear MDPs from samples: ridge regression for each factor, dual formulas on what it gives.

What a function g of the next state is expected to be under factor i is estimated by (Λ⁻¹ Σ φ·g(s'))_i = μ̂_i·g, where
μ̂ = Λ⁻¹ Σ φ·1{s'} `[d, S']` has the regressions of all functions in it. Its rows are no distributions: they may be
negative and need not sum to one, so `surefoot.ambiguity` does not take them. The duals of the sets are written for
such rows here; where a row is a distribution they equal the operator.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.ambiguity import KL, Ambiguity, ChiSquare, TotalVariation
from surefoot.envs.tabular import TabularMDP
from surefoot.errors import UsageError

LEVELS = 400  # multipliers that the dual of a KL ball is tried at


class Sums(NamedTuple):
    """All that regressions on the features need of the transitions, for each step."""

    gram: Tensor  # [H, d, d] Σ φφᵀ
    after: Tensor  # [H, d, S'] Σ φ·1{s'}


def sums(phi: Tensor, next_states: Tensor, states: int, weight: Tensor | None = None) -> Sums:
    """phi: `[K, H, d]`; next_states: `[K, H]`; weight: `[K, H]` of each transition (None: one)."""
    weighted = phi if weight is None else phi * weight[..., None]
    seen = torch.nn.functional.one_hot(next_states, states).double()
    return Sums(torch.einsum("khi,khj->hij", weighted, phi), torch.einsum("khi,khs->his", weighted, seen))


def stepped_features(mdp: TabularMDP) -> Tensor:
    """The features `[H, S, A, d]`."""
    assert mdp.horizon is not None
    return mdp.features if mdp.features.ndim == 4 else mdp.features.expand(mdp.horizon, *mdp.features.shape)


def stepped_reward(mdp: TabularMDP) -> Tensor:
    """The rewards `[H, S, A]`."""
    assert mdp.horizon is not None
    reward = mdp.expected_reward()
    return reward if reward.ndim == 3 else reward.expand(mdp.horizon, *reward.shape)


def ceilings(mdp: TabularMDP) -> Tensor:
    """The greatest sum of rewards `[H + 1]` from each step on that the size of the rewards allows."""
    total = [torch.zeros((), dtype=torch.float64)]
    for reward in stepped_reward(mdp).flatten(1).amax(1).flip(0):
        total.append(reward.clamp(min=0) + mdp.gamma * total[-1])
    return torch.stack(total[::-1])


def ended(mdp: TabularMDP) -> Tensor:
    """The states `[S]` that are never left and never pay: their value is known to be 0 (the "fail" states)."""
    stay = torch.ones(mdp.states, dtype=torch.bool)
    for step in range(len(mdp.rows) if mdp.stepped else 1):
        here = mdp.at(step)
        own = here.transition.state == torch.arange(mdp.states)[:, None, None] if mdp.sparse else None
        kept = here.rows.diagonal(dim1=0, dim2=2).T if own is None else (here.rows * own).sum(-1)
        stay &= (kept >= 1 - 1e-12).all(-1)
    return stay & (stepped_reward(mdp) == 0).all(-1).all(0)


def coordinate_width(features: Tensor, inverse: Tensor) -> Tensor:
    """Σ_i φ_i·√(Λ⁻¹)_ii `[...]`: the uncertainty of each factor, weighed by how much of it is in φ."""
    return features.abs() @ inverse.diagonal(dim1=-2, dim2=-1).sqrt()


def diagonal_width(features: Tensor, inverse: Tensor) -> Tensor:
    """√(Σ_i φ_i²·(Λ⁻¹)_ii) `[...]`: the same as a Euclidean norm, which is smaller by up to √d."""
    return (features**2 @ inverse.diagonal(dim1=-2, dim2=-1)).sqrt()


def elliptical_width(features: Tensor, inverse: Tensor) -> Tensor:
    """√(φᵀΛ⁻¹φ) `[...]`: the uncertainty of one regression."""
    return (features @ inverse * features).sum(-1).clamp(min=0).sqrt()


def check_set(ambiguity: Ambiguity | None) -> None:
    """Raise `UsageError` for a set that has no dual for regressions here."""
    penalised = getattr(ambiguity, "penalty", None) is not None
    known = (KL, TotalVariation, ChiSquare) if penalised else (KL, TotalVariation)
    if ambiguity is not None and type(ambiguity) not in known:
        raise UsageError(
            f"ambiguity={str(ambiguity)!r} is not allowed in a regression; give a penalty tv-penalty, kl-penalty or "
            "chi2-penalty, such as tv-penalty:0.1, or a ball tv or kl, such as tv:0.2."
        )


def worst_factors(
    estimate: Tensor,
    values: Tensor,
    ambiguity: Ambiguity | None,
    ceiling: float | Tensor,
    step: int = 0,
    known: Tensor | None = None,
) -> Tensor:
    """The worst expectation `[d]` of values `[S']` under each estimated factor `[d, S']`; None: the plain one.

    ceiling: what no value exceeds. A radius or penalty is a number, `[d]`, or `[H, d]` of which row `step` holds.
    known: states `[S']` that count as outcomes whether met or not; the lowest value is that of these and those met.
    """
    outcome = (estimate != 0).any(0) if known is None else (estimate != 0).any(0) | known
    if ambiguity is None or not bool(outcome.any()):
        return estimate @ values
    estimate, values = estimate[:, outcome], values[outcome]
    lowest = values.min()
    highest = torch.maximum(torch.as_tensor(ceiling, dtype=torch.float64), values.max())
    strength = torch.as_tensor(ambiguity.strength, dtype=torch.float64)
    strength = (strength[step] if strength.ndim == 2 else strength).expand(len(estimate))
    penalised = getattr(ambiguity, "penalty", None) is not None
    if isinstance(ambiguity, KL):
        return (_kl_penalty if penalised else _kl_ball)(estimate, values, strength, lowest, highest)
    if isinstance(ambiguity, TotalVariation):
        return (_tv_penalty if penalised else _tv_ball)(estimate, values, strength, lowest)
    return _chi_square_penalty(estimate, values, strength, highest)


def _tv_penalty(estimate: Tensor, values: Tensor, penalty: Tensor, lowest: Tensor) -> Tensor:
    """μ̂·min(v, v_min + λ)."""
    return (estimate * torch.minimum(values, lowest + penalty[:, None])).sum(-1)


def _tv_ball(estimate: Tensor, values: Tensor, radius: Tensor, lowest: Tensor) -> Tensor:
    """max_α μ̂·min(v, α) − ρ·(α − v_min): piecewise linear in α, so a value attains it."""
    clipped = torch.minimum(values, values[:, None]) @ estimate.T  # [α, d]
    return (clipped - radius * (values - lowest)[:, None]).amax(0)


def _kl_penalty(estimate: Tensor, values: Tensor, penalty: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """−λ·log μ̂·exp(−v/λ), the regression held to where an expectation could be."""
    penalty = penalty.clamp(min=1e-200)
    tilted = (estimate * torch.exp(-(values - lowest) / penalty[:, None])).sum(-1)
    least = torch.exp(-(highest - lowest) / penalty).clamp(min=1e-300)
    return lowest - penalty * torch.log(torch.minimum(torch.maximum(tilted, least), torch.ones_like(least)))


def _kl_ball(estimate: Tensor, values: Tensor, radius: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """max_α −α·log μ̂·exp(−v/α) − α·ρ over a geometric grid of α; v_min, which every ball holds, is the floor."""
    scale = (highest - lowest).clamp(min=1e-12)
    level = scale * torch.logspace(-3, 4, LEVELS, dtype=torch.float64)[:, None]  # [α, 1]
    exponential = torch.exp(-(values - lowest) / level)
    tilted = 1 + torch.expm1(-(values - lowest) / level) @ estimate.T  # the mass of μ̂ is taken as one
    least = exponential.amin(-1, keepdim=True)
    tilted = torch.minimum(torch.maximum(tilted, least), torch.ones_like(least))
    return lowest + (-level * torch.log(tilted) - level * radius).amax(0).clamp(min=0)


def _chi_square_penalty(estimate: Tensor, values: Tensor, penalty: Tensor, highest: Tensor) -> Tensor:
    """max_α z + (z² − z₂)/4λ, z = μ̂·min(v, α), z₂ = μ̂·min(v, α)²: quadratic in α between two values.

    The candidates are the values and, in each interval, the stationary point 2λ + z(below) = α·mass(below).
    """
    penalty = penalty.clamp(min=1e-200)[:, None]
    order = values.argsort()
    v, c = values[order], estimate[:, order]
    mass, first = c.cumsum(-1), (c * v).cumsum(-1)
    rest = estimate.sum(-1, keepdim=True) - mass
    vertex = (2 * penalty + first) / torch.where(rest == 1, torch.inf, 1 - rest)
    upper = torch.cat([v[1:], highest[None]])
    level = torch.cat([v.expand_as(c), torch.minimum(torch.maximum(vertex, v), upper)], -1)  # [d, α]
    clipped = torch.minimum(values, level[..., None])
    z, second = ((estimate[:, None] * power).sum(-1) for power in (clipped, clipped**2))
    return (z + (z * z - second) / (4 * penalty)).amax(-1)

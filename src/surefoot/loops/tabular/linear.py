"""Worst cases in linear MDPs from samples: dual formulas on the factors that ridge regression gives.

Rows of regressed factors are no distributions (see `least_squares`), so `surefoot.ambiguity` does not take them. The
duals of the sets are written for such rows here; where a row is a distribution they equal the operator.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from surefoot.ambiguity import KL, Ambiguity, ChiSquare, TotalVariation
from surefoot.ambiguity.operator import solve
from surefoot.envs.tabular import TabularMDP
from surefoot.errors import UsageError
from surefoot.loops.tabular.episodes import episodic
from surefoot.loops.tabular.least_squares import Sums, factors

LEAST_PRICE = 1e-12  # of χ², which has no limit at 0
LEVELS = 400  # multipliers that the dual of a KL ball is tried at


@lru_cache(maxsize=4)
def ceilings(mdp: TabularMDP) -> Tensor:
    """The greatest sum of rewards `[H + 1]` from each step on that the size of the rewards allows."""
    total = [torch.zeros((), dtype=torch.float64)]
    for reward in episodic(mdp).reward.flatten(1).amax(1).flip(0):
        total.append(reward.clamp(min=0) + mdp.gamma * total[-1])
    return torch.stack(total[::-1])


@lru_cache(maxsize=4)
def limits(mdp: TabularMDP) -> tuple[Tensor, Tensor]:
    """The least and the greatest sum of rewards `[2, H + 1]` that an episode can have from each step on."""
    sums = torch.zeros(2, episodic(mdp).horizon + 1, dtype=torch.float64)
    for h in reversed(range(episodic(mdp).horizon)):
        sums[:, h] = torch.stack(episodic(mdp).reward[h].aminmax()) + mdp.gamma * sums[:, h + 1]
    return sums[0], sums[1]


def backup(
    mdp: TabularMDP, sums: Sums, step: int, values: Tensor, ambiguity: Ambiguity | None, known_ends: bool = True
) -> Tensor:
    """r + γ·φᵀŵ `[S, A]`: a step back from values `[S']` against the worst of the regressed factors.

    States in which an episode is over count as outcomes whether met or not, as their value is known to be 0; without
    `known_ends` only where met.
    """
    world = episodic(mdp)
    known = world.over if known_ends else None
    worst = worst_factors(factors(sums, step), values, ambiguity, ceilings(mdp)[step + 1], step, known)
    return world.reward[step] + mdp.gamma * world.features[step] @ worst


def true_backup(mdp: TabularMDP, step: int, values: Tensor, ambiguity: Ambiguity | None) -> Tensor:
    """r + γ·φᵀw `[S, A]`: the same against the worst of the true factors. A `UsageError` where there are none."""
    world = episodic(mdp)
    worst = world.factors[step] @ values
    if ambiguity is not None:
        here = at_step(ambiguity, step)
        worst = solve(values, world.factors[step], here, here.strength).value
    return world.reward[step] + mdp.gamma * world.features[step] @ worst


def check_set(ambiguity: Ambiguity | None, mdp: TabularMDP) -> None:
    """Raise `UsageError` for a set that has no dual for regressions here, or sizes that do not fit the features."""
    if ambiguity is None:
        return
    known = (KL, TotalVariation) if _is_ball(ambiguity) else (KL, TotalVariation, ChiSquare)
    if type(ambiguity) not in known:
        raise UsageError(
            f"ambiguity={str(ambiguity)!r} is not allowed in a regression; give a penalty tv-penalty, kl-penalty or "
            "chi2-penalty, such as tv-penalty:0.1, or a ball tv or kl, such as tv:0.2."
        )
    strength, size = torch.as_tensor(ambiguity.strength), mdp.features.shape[-1]
    ambiguity.check_strength(strength)
    if isinstance(ambiguity, ChiSquare) and bool((strength < LEAST_PRICE).any()):
        raise UsageError(
            f"ambiguity={str(ambiguity)!r} is not allowed in a regression; every χ² penalty must be at least "
            f"{LEAST_PRICE:g}: regressed rows do not sum to one, and what they are off is divided by the penalty. For "
            "the lowest value itself give tv-penalty:0."
        )
    if tuple(strength.shape) not in ((), (size,), (mdp.horizon, size)):
        raise UsageError(
            f"ambiguity={str(ambiguity)!r}: the radius or penalty has shape {list(strength.shape)}; it must be a "
            f"number, [d] = [{size}] of each factor, or [H, d] = [{mdp.horizon}, {size}] of each step and factor."
        )


def at_step(ambiguity: Ambiguity, step: int) -> Ambiguity:
    """The set of a step: a radius or penalty `[H, d]` has a row for each."""
    strength = torch.as_tensor(ambiguity.strength)
    if strength.ndim < 2:
        return ambiguity
    return replace(ambiguity, **{"radius" if _is_ball(ambiguity) else "penalty": strength[step]})


def _is_ball(ambiguity: Ambiguity) -> bool:
    return getattr(ambiguity, "penalty", None) is None


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
    plain = estimate @ values
    if ambiguity is None or not bool(outcome.any()):
        return plain
    estimate, values = estimate[:, outcome], values[outcome]
    lowest = values.min()
    highest = torch.maximum(torch.as_tensor(ceiling, dtype=torch.float64), values.max())
    strength = torch.as_tensor(at_step(ambiguity, step).strength, dtype=torch.float64).expand(len(estimate))
    if _is_ball(ambiguity):
        if isinstance(ambiguity, KL):
            worst = _kl_ball(estimate, values, strength, lowest, highest)
        else:
            worst = _tv_ball(estimate, values, strength, lowest)
        return torch.where(strength > 0, worst, plain)  # a ball of radius 0 holds the factor alone, signed or not
    if isinstance(ambiguity, KL):
        return _kl_penalty(estimate, values, strength, lowest, highest)
    if isinstance(ambiguity, TotalVariation):
        return _tv_penalty(estimate, values, strength, lowest)
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
    endless = torch.isinf(penalty)
    penalty = torch.where(endless, 1.0, penalty.clamp(min=1e-200))
    tilted = (estimate * torch.exp(-(values - lowest) / penalty[:, None])).sum(-1)
    least = torch.exp(-(highest - lowest) / penalty).clamp(min=1e-300)
    worst = lowest - penalty * torch.log(torch.minimum(torch.maximum(tilted, least), torch.ones_like(least)))
    return torch.where(endless, estimate @ values, worst)


def _kl_ball(estimate: Tensor, values: Tensor, radius: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """max_α −α·log μ̂·exp(−v/α) − α·ρ over a geometric grid of α; v_min, which every ball holds, is the floor.

    The first term is held to where it would be of a distribution: between v_min and the greatest value.
    """
    scale = (highest - lowest).clamp(min=1e-12)
    level = scale * torch.logspace(-3, 4, LEVELS, dtype=torch.float64)[:, None]  # [α, 1]
    tilted = 1 + torch.expm1(-(values - lowest) / level) @ estimate.T  # the mass of μ̂ is taken as one
    entropic = (-level * torch.log(tilted.clamp(min=0))).clamp(min=0).minimum(values.max() - lowest)
    return lowest + (entropic - level * radius).amax(0).clamp(min=0)


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

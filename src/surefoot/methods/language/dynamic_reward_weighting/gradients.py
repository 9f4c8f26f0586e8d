"""Gradients of several objectives compared, and weights that follow them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.loops.common import distributed

Gradient = Mapping[str, Tensor]


def inner(one: Gradient, other: Gradient) -> float:
    """The inner product of two gradients, by the names of the weights."""
    return sum(float(distributed.whole((x * other[name]).double().sum())) for name, x in one.items())


def probe(gradient: Gradient, limit: float | None, share: float = 1.0) -> Gradient:
    """The gradient scaled down to a norm of at most `limit`, of the middle `share` of the tensors in the model's order;
    the norm is that of all."""
    names = list(gradient)
    skipped = int((1 - share) / 2 * len(names))
    size = inner(gradient, gradient) ** 0.5
    scale = 1.0 if limit is None or size <= limit else limit / size
    return {name: scale * gradient[name] for name in names[skipped : len(names) - skipped]}


def influence(gradients: Sequence[Gradient]) -> Float[Tensor, " objectives"]:
    """I_k = g_k · Σ_l g_l."""
    rows = [[inner(one, other) for other in gradients] for one in gradients]
    return torch.tensor(rows, dtype=torch.float64).sum(1)


def reweighted(
    log_weights: Float[Tensor, " objectives"], influences: Float[Tensor, " objectives"], rate: float
) -> Float[Tensor, " objectives"]:
    """The logarithms of the weights after a step of mirror ascent: w ∝ w·exp(rate·I)."""
    return (log_weights + rate * influences).log_softmax(0)


def shares(weights: Mapping[str, float]) -> Float[Tensor, " objectives"]:
    """The weights of the rewards, scaled to the sum 1; a `UsageError` if one is below 0 or all are 0."""
    found = torch.tensor(list(weights.values()), dtype=torch.float64)
    if bool((found < 0).any()) or not bool(found.sum() > 0):
        raise UsageError(
            f"DynamicRewardWeighting: reward_weights={found.tolist()} is not allowed: they are the start of weights "
            "that sum to 1; give numbers of at least 0, not all 0, and negate a reward in its function."
        )
    return found / found.sum()


def stacked(components: Mapping[str, Tensor]) -> Float[Tensor, "objectives prompts samples"]:
    """The rewards by objective, 0 where one does not apply."""
    return torch.stack([torch.nan_to_num(x) for x in components.values()])

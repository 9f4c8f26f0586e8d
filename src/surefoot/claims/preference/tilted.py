"""Exact optima over finite sets of answers, to which methods are compared: policies tilted from a reference.

plain  π_ref·exp(r/β)        aware  π_ref·exp((r − ν)/(βw)), ν for Σπ = 1        maxmin  plain with the worst mixture
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

F64 = torch.float64
HALVINGS = 60  # of a bracket, which leave 1e-18 of it


def plain(
    reference: Float[Tensor, "*rows answers"], reward: Float[Tensor, "*rows answers"], beta: Tensor | float
) -> Float[Tensor, "*rows answers"]:
    """The maximum of E_π[r] − β·KL(π ‖ π_ref)."""
    return (reference.log() + reward / beta).softmax(-1)


def aware(
    reference: Float[Tensor, "*rows answers"],
    reward: Float[Tensor, "*rows answers"],
    weight: Float[Tensor, "*rows answers"],
    beta: Tensor | float,
) -> Float[Tensor, "*rows answers"]:
    """The maximum of E_π[r] − β·Σ w·(π·log(π/π_ref) − π + π_ref): ν is found between the extreme rewards."""
    low, high = reward.amin(-1, keepdim=True), reward.amax(-1, keepdim=True)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = (reference.log() + (reward - middle) / (beta * weight)).logsumexp(-1, keepdim=True) > 0
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    policy = (reference.log() + (reward - (low + high) / 2) / (beta * weight)).exp()
    return policy / policy.sum(-1, keepdim=True)


def divergence(policy: Float[Tensor, "*rows answers"], reference: Tensor) -> Float[Tensor, "*rows"]:
    """KL(π ‖ π_ref)."""
    return torch.special.xlogy(policy, policy / reference).sum(-1)


def at_divergence(
    policy: Callable[[Tensor], Tensor], reference: Float[Tensor, "rows answers"], target: float
) -> Float[Tensor, "rows answers"]:
    """The policies of a family, one of each row, at the price β where their divergence is the target: it falls in β."""
    low, high = (torch.full((len(reference), 1), x, dtype=F64) for x in (1e-4, 1e4))
    for _ in range(HALVINGS):
        middle = (low * high).sqrt()
        far = divergence(policy(middle), reference)[:, None] > target
        low, high = torch.where(far, middle, low), torch.where(far, high, middle)
    return policy(high)


def maxmin(
    reference: Float[Tensor, "prompts answers"], rewards: Float[Tensor, "groups prompts answers"], beta: float
) -> tuple[Float[Tensor, "prompts answers"], Float[Tensor, " groups"], float]:
    """The maximum of min_u E[r_u] − β·KL over policies, prompts equally likely: the policy, the worst mixture λ and the
    value, by the convex dual min_λ β·E log E_ref exp(Σ λ_u·r_u/β)."""
    groups = len(rewards)

    def dual(mixture: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(mixture, dtype=F64, requires_grad=True)
        value = beta * (reference.log() + torch.tensordot(leaf, rewards, 1) / beta).logsumexp(-1).mean()
        return float(value.detach()), torch.autograd.grad(value, leaf)[0].numpy()

    one = {"type": "eq", "fun": lambda x: x.sum() - 1, "jac": lambda x: np.ones(groups)}
    start, bounds = np.full(groups, 1 / groups), [(0.0, 1.0)] * groups
    options = {"ftol": 1e-14, "maxiter": 500}
    found = minimize(dual, start, jac=True, method="SLSQP", bounds=bounds, constraints=[one], options=options)
    mixture = torch.tensor(found.x, dtype=F64).clamp(min=0)
    mixture = mixture / mixture.sum()
    return plain(reference, torch.tensordot(mixture, rewards, 1), beta), mixture, float(found.fun)

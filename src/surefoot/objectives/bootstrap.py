"""Targets of action values and the losses of critics and actors: pure functions on tensors.

`discount` is γ^n, or 0 after a termination, so that `reward + discount · value` never looks beyond an end.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def bootstrapped(
    reward: Float[Tensor, "batch"], discount: Float[Tensor, "batch"], value: Float[Tensor, "*axes batch"]
) -> Float[Tensor, "*axes batch"]:
    """`r + γ·V(s')`, without a gradient."""
    return (reward + discount * value).detach()


def lowest(values: Float[Tensor, "*critics batch"]) -> Float[Tensor, "batch"]:
    """The smallest value over the critics, if there are several."""
    return values if values.dim() == 1 else values.min(0).values


def low_quantile(values: Float[Tensor, "critics batch"], level: float) -> Float[Tensor, "batch"]:
    """The quantile over the critics, linear between neighbours: 0 is the smallest, ½ the median (RIQL,
    arXiv:2310.12955). Unlike the smallest, it is not moved by what lies beyond it."""
    place = level * (len(values) - 1)
    below, ordered = int(place), values.sort(0).values
    above = min(below + 1, len(values) - 1)
    return torch.lerp(ordered[below], ordered[above], place - below)


def smoothed(
    action: Float[Tensor, "batch dim"], noise: Float[Tensor, "batch dim"], deviation: float, clip: float
) -> Float[Tensor, "batch dim"]:
    """A target policy's action with clipped Gaussian noise, in [−1, 1] (TD3, arXiv:1802.09477, eq. 14)."""
    return (action + (deviation * noise).clamp(-clip, clip)).clamp(-1, 1)


def advantage_weights(advantage: Float[Tensor, "batch"], beta: float, limit: float) -> Float[Tensor, "batch"]:
    """`min(exp(β·A), limit)`, without a gradient: weights of cloned actions (IQL, arXiv:2110.06169, eq. 7)."""
    return (beta * advantage).exp().clamp(max=limit).detach()


def scale_free(values: Float[Tensor, "batch"], alpha: float) -> Float[Tensor, ""]:
    """`α·mean Q / mean |Q|`, the divisor without a gradient: the same for every scale of rewards, to be weighed against
    a regularizer (TD3+BC, arXiv:2106.06860, eq. 5)."""
    return alpha / values.abs().mean().detach() * values.mean()


def chosen(values: Float[Tensor, "*axes batch actions"], action: Int[Tensor, "batch"]) -> Float[Tensor, "*axes batch"]:
    """The values of the actions taken."""
    index = action.expand(values.shape[:-1]).unsqueeze(-1)
    return values.gather(-1, index).squeeze(-1)


def greedy_value(values: Float[Tensor, "batch actions"], by: Float[Tensor, "batch actions"]) -> Float[Tensor, "batch"]:
    """The value of the action that is best by other values: the same ones for DQN, the online ones for double DQN."""
    return chosen(values, by.argmax(-1))


def soft_value(values: Float[Tensor, "*axes actions"], temperature: float) -> Float[Tensor, "*axes"]:
    """τ·log Σ_a exp(Q(s, a)/τ) = Σ_a π(a|s) (Q(s, a) − τ log π(a|s)) for π = softmax(Q/τ); the maximum as τ → 0."""
    return temperature * torch.logsumexp(values / temperature, -1)


def munchausen(
    values: Float[Tensor, "batch actions"], action: Int[Tensor, "batch"], temperature: float, lowest: float
) -> Float[Tensor, "batch"]:
    """τ log π(a|s), π = softmax(Q/τ), clipped to [lowest, 0] (Munchausen RL, arXiv:2007.14430, section 3)."""
    return (chosen(values, action) - soft_value(values, temperature)).clamp(lowest, 0.0)


def entropic_value(
    log_prob: Float[Tensor, "batch actions"], values: Float[Tensor, "batch actions"], temperature: Tensor | float
) -> Float[Tensor, "batch"]:
    """Σ_a π(a)·(Q(a) − α·log π(a)): the value of a discrete policy that is paid for its entropy (arXiv:1910.07207)."""
    return (log_prob.exp() * (values - temperature * log_prob)).sum(-1)


def projected(
    probability: Float[Tensor, "batch atoms"],
    support: Float[Tensor, "atoms"],
    reward: Float[Tensor, "batch"],
    discount: Float[Tensor, "batch"],
) -> Float[Tensor, "batch atoms"]:
    """The distribution of `r + γ·z`, z of this probability on equally spaced atoms, on the same atoms: clipped to their
    range, each value shared out between its two neighbours by nearness (C51, arXiv:1707.06887, eq. 7)."""
    step = support[1] - support[0]
    moved = reward.unsqueeze(-1) + discount.unsqueeze(-1) * support
    moved = torch.maximum(torch.minimum(moved, support[-1]), support[0])
    away = (moved.unsqueeze(-2) - support.unsqueeze(-1)).abs() / step  # [batch, to, from]
    return ((1 - away).clamp(min=0) * probability.unsqueeze(-2)).sum(-1)


def implicit_quantile_huber(
    quantiles: Float[Tensor, "*axes quantiles"],
    fractions: Float[Tensor, "*axes quantiles"],
    targets: Float[Tensor, "*axes targets"],
    weights: Float[Tensor, "*axes targets"],
) -> Float[Tensor, "*axes"]:
    """mean_i Σ_j w_j·|τ_i − 1[θ_i > z_j]|·H_1(z_j − θ_i): quantiles θ_i at fractions τ_i against targets z_j that stand
    for shares w_j of the return's distribution (IQN, arXiv:1806.06923, with uneven shares)."""
    error = targets.unsqueeze(-2) - quantiles.unsqueeze(-1)  # [..., quantiles, targets]
    huber = F.huber_loss(error, torch.zeros_like(error), reduction="none")
    tilt = (fractions.unsqueeze(-1) - (error < 0).to(error.dtype)).abs()
    return (weights.unsqueeze(-2) * tilt * huber).sum(-1).mean(-1)


def quantile_huber(
    quantiles: Float[Tensor, "batch quantiles"], targets: Float[Tensor, "batch targets"], kappa: float = 1.0
) -> Float[Tensor, "batch"]:
    """Σ_i mean_j |τ_i − 1[u_ij < 0]|·H_κ(u_ij)/κ, `u_ij = target_j − θ_i`, τ_i = (i − ½)/N.

    The loss of QR-DQN (arXiv:1710.10044, eq. 10).
    """
    count = quantiles.shape[-1]
    middle = (torch.arange(count, dtype=quantiles.dtype) + 0.5) / count
    error = targets.unsqueeze(-2) - quantiles.unsqueeze(-1)  # [batch, quantiles, targets]
    huber = F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=kappa) / kappa
    return ((middle.unsqueeze(-1) - (error < 0).to(error.dtype)).abs() * huber).mean(-1).sum(-1)

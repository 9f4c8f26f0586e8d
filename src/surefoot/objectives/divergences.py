"""Divergences between policies: exact forms for Gaussian and categorical ones, and estimators from samples.

Exact forms sum over action dimensions and keep the batch axes: the KL of one state is one number.
The estimators k1, k2, k3 take `log_ratio = log p(x) − log q(x)` at x drawn from q, and estimate KL(q ‖ p).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

STRAIGHT = 20.0  # e^20 is 5e8: a sample with such a ratio says little about the divergence


def k1(log_ratio: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """−log(p/q): unbiased, may be negative, high variance."""
    return -log_ratio


def k2(log_ratio: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """½ log²(p/q): biased, never negative; its gradient is an unbiased gradient of the KL on-policy."""
    return 0.5 * log_ratio**2


def k3(log_ratio: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """(p/q − 1) − log(p/q): unbiased and never negative.

    Beyond a log-ratio of `STRAIGHT` it continues along its tangent, so that value and gradient stay finite and the
    gradient keeps its direction.
    """
    inside, beyond = log_ratio.clamp(max=STRAIGHT), (log_ratio - STRAIGHT).clamp(min=0)
    return torch.expm1(inside) - inside + math.expm1(STRAIGHT) * beyond


def k3_weighted(log_ratio: Float[Tensor, "..."], log_weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """w·k3 at x drawn from another policy than q: `log_weight = log q(x) − log of the policy that drew x`.

    The weight is differentiated too: w·∇k3 + k3·∇w = w·log(q/p)·∇log q, the gradient of KL(q ‖ p) itself, whereas ∇k3
    alone is that of KL(p ‖ q), and of neither once q has moved away from the policy that drew (arXiv:2505.17508).
    """
    return log_weight.clamp(max=STRAIGHT).exp() * k3(log_ratio)


def gaussian_kl(
    mean_p: Float[Tensor, "... d"],
    log_std_p: Float[Tensor, "... d"],
    mean_q: Float[Tensor, "... d"],
    log_std_q: Float[Tensor, "... d"],
) -> Float[Tensor, "..."]:
    """KL(p ‖ q) of diagonal Gaussians."""
    mean_part, std_part = _gaussian_kl_terms(mean_p - mean_q, log_std_p, log_std_q, scale=log_std_q)
    return (mean_part + std_part).sum(-1)


def decoupled_gaussian_kl(
    mean_p: Float[Tensor, "... d"],
    log_std_p: Float[Tensor, "... d"],
    mean_q: Float[Tensor, "... d"],
    log_std_q: Float[Tensor, "... d"],
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """KL when only the mean moves, and KL when only the covariance moves (V-MPO, arXiv:1909.12238)."""
    mean_part, std_part = _gaussian_kl_terms(mean_p - mean_q, log_std_p, log_std_q, scale=log_std_p)
    return mean_part.sum(-1), std_part.sum(-1)


def _gaussian_kl_terms(shift: Tensor, log_std_p: Tensor, log_std_q: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    log_variance_ratio = 2 * (log_std_p - log_std_q)
    return 0.5 * (shift * torch.exp(-scale)) ** 2, 0.5 * (torch.expm1(log_variance_ratio) - log_variance_ratio)


def categorical_kl(logits_p: Float[Tensor, "... n"], logits_q: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
    """KL(p ‖ q) of categorical distributions with (unnormalised) logits; actions impossible under p contribute 0."""
    log_p, log_q = logits_p.log_softmax(-1), logits_q.log_softmax(-1)
    p = log_p.exp()
    # Masked before the product: −∞ − (−∞) inside it would make the gradient NaN for every action.
    return (p * torch.where(p > 0, log_p - log_q, torch.zeros((), dtype=p.dtype))).sum(-1)

"""Exact solutions of finite time-constrained robust MDPs: the kernel is one of K in a row, and drifts along it.

    V(s, k) = max_a min_{|k' − k| ≤ ℓ} [ r(s, a) + γ Σ_{s'} P_{k'}(s'|s, a) V(s', k') ]

The agent commits to an action, the adversary answers with the next kernel, which is the one that acts. A γ-contraction:
ℓ = 0 are K ordinary MDPs, ℓ ≥ K − 1 is the sa-rectangular robust MDP over all kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.errors import UsageError


class Drift(NamedTuple):
    """Values `[K, S]`, and the actions `[K, S]` that attain them."""

    value: Tensor
    action: Tensor


def drift_values(
    kernels: Tensor, reward: Tensor, gamma: float, speed: int, action: Tensor | None = None, tolerance: float = 1e-12
) -> Drift:
    """The values of the best actions against the worst drift, or of a given policy's.

    Args:
        kernels: `[K, S, A, S']`, neighbours in the row are neighbours of the drift.
        reward: `[S, A]`.
        gamma: discount, below 1.
        speed: ℓ, places in the row per step.
        action: `[K, S]` or `[S]`, the policy to be evaluated; the best one if not given.
        tolerance: of the values.

    Raises:
        UsageError: shapes that do not fit, a discount outside [0, 1), a negative speed.
    """
    count, states = kernels.shape[:2]
    if kernels.shape[1] != kernels.shape[3] or reward.shape != kernels.shape[1:3] or not 0 <= gamma < 1 or speed < 0:
        raise UsageError(
            f"drift_values: kernels {list(kernels.shape)}, reward {list(reward.shape)}, gamma={gamma}, speed={speed}; "
            "they must be [K, S, A, S], [S, A], 0 <= gamma < 1, and speed >= 0."
        )
    places = torch.arange(count)
    near = (places - places.unsqueeze(1)).abs() <= speed  # [k, k']
    fixed = None if action is None else action.expand(count, states).unsqueeze(-1)
    value = torch.zeros(count, states, dtype=kernels.dtype)
    while True:
        each = reward + gamma * torch.einsum("ksat,kt->ksa", kernels, value)
        worst = torch.stack([each[row].amin(0) for row in near])  # [k, s, a]
        best = worst.argmax(-1)
        following = worst.gather(-1, best.unsqueeze(-1) if fixed is None else fixed).squeeze(-1)
        if (following - value).abs().max() * gamma <= tolerance * (1 - gamma):
            return Drift(following, best if fixed is None else fixed.squeeze(-1))
        value = following

"""GPOMDP: the policy gradient of a sum over trajectories, with a baseline for every time step.

    ∇V = (1/n) Σ_i Σ_k ∇log π(a_k|s_k) · γ^k (G_k − B_k)        G_k = Σ_{t≥k} γ^{t−k} r_t

Unlike the advantages that drop γ^k, this is the gradient of the discounted value itself, so it can be compared with an
estimate of that value. Jonathan Baxter and Peter L. Bartlett, *Infinite-Horizon Policy-Gradient Estimation*
(2001), arXiv:1106.0665.

A trajectory starts with an episode or the batch, and ends with either; truncation by the batch is not bootstrapped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.objectives.advantages import Advantage, monte_carlo


def age(
    rewards: Float[Tensor, "time ..."],
    *,
    terminated: Bool[Tensor, "time ..."] | None = None,
    truncated: Bool[Tensor, "time ..."] | None = None,
    valid: Bool[Tensor, "time ..."] | None = None,
    **_: Any,
) -> Int[Tensor, "time ..."]:
    """Steps since the trajectory began: 0 at the start of the batch and after every end or padding."""
    ended = torch.zeros_like(rewards, dtype=torch.bool) if valid is None else ~valid
    for flag in (terminated, truncated):
        ended = ended if flag is None else ended | flag
    time = torch.arange(len(rewards), device=rewards.device).view(-1, *[1] * (rewards.ndim - 1)).expand(rewards.shape)
    begins = torch.cat([torch.zeros_like(time[:1]), torch.where(ended[:-1], time[1:], torch.zeros_like(time[1:]))])
    return time - begins.cummax(0).values


@dataclass(frozen=True)
class gpomdp(Advantage):
    """γ^k (G_k − B_k)·L: its mean over steps, times ∇log π, is GPOMDP's mean over trajectories.

    k counts from the start of the trajectory, B_k is the mean of G_k over the trajectories of the last axis that last
    longer than k (0 where only one does), and L is the mean length of a trajectory, over time and the last axis.
    """

    gamma: float = hyperparameter(0.99, low=0, high=1, help="Discount factor.")
    formula = "L·γ^k·(G(γ={gamma:g}) − mean_i G_k)"

    def __call__(self, rewards: Tensor, **signals: Any) -> Tensor:
        valid = signals.get("valid")
        valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid
        k, alive = age(rewards, **signals), valid.to(rewards.dtype)
        to_go = monte_carlo(self.gamma)(rewards, **signals) * alive

        def by_age(x: Tensor) -> Tensor:
            return torch.zeros_like(x).scatter_add(0, k, x).sum(-1, keepdim=True)

        count = by_age(alive)
        mean = torch.where(count > 1, by_age(to_go) / count.clamp(min=1), torch.zeros_like(count))
        trajectories = ((k == 0) & valid).sum((0, -1), keepdim=True).clamp(min=1)
        length = alive.sum((0, -1), keepdim=True) / trajectories
        return length * self.gamma**k * (to_go - mean.expand_as(to_go).gather(0, k)) * alive


def trajectory_returns(
    rewards: Float[Tensor, "time ..."], gamma: float, **signals: Any
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Mean and maximum of the trajectories' discounted returns, over time and the last axis."""
    valid = signals.get("valid")
    first = age(rewards, **signals) == 0
    first = first if valid is None else first & valid
    returns = monte_carlo(gamma)(rewards, **signals)
    mean = torch.where(first, returns, torch.zeros_like(returns)).sum((0, -1)) / first.sum((0, -1)).clamp(min=1)
    return mean, torch.where(first, returns, torch.full_like(returns, -torch.inf)).amax((0, -1))

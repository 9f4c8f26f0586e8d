"""Follow the regularised leader on the simplex, one problem per row, and the rates of its regularisers.

    π = argmin_{p in the simplex}  Σ_a p_a·L_a + ψ(p)            L: the sum of past losses

    Tsallis      ψ(p) = −2w·Σ√p_a        p_a = w²/(L_a − x)²
    log-barrier  ψ(p) = −Σ c_a·log p_a   p_a = c_a/(L_a − x)
    Shannon      ψ(p) = w·Σ p_a·log p_a  p_a ∝ exp(−L_a/w)

w = 1/η and c = 1/η are inverse rates, x is the multiplier of Σp = 1. An action with L = ∞ has probability 0.

The growth of the rates follows Christoph Dann, Chen-Yu Wei and Julian Zimmert, *Best of Both Worlds Policy
Optimization* (2023), arXiv:2302.09408: with the visits of a state, so that regret is small whether losses are
adversarial or random. The rates of the Shannon entropy and of the log-barrier are derived in its style.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

ROUNDS = 200  # maximum iterations of Newton's method, which takes five to ten
TOLERANCE = 2e-15  # error of the sum of the probabilities, before they are divided by it


# --- the leader ------------------------------------------------------------------------------------------------------


def leader(losses: Tensor, root: Tensor | float, barrier: Tensor | float | None = None) -> Tensor:
    """The minimiser `[..., A]` of Σ p·losses − 2·Σ root·√p − Σ barrier·log p over the simplex.

    losses: float64 `[..., A]`, ∞ where an action is not allowed. root: positive, or 0 beside a barrier; barrier:
    positive, or None for none; both broadcast against losses. The multiplier t = min losses − x is found by Newton's
    method: each 1/√p_a is concave in t, hence (Σp)^(−1/2), a mean of them, is too. Started where the probability of
    one action is 1, left of the solution, the method ascends to it and cannot overshoot.
    """
    gap = losses - losses.amin(-1, keepdim=True)
    t = (root + (0.0 if barrier is None else barrier) - gap).amax(-1, keepdim=True)
    p, slope = _at(gap + t, root, barrier)
    total = p.sum(-1, keepdim=True)
    for _ in range(ROUNDS):
        if float(total.max()) <= 1 + TOLERANCE * p.shape[-1]:
            break
        t = t + total * (total.sqrt() - 1) / slope.sum(-1, keepdim=True)
        p, slope = _at(gap + t, root, barrier)
        total = p.sum(-1, keepdim=True)
    return p / total


def _at(x: Tensor, root: Tensor | float, barrier: Tensor | float | None) -> tuple[Tensor, Tensor]:
    """The probabilities at multipliers x = losses − x, and −½ of their derivatives."""
    inverse = x.reciprocal()
    if barrier is None:
        p = (root * inverse).square()
        return p, p * inverse
    half = root / 2 * inverse
    sqrt = half + (half.square() + barrier * inverse).sqrt()
    p = sqrt.square()
    return p, p.square() / (root * sqrt + 2 * barrier)


def entropic(losses: Tensor, weight: Tensor | float) -> Tensor:
    """The minimiser `[..., A]` of Σ p·losses + weight·Σ p·log p over the simplex: softmax(−losses/weight)."""
    return (-losses / weight).softmax(-1)


# --- regularisers and their rates ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Regularizer:
    """A regulariser whose inverse rate 1/η grows with the visits and losses of each state; `rate` means 1/η throughout.

    offset: 1/η before the first episode. growth: how fast it grows. Shapes: rates `[..., S]` (the log-barrier's
    `[..., S, A]`), policies, losses and estimates `[..., S, A]`, visits `[..., S]` the probability q that an episode
    comes through a state, `seen` `[2, ..., S]` sums over the past episodes.
    """

    offset: float
    growth: float
    per_action: ClassVar[bool] = False
    formula: ClassVar[str]  # of ψ, for `explain`
    growing: ClassVar[str]  # growth of the inverse rate
    costing: ClassVar[str]  # regret per unit of its growth

    def policy(self, losses: Tensor, rate: Tensor) -> Tensor:
        """The leader at this inverse rate."""
        raise NotImplementedError

    def entered(self, rate: Tensor, visits: Tensor) -> Tensor:
        """The inverse rate of an episode, from that of the one before and the visits of this one."""
        return rate

    def left(
        self, rate: Tensor, seen: Tensor, policy: Tensor, visits: Tensor, estimate: Tensor, episode: int
    ) -> tuple[Tensor, Tensor]:
        """The inverse rate and the sums after an episode, from its policy, visits and estimated losses to go."""
        return rate, seen

    def cost(self, growth: Tensor, policy: Tensor, visits: Tensor, episode: int) -> Tensor:
        """The regret `[..., S]` caused by the growth of 1/η in an episode, which a bonus has to cover."""
        raise NotImplementedError


@dataclass(frozen=True)
class Tsallis(Regularizer):
    """1/η_t = offset + growth·√(Σ_{k≤t} 1/q_k), at a cost of Σ√π·(1 − π): a deterministic policy pays nothing."""

    formula = "−(2/η)·Σ √p(a)"
    growing = "1/η_t(s) = c₁ + c₂·√(Σ_{k≤t} 1/q_k(s))"
    costing = "Σ_a √π·(1 − π) + A/t"

    def policy(self, losses: Tensor, rate: Tensor) -> Tensor:
        return leader(losses, root=rate[..., None])

    def entered(self, rate: Tensor, visits: Tensor) -> Tensor:
        return self.offset + torch.hypot(rate - self.offset, self.growth * visits.rsqrt())

    def cost(self, growth: Tensor, policy: Tensor, visits: Tensor, episode: int) -> Tensor:
        return growth * ((policy.sqrt() * (1 - policy)).sum(-1) + policy.shape[-1] / (episode + 1))


@dataclass(frozen=True)
class Shannon(Regularizer):
    """1/η_{t+1} = 1/η_t + growth·(1/q_t) / √((1 + Σ_{k≤t} h_k/(q_k·log A))·Σ_{k≤t} 1/q_k), at a cost of h.

    h is the entropy of π, so that rates stop falling once the policy is deterministic.
    """

    formula = "(1/η)·Σ p(a)·log p(a)"
    growing = "1/η_{t+1}(s) = 1/η_t(s) + (c₂/q_t(s)) / √((1 + Σ h_k/(q_k·log A))·Σ 1/q_k)"
    costing = "entropy of π"

    def policy(self, losses: Tensor, rate: Tensor) -> Tensor:
        return entropic(losses, rate[..., None])

    def left(
        self, rate: Tensor, seen: Tensor, policy: Tensor, visits: Tensor, estimate: Tensor, episode: int
    ) -> tuple[Tensor, Tensor]:
        share = entropy(policy) / math.log(policy.shape[-1]) if policy.shape[-1] > 1 else torch.zeros_like(visits)
        seen = seen + torch.stack([visits.reciprocal(), share / visits])
        return rate + self.growth / (visits * ((1 + seen[1]) * seen[0]).sqrt()), seen

    def cost(self, growth: Tensor, policy: Tensor, visits: Tensor, episode: int) -> Tensor:
        return growth * entropy(policy)


@dataclass(frozen=True)
class LogBarrier(Regularizer):
    """1/η_{t+1}(a) = 1/η_t(a) + growth·η_t(a)·π(a)²·(Q(a) − π·Q)²/log t, at a cost of log t for each action.

    Q is the estimate of the losses to go: small losses move the rates little, for bounds of first order.
    """

    per_action: ClassVar[bool] = True
    formula = "−Σ (1/η(a))·log p(a)"
    growing = "1/η_{t+1}(s,a) = 1/η_t(s,a) + c₂·η_t(s,a)·π(a|s)²·(Q̂(s,a) − π·Q̂)²/log t"
    costing = "log t, summed over actions"

    def policy(self, losses: Tensor, rate: Tensor) -> Tensor:
        return leader(losses, root=0.0, barrier=rate)

    def left(
        self, rate: Tensor, seen: Tensor, policy: Tensor, visits: Tensor, estimate: Tensor, episode: int
    ) -> tuple[Tensor, Tensor]:
        spread = policy * (estimate - (policy * estimate).sum(-1, keepdim=True))
        return rate + self.growth * spread.square() / (rate * math.log(episode + 3)), seen

    def cost(self, growth: Tensor, policy: Tensor, visits: Tensor, episode: int) -> Tensor:
        return growth.sum(-1) * math.log(episode + 3)


def entropy(policy: Tensor) -> Tensor:
    """−Σ π·log π `[...]`, in nats."""
    return torch.special.entr(policy).sum(-1)


REGULARIZERS: dict[str, type[Regularizer]] = {"tsallis": Tsallis, "shannon": Shannon, "log-barrier": LogBarrier}

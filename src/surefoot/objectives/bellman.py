"""Robust losses of Bellman errors through their conjugates, minimised from single samples without double sampling.

With δ̄(s) = E_π[δ|s], a loss Σ d(s)·p(δ̄(s)) is a saddle point: p(x) = max_h (2x·h − h²) over |h| ≤ τ, or max_h x·h over
|h| ≤ 1. The best h is a function of δ̄, of which a second network u is a regression; the values then descend h·δ, where
δ = r + γ·v(s') − v(s) carries the gradient of both values.

Andrew Patterson, Victor Liao, Martha White, *Robust Losses for Learning Value Functions* (2022), arXiv:2205.08464.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from surefoot.hyperparameters import check, hyperparameter


@dataclass(frozen=True)
class BellmanLoss:
    """A loss p of expected Bellman errors, and the h that attains its conjugate."""

    formula = ""

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, error: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """p(δ̄), with the convention x² for small errors (no ½)."""
        raise NotImplementedError

    def dual(self, error: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The maximising h, of an expected error or of its estimate."""
        raise NotImplementedError


@dataclass(frozen=True)
class squared(BellmanLoss):
    """The mean squared Bellman error."""

    formula = "δ̄²"

    def __call__(self, error: Tensor) -> Tensor:
        return error**2

    def dual(self, error: Tensor) -> Tensor:
        return error


@dataclass(frozen=True)
class huber(BellmanLoss):
    """The mean Huber Bellman error: x² up to |x| = τ, then 2τ|x| − τ². τ is in units of reward."""

    tau: float = hyperparameter(1.0, above=0, help="Expected error at which the loss becomes linear.")
    formula = "δ̄² up to |δ̄| = τ, then 2τ·|δ̄| − τ²"

    def __call__(self, error: Tensor) -> Tensor:
        return torch.where(error.abs() <= self.tau, error**2, 2 * self.tau * error.abs() - self.tau**2)

    def dual(self, error: Tensor) -> Tensor:
        return error.clamp(-self.tau, self.tau)


@dataclass(frozen=True)
class absolute(BellmanLoss):
    """The mean absolute Bellman error."""

    formula = "|δ̄|"

    def __call__(self, error: Tensor) -> Tensor:
        return error.abs()

    def dual(self, error: Tensor) -> Tensor:
        return error.sign()


def saddle(
    loss: BellmanLoss,
    value: Float[Tensor, "batch"],
    target: Float[Tensor, "batch"],
    estimate: Float[Tensor, "batch"],
    ratio: Float[Tensor, "batch"] | float = 1.0,
) -> Float[Tensor, "batch"]:
    """ρ·h(u)·δ. `target` = r + γ·v(s') carries the gradient of v(s'), and none if s' is an end; `estimate` is u(s)."""
    return ratio * loss.dual(estimate).detach() * (target - value)


def corrected(
    loss: BellmanLoss,
    value: Float[Tensor, "batch"],
    target: Float[Tensor, "batch"],
    estimate: Float[Tensor, "batch"],
    ratio: Float[Tensor, "batch"] | float = 1.0,
) -> Float[Tensor, "batch"]:
    """Where h is u itself, the gradient correction −δ·∇v(s) + γu·∇v(s') of TDC: it lacks a term of expectation 0 if
    u is the least-squares projection of δ. Elsewhere the gradient of the saddle point."""
    estimate = estimate.detach()
    inside = 0.5 * (target.detach() - value) ** 2 + estimate * target
    return torch.where(loss.dual(estimate) == estimate, ratio * inside, saddle(loss, value, target, estimate, ratio))


def regression(
    estimate: Float[Tensor, "batch"], error: Float[Tensor, "batch"], ratio: Float[Tensor, "batch"] | float = 1.0
) -> Float[Tensor, "batch"]:
    """½(ρδ − u)², what u descends: its target is ρδ, so that u(s) becomes E_π[δ|s] whatever the behaviour."""
    return 0.5 * ((ratio * error).detach() - estimate) ** 2


def epsilon_greedy_value(
    values: Float[Tensor, "batch actions"], epsilon: float, allowed: Bool[Tensor, "batch actions"]
) -> Float[Tensor, "batch"]:
    """Σ_a π(a)·Q(a) of the ε-greedy policy, which shares ties evenly; a random action is one of those that are allowed.
    Gradients reach Q, not π."""
    best = (values == values.amax(-1, keepdim=True)).to(values.dtype)
    uniform = allowed.to(values.dtype)
    policy = (1 - epsilon) * best / best.sum(-1, keepdim=True) + epsilon * uniform / uniform.sum(-1, keepdim=True)
    return (policy.detach() * values).sum(-1)

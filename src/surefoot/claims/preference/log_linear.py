"""A contextual bandit with log-linear policies, where learning from pairs is a small smooth problem.

    π_θ(a|x) ∝ exp(φ(x,a)·θ),  reference uniform,  labels by Bradley-Terry from r = φ·θ*, flipped at a known rate

The log-ratio to the reference of an action is φ·θ less a number of the context, which the difference of two actions does
not see, so the shipped objective is evaluated on φ(x,w)·θ and φ(x,l)·θ.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from surefoot.objectives.preferences import Compared, PairObjective
from surefoot.seeding import torch_stream

F64 = torch.float64
FEATURES, ACTIONS, NORM, TESTED = 8, 6, 3.0, 4000
RIDGE, BOX = 1e-3, 5.0


def truth(seed: int) -> Tensor:
    """The true parameters θ*, of norm 3."""
    drawn = torch.randn(FEATURES, generator=torch_stream(seed, "truth"), dtype=F64)
    return NORM * drawn / drawn.norm()


def contexts(seed: int, count: int, name: str) -> Tensor:
    """The features of every action of some contexts, `[count, actions, features]`."""
    drawn = torch.randn(count, ACTIONS, FEATURES, generator=torch_stream(seed, name), dtype=F64)
    return drawn / FEATURES**0.5


def compared(seed: int, count: int, flips: float) -> tuple[Tensor, Tensor]:
    """Pairs of distinct uniform actions, labelled and flipped: the features of the chosen and of the rejected ones."""
    stream = torch_stream(seed, "pairs")
    features = contexts(seed, count, "contexts")
    first = torch.randint(ACTIONS, (count,), generator=stream)
    second = (first + torch.randint(1, ACTIONS, (count,), generator=stream)) % ACTIONS
    rows = torch.arange(count)
    one, other = features[rows, first], features[rows, second]
    wins = torch.rand(count, generator=stream, dtype=F64) < ((one - other) @ truth(seed)).sigmoid()
    wins ^= torch.rand(count, generator=stream, dtype=F64) < flips
    return torch.where(wins[:, None], one, other), torch.where(wins[:, None], other, one)


def fitted(objective: PairObjective, chosen: Tensor, rejected: Tensor, ridge: float = RIDGE) -> Tensor:
    """The parameters within ±5 that minimise the mean loss of the pairs and a ridge."""

    def value(theta: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(theta, dtype=F64, requires_grad=True)
        ratios = torch.stack([chosen @ leaf, rejected @ leaf], 1)
        loss = objective.losses(Compared(ratios, torch.zeros_like(ratios))).mean() + ridge * leaf.square().sum()
        loss.backward()
        assert leaf.grad is not None, "the loss depends on it"
        return float(loss), leaf.grad.numpy()

    start = np.zeros(chosen.shape[1])
    found = minimize(value, start, jac=True, method="L-BFGS-B", bounds=[(-BOX, BOX)] * len(start))
    return torch.tensor(found.x, dtype=F64)


def regret(seed: int, theta: Tensor) -> float:
    """The gap of the regularised value E_π[r] − KL(π ‖ uniform) to the best policy's, which has the true parameters."""
    features = contexts(seed, TESTED, "test contexts")
    reward = features @ truth(seed)

    def worth(parameters: Tensor) -> Tensor:
        log_prob = (features @ parameters).log_softmax(-1)
        return (log_prob.exp() * (reward - log_prob)).sum(-1).mean()

    return float(worth(truth(seed)) - worth(theta))

"""A contextual task whose best action is known, for claims: contexts s ~ N(0, I₈), actions a ∈ R³, reward
−‖a − tanh(2s₁..₃)‖² + ½·N(0, 1), every step a task of its own (γ = 0). So the expected return and the error of a policy's
mean are known without playing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from surefoot.models.distributions import Gaussian

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner

CONTEXTS = 4096


class ContextualTarget(gymnasium.Env):
    """A new context every step; the best action is a function of it. It never ends."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (8,), np.float32)
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._context = self.np_random.standard_normal(8, np.float32)
        return self._context, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        missed = action - np.tanh(2 * self._context[:3])
        reward = -float(missed @ missed) + 0.5 * self.np_random.standard_normal()
        self._context = self.np_random.standard_normal(8, np.float32)
        return self._context, reward, False, False, {}


def _contexts() -> tuple[Tensor, Tensor]:
    """Contexts to judge by, the same for all, and their best actions."""
    contexts = torch.randn(CONTEXTS, 8, generator=torch.Generator().manual_seed(0))
    return contexts, torch.tanh(2 * contexts[:, :3])


def look(learner: Learner, rows: list[dict[str, Any]]) -> None:
    """Add the error of each seed's mean action and its expected return."""
    (contexts, best), distribution = _contexts(), learner.model.distribution
    assert isinstance(distribution, Gaussian)
    for vector, row in zip(learner.vector, rows, strict=True):
        with torch.no_grad():
            mean, log_std = distribution.split(learner.model(vector, contexts)[0])
        row["error"] = float(((mean - best) ** 2).sum(-1).mean())
        row["expected_return"] = -row["error"] - float((2 * log_std[0]).exp().sum())


def untrained_return(log_std: float) -> float:
    """The expected return of a policy whose mean is 0."""
    return -float((_contexts()[1] ** 2).sum(-1).mean()) - 3 * math.exp(2 * log_std)

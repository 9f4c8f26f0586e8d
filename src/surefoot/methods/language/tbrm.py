"""TBRM: the logits are soft Q-values, and one squared Bellman residual per completion is all there is to minimise.

    minimise  mean_seq( β·V(s₁) + β·Σ_t log π/π_ref − R )²        V(s₁) = log Σ exp of the logits of the first token

The sum of the residuals along a completion leaves the value of its beginning and the log-ratio of the whole. It is 0 on
all completions for π = π_ref·exp(R/β)/Z alone, so the data may be anybody's, one completion per prompt is enough, and
there is no critic, ratio, clip or group. −residual plays the part of the advantage, V(s₁) of a learned baseline. Use
it where completions are expensive or stale; R/β is the log-ratio in nats that a reward is worth.

Yurun Yuan et al., *Trajectory Bellman Residual Minimization: A Simple Value-Based Method for LLM Reasoning* (NeurIPS
2025), arXiv:2505.15311.

Differences: the loss is β² times the paper's, so that learning rates do not depend on β. A truncated completion has
ended, with the reward that it gets. `offset` is the form of a follow-up (ReVal): V_ref(s₁) is subtracted, because the
logits of a pretrained model have any size, and without rewards the plain form leaves π_ref before it comes back. Only
sound where nothing but the model is random.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Batch, GroupRollout, Metrics, Rollout, Term
from surefoot.models.language.model import TokenStatistics
from surefoot.objectives import PolicyObjective, aggregation
from surefoot.objectives.advantages import outcome


@dataclass(frozen=True)
class ReferredRollout(Rollout):
    """Completions with the reference's statistics of their tokens."""

    reference: TokenStatistics | None = None


@dataclass(frozen=True)
class TBRM(GroupRollout):
    """Regression of a completion's value on its reward."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "dapo-math-2025": {"prompts": 128, "max_tokens": 2048, "learning_rate": 2.5e-6},  # §4: Qwen2.5-Math-1.5B, n = 4
        "dapo-math-2025-single": {"prompts": 128, "samples": 1, "max_tokens": 2048, "learning_rate": 2.5e-6},  # n = 1
    }

    samples: int = hyperparameter(4, low=1, help="Completions per prompt; one is enough.")
    beta: float = hyperparameter(
        0.002,
        above=0,
        help="β: reward per nat of divergence from the model before training.",
        tune=Range(1e-3, 1, log=True),
    )
    offset: bool = hyperparameter(False, help="Whether the value counts from the reference's, as in ReVal.")
    kl: float = hyperparameter(0.0, low=0, high=0, help="Must be 0: β weighs the divergence.")
    entropy: float = hyperparameter(0.0, low=0, high=0, help="Must be 0: the loss is a regression.")
    kl_estimator: str = hyperparameter("k3", choices=("k3",), help="Must be k3: the divergence is in the residual.")
    correction: str = hyperparameter("none", choices=("none",), help="Must be none: no token is weighted by a ratio.")
    informative: float = hyperparameter(0.0, low=0, high=0, help="Must be 0: completions are not compared.")

    @property
    def refers(self) -> bool:
        return True

    def objective(self) -> str:  # type: ignore[override]
        start = "V(s₁) − V_ref(s₁)" if self.offset else "V(s₁)"
        return (
            f"minimise mean_seq( {self.beta:g}·[{start} + Σ_t log π/π_ref] − R )²\n"
            "  with V(s₁) = log Σ exp of the logits of the first token"
        )

    def collect(self, iteration: Iteration) -> ReferredRollout:
        found = super().collect(iteration)
        known = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
        return ReferredRollout(**known, reference=iteration.statistics(found.sequences, reference=True))

    def advantages(self, rollout: Rollout) -> Tensor:
        return rollout.reward

    def terms(self, rollout: Rollout) -> list[Term]:
        assert isinstance(rollout, ReferredRollout) and rollout.reference is not None, "collect made it"
        sums = PolicyObjective(outcome(), aggregation=aggregation.constant_length(1.0))
        near, valid = rollout.reference, rollout.sequences.valid
        start = at_first(near.normaliser, valid) if self.offset else torch.zeros(len(valid))
        extra = {"reward": rollout.reward.flatten(), "reference": near.log_prob, "start": start}
        return [self.completions(rollout, objective=sums, extra=extra)]

    def loss(
        self, objective: PolicyObjective, batch: Batch, log_prob: Tensor, entropy: Tensor
    ) -> tuple[Tensor, Metrics]:
        assert batch.now is not None, "the estimator adds the model's statistics"
        share, extra = batch.weights.amax(1), batch.extra
        moved = torch.where(batch.valid, log_prob - extra["reference"], 0.0).sum(1)
        value = at_first(batch.now.normaliser, batch.valid) - extra["start"]
        gap = residual(value, moved, extra["reward"], self.beta)
        tokens = torch.where(batch.valid, entropy.detach(), 0.0).sum(1) / batch.valid.sum(1).clamp(min=1)
        facts = {"residual": gap.abs(), "value": self.beta * value, "moved": moved}
        metrics = {name: (share * x.detach()).sum() for name, x in facts.items()}
        return (share * gap**2).sum(), metrics | {"entropy": (share * tokens).sum()}

    def steps(self) -> list[str]:
        write, learn = super().steps()
        return [f"{write}; the reference's likelihood of them", learn]


def residual(
    value: Float[Tensor, " rows"], log_ratio: Float[Tensor, " rows"], reward: Float[Tensor, " rows"], beta: float
) -> Float[Tensor, " rows"]:
    """β times the Bellman residual of whole completions: β·(V(s₁) + Σ log π/π_ref) − R."""
    return beta * (value + log_ratio) - reward


def at_first(x: Float[Tensor, "rows length"], valid: Tensor) -> Float[Tensor, " rows"]:
    """The number at the first valid token of every row."""
    return x.gather(1, valid.int().argmax(1, keepdim=True)).squeeze(1)


METHOD = TBRM

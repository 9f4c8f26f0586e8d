"""CAPO: tokens whose own step would change objective or policy too much are dropped before the step is taken.

    maximise  mean_seq mean_t over kept tokens[ Â·log π ]       kept:  m_F < τ_F  and  |m_H| < τ_H

m_F and m_H predict what a step on that token alone would do to the policy and to the objective: gradient, curvature and
Fisher information of the last linear layer along the step that Adam would take, with its moments and the current step
size (`last_layer`). Large steps on small batches are sample-efficient until a few tokens break the policy; these few
are dropped. A model of Adam's moments of the output layer, from the kept tokens, is part of the run's state.

The thresholds depend on the step size, the width and the scale of the advantages: look for them over two or three
decades, so that `rejected` is between 0.5 and 8 %. If `rejected_advantage` is far above 0, what is dropped is the rare
success, and with it the signal. `step_shift` is m_F of Adam's step on the whole batch, a prediction of its KL.

Luckeciano C. Melo et al., *Stabilizing Policy Gradients for Sample-Efficient Reinforcement Learning in LLM Reasoning*
(2025), arXiv:2510.00819; the thresholds and the presets are those of the released code (luckeciano/stable-pg-llm).

Differences: there is one step per batch, as in the paper, so there is no ratio and no clip. π is over the `top_k`
likeliest tokens and the one that was written. A cap on the logits is left out of the curvature, and so is the embedding
that shares the weight. With an adapter the output layer does not learn: m_F and m_H are those of a step not taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from surefoot.envs.language import Task
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Batch, GroupRollout, Metrics, Rollout, Term, per_token
from surefoot.methods.language.capo.last_layer import Moments, Written, alone, shifts, together
from surefoot.models.language.model import LanguageModel
from surefoot.objectives import PolicyObjective, aggregation, ratios, stabilizers
from surefoot.objectives.advantages import group_mean, group_standardized, outcome

ADVANTAGES = {"grpo": group_standardized(1e-4, unbiased=True), "dr-grpo": group_mean(), "reinforce": outcome()}
MATH: dict[str, Any] = {  # the released configuration: Qwen2.5-Math-7B on MATH, 100 steps
    "prompts": 12,
    "max_tokens": 1024,
    "learning_rate": 1.5e-5,
    "warmup": 10,
    "anneal": "cosine",
}
TOO_MANY, WARN_EVERY = 0.5, 20  # share of rejected tokens from which a run is warned, and after how many iterations


@dataclass(frozen=True)
class CAPO(GroupRollout):
    """REINFORCE on groups, without the tokens whose predicted shift is too large."""

    judges: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "math-2025": MATH,
        "math-2025-dr": {**MATH, "base": "dr-grpo", "policy_limit": 1e-3, "objective_limit": 5e-4},
        "math-2025-reinforce": {**MATH, "base": "reinforce", "policy_limit": 1e-5, "objective_limit": 1e-1},
    }

    epochs: int = hyperparameter(1, low=1, high=1, help="Passes over each batch; must be 1.")
    minibatches: int = hyperparameter(1, low=1, high=1, help="Optimiser steps per pass; must be 1.")
    base: str = hyperparameter(
        "grpo", choices=tuple(ADVANTAGES), help="Advantage and aggregation: CAPO, Dr.CAPO or ReinCAPO of the paper."
    )
    policy_limit: float = hyperparameter(1e-4, low=0, help="τ_F: a token's predicted change of the policy is below it.")
    objective_limit: float = hyperparameter(
        1e-2, low=0, help="τ_H: a token's predicted change of the objective is less in size."
    )
    step_model: str = hyperparameter("adam", choices=("adam", "sgd"), help="The step that is predicted.")
    top_k: int = hyperparameter(50, low=2, help="Likeliest tokens of the output layer that are looked at.")

    @property
    def likeliest(self) -> int:
        return self.top_k

    def objective(self) -> PolicyObjective:
        per = aggregation.constant_length(self.max_tokens) if self.base == "dr-grpo" else aggregation.per_sequence()
        return PolicyObjective(
            ADVANTAGES[self.base],
            ratios.current(),
            stabilizers.none(),
            aggregation=per,
            divergence=self.kl,
            entropy=self.entropy,
        )

    def memory(self, model: LanguageModel, task: Task) -> dict[str, Tensor]:
        return vars(Moments.start(model.head()[0].shape[1]))

    def remember(self, rollout: Rollout, iteration: Iteration) -> dict[str, Tensor]:
        written, kept, _ = self.examined(rollout)
        return vars(Moments(**rollout.progress.memory).after(written[kept]))

    def examined(self, rollout: Rollout) -> tuple[Written, Tensor, Metrics]:
        """The valid tokens, which of them are kept, and the predicted shifts of each."""
        assert rollout.judged is not None, "the loop judges what a method with `judges` learns from"
        advantage = per_token(self.advantages(rollout).flatten(0, 1).float(), rollout.sequences.valid)
        written = Written.of(rollout.sequences, rollout.judged, advantage)
        moments = Moments(**rollout.progress.memory) if self.step_model == "adam" else None
        objective, policy = shifts(written, alone(written, moments), rollout.progress.learning_rate)
        kept = (policy < self.policy_limit) & (objective.abs() < self.objective_limit)
        return written, kept, {"objective_shift": objective, "policy_shift": policy}

    def terms(self, rollout: Rollout) -> list[Term]:
        written, kept, found = self.examined(rollout)
        progress, valid, count = rollout.progress, rollout.sequences.valid, len(kept)
        if count and float(kept.float().mean()) < 1 - TOO_MANY and progress.step % WARN_EVERY == 0:
            self._warn(kept, found)
        step = together(written, Moments(**progress.memory).after(written[kept]))
        found |= {"step_shift": shifts(written, step, progress.learning_rate)[1], "rejected": (~kept).float()}
        shown = {name: x / max(1, count) for name, x in found.items()}  # their sums are means over tokens
        shown["rejected_advantage"] = ~kept * written.advantage / (~kept).sum().clamp(min=1)
        extra = {name: torch.zeros(valid.shape).masked_scatter(valid, x) for name, x in shown.items()}
        place = torch.zeros_like(valid).masked_scatter(valid, kept)
        left = place.any(1).sum() / valid.any(1).sum().clamp(min=1)  # a row without kept tokens counts in the mean
        return [self.completions(rollout, kept=place, coefficient=float(left), extra=extra)]

    def loss(
        self, objective: PolicyObjective, batch: Batch, log_prob: Tensor, entropy: Tensor
    ) -> tuple[Tensor, Metrics]:
        loss, metrics = super().loss(objective, batch, log_prob, entropy)
        return loss, metrics | {name: x.sum() for name, x in batch.extra.items()}

    def _warn(self, kept: Tensor, found: Metrics) -> None:
        usual = {name: float(x.abs().quantile(0.95)) for name, x in found.items()}
        warnings.warn(
            f"CAPO rejects {1 - float(kept.float().mean()):.0%} of the tokens. Its limits depend on the step size and "
            f"the model: 95 % of the tokens would be within policy_limit={usual['policy_shift']:.1g} and "
            f"objective_limit={usual['objective_shift']:.1g}; or use a smaller learning_rate.",
            stacklevel=2,
        )

    def steps(self) -> list[str]:
        write, learn = super().steps()
        return [
            write,
            f"predict from the last layer what a step of {self.step_model} on each token alone would change",
            f"drop tokens whose change of the policy is {self.policy_limit:g} or more, or of the objective "
            f"{self.objective_limit:g} or more",
            learn,
        ]


METHOD = CAPO

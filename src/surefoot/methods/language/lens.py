"""LENS: a wrong answer costs the more, the more confident the model was in it, so groups without a success teach too.

    R̃ = R − (1−R)/G · c/(D − c)        c = exp(mean_t log π_old),   D = max(D_imp, 2·max c)

    some of the group right:  Â = (R̃ − mean(R̃))/std(R̃)        none:  Â = α·(R̃ − mean(R̃))

Where all answers of a prompt are wrong GRPO has no gradient. The maximum-likelihood fit of "which answers are correct"
has one: −π/(D − π) for a wrong answer of probability π, D being the probability that a good policy gives to a correct
one. With length-normalised confidences c and a bounded odds ratio it moves mass from confident mistakes to rarer
answers. Use it with rewards 0 and 1 where many prompts are hard; it needs no extra pass of the model.

Yunzhen Feng et al., *Don't Waste Mistakes: Leveraging Negative RL-Groups via Confidence Reweighting* (2025),
arXiv:2510.08696. D_imp = G/Σ(R/π_old) is 0 for all but very short answers, since the paper's formula has the
probability of the whole answer; `importance="mean"` puts c in its place. Rewards between 0 and 1 are allowed: a group
without a success is then one whose rewards are all equal and below 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.method import Rollout
from surefoot.loops.group_rollout.rewards import in_unit
from surefoot.methods.language.baselines import ClippedGroups
from surefoot.objectives import PolicyObjective
from surefoot.objectives.advantages import group_mean, group_standardized


@dataclass(frozen=True)
class LENS(ClippedGroups):
    """GRPO on rewards that are calibrated by the confidence of the policy that wrote."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "math-2025-qwen": {  # §6 and App. D.1: Qwen2.5-3B-Base on MATH and DAPO's data; 4 steps of 32 prompts
            "prompts": 128,
            "max_tokens": 4096,
            "learning_rate": 1e-6,
        },
    }

    samples: int = hyperparameter(16, low=2, help="Completions per prompt.")
    minibatches: int = hyperparameter(4, low=1, help="Optimiser steps per pass.")
    alpha: float = hyperparameter(0.25, low=0, help="Weight of the groups without a success.")
    penalty: float | None = hyperparameter(
        None, low=0, help="Largest penalty of a wrong completion; by default 1/samples, which keeps it below the mean."
    )
    importance: str = hyperparameter(
        "raw",
        choices=("raw", "mean", "off"),
        help="Probability of a completion in the estimate of D: of all tokens, their geometric mean, or no estimate.",
    )
    informative: float = hyperparameter(
        0.0, low=0, high=0, help="Must be 0: groups without a success are learned from."
    )

    def objective(self) -> PolicyObjective:
        return dataclasses.replace(super().objective(), advantage=group_standardized(1e-6, unbiased=True))

    def calibrated(self, rollout: Rollout) -> Float[Tensor, "prompts samples"]:
        """R̃ of every completion."""
        reward, valid = in_unit("total", rollout.reward, "LENS"), rollout.sequences.valid
        total = torch.where(valid, rollout.log_prob, 0.0).sum(1).view_as(reward).double()
        mean = total / rollout.lengths.clamp(min=1)
        c = mean.exp()
        top = difficulty(reward, c, {"raw": total, "mean": mean}.get(self.importance))
        return penalised(reward, c, top, 1 / reward.shape[1] if self.penalty is None else self.penalty)

    def advantages(self, rollout: Rollout) -> Tensor:
        found = self.calibrated(rollout)
        lost = rollout.degenerate & (rollout.reward[:, 0] < 1)
        return torch.where(lost[:, None], self.alpha * self.without_success(found), self.objective().advantage(found))

    def without_success(self, calibrated: Float[Tensor, "prompts samples"]) -> Float[Tensor, "prompts samples"]:
        """The advantage, before its weight α, in groups without a success; not divided by their tiny deviations."""
        return group_mean()(calibrated)

    def steps(self) -> list[str]:
        write, learn = super().steps()
        bound = "1/G" if self.penalty is None else f"{self.penalty:g}"
        return [
            f"{write}; replace each R by R̃ = R − (1−R)·{bound}·c/(D − c)",
            f"where no completion of a prompt succeeds, Â = {self.alpha:g}·(R̃ − mean(R̃)), without the deviation",
            learn,
        ]


def difficulty(
    reward: Float[Tensor, "prompts samples"],
    confidence: Float[Tensor, "prompts samples"],
    log_prob: Float[Tensor, "prompts samples"] | None,
) -> Float[Tensor, "prompts 1"]:
    """D of every prompt: at least twice the highest confidence, and the estimate of 1/Σ_o p(o is correct) from the
    completions if their log-probabilities are given."""
    floor = 2 * confidence.amax(1, keepdim=True)
    if log_prob is None:
        return floor
    inverse = (reward.double().log() - log_prob).logsumexp(1, keepdim=True) - math.log(reward.shape[1])
    return torch.maximum(floor, torch.where(inverse > -torch.inf, (-inverse).exp(), 0.0))  # none right: no estimate


def penalised(
    reward: Float[Tensor, "..."],
    confidence: Float[Tensor, "..."],
    difficulty: Float[Tensor, "..."],
    scale: float,
) -> Float[Tensor, "..."]:
    """R − (1−R)·scale·c/(D − c)."""
    return reward - (1 - reward) * scale * confidence / (difficulty - confidence)


METHOD = LENS

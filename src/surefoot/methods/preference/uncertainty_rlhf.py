"""Uncertainty-aware RLHF: the policy may leave its reference where an ensemble of rewards agrees, and less elsewhere.

    maximise  Σ_y π·r̂ − β·Σ_y σ²(y)·[π·log(π/π_ref) − π + π_ref]        π ∝ π_ref·exp((r̂ − ν)/(βσ²)),  ν for Σπ = 1

Reward models trained alike disagree, and a policy that maximises one of them, or their mean, may end below where it
began. r̂ and σ² are the mean and the variance over the rewards given, such as the heads of an ensemble
(`reward="reward-models:FOLDER"`). To second order the penalty is ½Σσ²(π − π_ref)²/π_ref, the constraint for which the
paper proves a lower risk of falling below the reference. Compare with a plain ensemble (`rloo`) at the same realised
divergence, not at the same β.

Debangshu Banerjee and Aditya Gopalan, *Towards Reliable Alignment: Uncertainty-aware RLHF* (2024), arXiv:2410.23726.
Differences: REINFORCE with a leave-one-out baseline in place of PPO; the penalty is a reward of the whole completion,
as σ² is; variances are in units of their mean over the first iteration's completions, which the reference wrote, with a
floor, so that β means what it does without them; and each reward is measured from its mean there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.group_rollout.several import Judged, Scores, SeveralRewards
from surefoot.objectives.ensembles import aligned, disagreement, relative


@dataclass(frozen=True)
class UncertaintyRLHF(SeveralRewards):
    """RLOO on the mean of several rewards, with a divergence penalty in proportion to their variance."""

    judged_by: ClassVar[int] = 2

    beta: float = hyperparameter(
        0.1,
        above=0,
        help="Price β of leaving the reference where the variance is the usual one; choose it by the divergence.",
        tune=Range(1e-3, 10.0, log=True),
    )
    floor: float = hyperparameter(0.01, above=0, help="Smallest variance of an answer, in units of the usual one.")

    def gauge(self, scores: Scores) -> dict[str, Tensor]:
        found = super().gauge(scores)
        usual = disagreement(aligned(scores, found["mean"])).mean()
        if not usual > 0:
            raise UsageError(
                f"the {scores.shape[-1]} rewards agree on all completions of the first iteration up to a constant, so "
                "there is no uncertainty; give an ensemble whose members were trained differently, or use rloo."
            )
        return {**found, "usual": usual}

    def judged(self, scores: Scores, memory: Mapping[str, Tensor]) -> Judged:
        variance = relative(disagreement(scores), memory["usual"], self.floor)
        return Judged(scores.mean(-1), variance, memory, {"ensemble": scores.mean(-1), "variance": variance})

    def steps(self) -> list[str]:
        write, learn = super().steps()
        return [
            write,
            "r̂, σ²: mean and variance of the rewards, each less its mean at the start; σ² in units of its mean there",
            f"R = r̂ − {self.beta:g}·(σ² + {self.floor:g})/{1 + self.floor:g}·log(π/π_ref) of the whole completion",
            learn,
        ]


METHOD = UncertaintyRLHF

"""RPG: policy gradients with a KL divergence from the sampling policy, whose every form has its own weight off-policy.

    maximise  E_π[R] − β·D        ∇ = E_{π_old}[ (ρ·Â + C)·∇log π ],   C = −β·ρ·D'(ρ)

    D      KL(π_old ‖ π)  KL(π ‖ π_old)    the same two for measures that need not sum to 1
    C/β    1              −ρ(log ρ + 1)    1 − ρ                −ρ·log ρ

Several steps on a batch leave the policy that wrote it, and the usual penalties are then not the gradients of what they
are named after: GRPO's k3 lacks the ratio. The unnormalised forms do not pull at ρ = 1, so they add no noise there; the
others do, and cancel in expectation. Use it for several steps per batch, with β a brake on each of them. It measures no
distance from the model before training: `kl` does, here with the ratio that makes it the reverse KL.

Yifan Zhang et al., *On the Design of KL-Regularized Policy Gradient Algorithms for LLM Reasoning* (ICLR 2026),
arXiv:2505.17508.

Two forms, both per token. "reinforce": a dual clip that stops a token by the sign of Â + C/ρ, with the ratio in C
clipped (the code has the sign of Â, which differs where |C/ρ| > |Â|). "differentiable": Â alone is clipped, and the
divergence acts beside it on every token, as in the code; the paper clips both for the reverse forms. π_old is the
policy before the batch; the paper may keep it for longer, until a KL exceeds a bound that it does not state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.group_rollout.method import Batch, Metrics
from surefoot.methods.language.baselines import ClippedGroups
from surefoot.objectives import PolicyObjective, aggregation, stabilizers
from surefoot.objectives.regularized import DIVERGENCES, pull, regularized


@dataclass(frozen=True)
class RPG(ClippedGroups):
    """A group baseline, a dual clip, a token mean and a KL divergence from the sampling policy."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "dapo-math-2025": {  # §5 and App. H: Qwen3-4B on DAPO-Math-17k, context of 4096
            "prompts": 512,
            "samples": 16,
            "max_tokens": 4096,
            "learning_rate": 1e-6,
            "warmup": 5,  # ten gradient steps
            "weight_decay": 0.1,
        },
    }

    clip_high: float | None = hyperparameter(0.28, above=0, help="Upper clip range of the ratio; `clip` if not given.")
    dual_clip: float = hyperparameter(10.0, above=1, help="Ratio at which the loss of a bad token is capped.")
    informative: float = hyperparameter(
        1.0, low=0, high=1, help="Minimum share of prompts whose rewards differ; below it more prompts are sampled."
    )
    form: str = hyperparameter(
        "reinforce", choices=("reinforce", "differentiable"), help="What the clip stops: Â with C, or Â alone."
    )
    divergence: str = hyperparameter(
        "reverse-unnormalised", choices=tuple(DIVERGENCES), help="KL divergence of the policy and the one that sampled."
    )
    beta: float = hyperparameter(1e-4, low=0, help="Weight β of that divergence.", tune=Range(1e-5, 1e-2, log=True))
    kl_estimator: str = hyperparameter(
        "weighted", choices=("k3", "weighted"), help="KL estimator: weighted by the ratio, or k3 as in the GRPO paper."
    )

    def objective(self) -> PolicyObjective:
        clip = stabilizers.dual_clip(self.clip, self.clip_high, self.dual_clip)
        beside = regularized(self.divergence, self.beta, clip)
        return dataclasses.replace(
            super().objective(),
            stabilizer=beside if self.form == "differentiable" else clip,
            aggregation=aggregation.mean(),
        )

    def loss(
        self, objective: PolicyObjective, batch: Batch, log_prob: Tensor, entropy: Tensor
    ) -> tuple[Tensor, Metrics]:
        if self.form == "reinforce":
            ratio = (log_prob.detach() - batch.old_log_prob).exp()
            near = ratio.clamp(1 - self.clip, 1 + (self.clip if self.clip_high is None else self.clip_high))
            changed = batch.advantage - self.beta * pull(near, self.divergence) / ratio
            batch = dataclasses.replace(batch, advantage=changed)
        return super().loss(objective, batch, log_prob, entropy)

    def steps(self) -> list[str]:
        write, learn = super().steps()
        if self.form == "differentiable":
            return [write, learn]
        return [
            write,
            f"{learn}, with Â − {self.beta:g}·D'(ρ) in place of Â, D = {DIVERGENCES[self.divergence].formula}",
        ]


METHOD = RPG

"""BNPO: the advantage is divided by a Beta density fitted to the success rates of the prompts.

    Â = (R − p)/f(p)        f = Beta(1 + a/3, 1 + b/3),   p ~ Beta(a, b) over the prompts of the batch

Dr.GRPO does not divide, GRPO divides by √(p(1−p)), whatever the policy's success rates are; this divisor adapts to
them, and of all Beta densities it minimises the raw variance of the gradient. Use it with rewards in [0, 1] when
prompts are mostly very easy or very hard. Several reward functions are normalised one by one and averaged without
weights.

Changyi Xiao et al., *BNPO: Beta Normalization Policy Optimization* (2025), arXiv:2506.02864. For equal step
sizes this optimality says nothing: the signal-to-noise ratio is best for a constant divisor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.method import GroupRollout, Rollout
from surefoot.loops.group_rollout.rewards import in_unit
from surefoot.objectives import PolicyObjective, aggregation, ratios, stabilizers
from surefoot.objectives.beta import beta_normalized


@dataclass(frozen=True)
class BNPO(GroupRollout):
    """A group baseline with an adaptive normaliser, dual clip and token sums."""

    weighs: ClassVar[bool] = False

    prompts: int = hyperparameter(32, low=1, help="Prompts per step; the density is fitted to them.")
    samples: int = hyperparameter(16, low=2, help="Completions per prompt.")
    clip: float = hyperparameter(0.2, above=0, help="Lower clip range of the ratio.")
    clip_high: float = hyperparameter(0.28, above=0, help="Upper clip range.")
    dual_clip: float = hyperparameter(10.0, above=1, help="Ratio at which the loss of a bad token is capped.")
    weight_cap: float = hyperparameter(1e6, above=0, help="Cap on 1/f(p); 10 to 100 for small batches.")

    def objective(self) -> PolicyObjective:
        return PolicyObjective(
            beta_normalized(self.weight_cap),
            ratios.old(),
            stabilizers.dual_clip(self.clip, self.clip_high, self.dual_clip),
            aggregation=aggregation.constant_length(1.0),
            divergence=self.kl,
            entropy=self.entropy,
        )

    def advantages(self, rollout: Rollout) -> Tensor:
        known = {name: torch.nan_to_num(x) for name, x in rollout.components.items()}  # NaN: it does not apply
        return torch.stack([self.objective().advantage(in_unit(name, x, "BNPO")) for name, x in known.items()]).mean(0)


METHOD = BNPO

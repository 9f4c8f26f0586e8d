"""CPGD: the clipped policy gradient without a ratio, and a drift term that pulls back to the sampling policy.

    maximise  mean_tokens[ min(Â·log ρ, Â·clip(log ρ, log 1−ε, log 1+ε)) ] − α·D

PPO multiplies by the ratio, so the gradient of a bad token whose probability rose is unbounded. Here every token inside
the clip range has the weight Â, whatever its ratio. D is the KL from the sampling policy, through a surrogate with the
gradient min(ρ − 1, c)·∇log π; it also acts on clipped tokens, which PPO ignores. Use it for several steps per batch.

Zongkai Liu et al., *CPGD: Toward Stable Rule-based Reinforcement Learning for Language Models* (2025),
arXiv:2505.12504. The factor of "filtered" counts groups, as the methods the paper builds on do, not responses.

Differences: the defaults are those of the authors' institute's library (siiRL), whose drift of .001 leaves more room to
a policy that is reused for several steps; the preset "mm-eureka-2025" is the run behind the paper's tables, with ten
times that. Its AdamW has β = (.9, .95), ours (.9, .999); it adds 1e-9 to the standard deviation, we 1e-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.method import Batch, GroupRollout, Metrics
from surefoot.objectives import PolicyObjective, aggregation, ratios, stabilizers
from surefoot.objectives.advantages import among_informative, group_mean, group_standardized

FILTER_CAP = 3.0
ADVANTAGES = {
    "standardized": group_standardized(1e-6, unbiased=True),
    "centred": group_mean(),
    "filtered": among_informative(group_mean(), FILTER_CAP),
}


@dataclass(frozen=True)
class CPGD(GroupRollout):
    """A group advantage with a log-ratio clip and policy drift."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mm-eureka-2025": {  # §5.1 and the released script (ModalMinds/MM-EUREKA, branch qwen): 7B, MMK12
            "prompts": 128,
            "samples": 8,
            "max_tokens": 4096,
            "minibatches": 8,  # of 128 responses
            "learning_rate": 1e-6,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "drift": 0.01,
        },
    }

    minibatches: int = hyperparameter(2, low=1, help="Optimiser steps per pass; with one the drift has no effect.")
    max_grad_norm: float | None = hyperparameter(0.5, above=0, help="Maximum gradient norm.")
    clip: float = hyperparameter(0.2, above=0, below=1, help="Lower clip range of the ratio.")
    clip_high: float | None = hyperparameter(None, above=0, help="Upper clip range; the lower one if not given.")
    drift: float = hyperparameter(1e-3, low=0, help="Weight α of the drift.")
    drift_cap: float = hyperparameter(2.0, above=0, help="Cap on ρ − 1 in the drift.")
    advantage: str = hyperparameter(
        "standardized", choices=tuple(ADVANTAGES), help="Advantage: how rewards within a group are compared."
    )

    def objective(self) -> PolicyObjective:
        return PolicyObjective(
            ADVANTAGES[self.advantage],
            ratios.old(),
            stabilizers.log_clip(self.clip, self.clip_high),
            aggregation=aggregation.mean(),
            divergence=self.kl,
            entropy=self.entropy,
        )

    def loss(
        self, objective: PolicyObjective, batch: Batch, log_prob: Tensor, entropy: Tensor
    ) -> tuple[Tensor, Metrics]:
        loss, metrics = super().loss(objective, batch, log_prob, entropy)
        ratio = (log_prob.detach() - batch.old_log_prob).exp()
        drift = (ratio - 1).clamp(max=self.drift_cap) * log_prob  # only its gradient is meaningful: that of the drift
        return loss + self.drift * (batch.weights * drift).sum(), metrics

    def steps(self) -> list[str]:
        return [
            *super().steps(),
            f"    + {self.drift:g}·drift, whose gradient is min(ρ − 1, {self.drift_cap:g})·∇log π",
        ]


METHOD = CPGD

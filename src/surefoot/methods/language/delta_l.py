"""ΔL normalisation: a completion of length L has weight L^−α, and the weights of all completions have a constant sum.

    maximise  Σ_i w_i Σ_t min(ρÂ, clip(ρ)Â) / T        w_i = L_i^−α / Σ_j L_j^−α

The gradient of a completion is a sum over its tokens, and its variance grows with its length L. GRPO's mean over each
completion has the right proportions (α = 1) but a total that changes with the lengths of the batch, which biases the
step; Dr.GRPO's constant (α = 0) has no bias but more variance. This has neither. Use it where lengths vary widely.

Zhiyuan He et al., *Rethink Loss Aggregation in RLVR* (ΔL Normalization, 2025), arXiv:2509.07558. The weights are
computed over the whole batch of completions, before it is cut into minibatches.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from surefoot.hyperparameters import hyperparameter
from surefoot.methods.language.baselines import ClippedGroups
from surefoot.objectives import PolicyObjective, aggregation
from surefoot.objectives.advantages import group_standardized


@dataclass(frozen=True)
class DeltaL(ClippedGroups):
    """GRPO's advantage and clip with another aggregation."""

    samples: int = hyperparameter(10, low=2, help="Completions per prompt.")
    minibatches: int = hyperparameter(4, low=1, help="Optimiser steps per pass.")
    clip_high: float | None = hyperparameter(0.3, above=0, help="Upper clip range; the lower one if not given.")
    alpha: float = hyperparameter(1.0, low=0, high=1, help="Power of the length: 1 has the least variance.")

    def objective(self) -> PolicyObjective:
        return dataclasses.replace(
            super().objective(),
            advantage=group_standardized(1e-6, unbiased=True),
            aggregation=aggregation.delta_l(self.alpha, self.max_tokens),
        )


METHOD = DeltaL

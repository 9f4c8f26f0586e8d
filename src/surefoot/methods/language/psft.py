"""PSFT: imitation with PPO's clipped ratio in place of the log-likelihood.

    maximise  mean_tokens[ min(ρ, 1 + ε) ]        ρ = π/π_old of the tokens of demonstrations

Maximum likelihood is a policy gradient with advantage 1 and no limit on how far a batch moves the policy. Here a token
that has become 1 + ε times as likely since π_old, the policy before the batch, does not pull any more. Use it in place
of SFT where other skills, or what reinforcement learning will explore later, must survive. It needs several steps per
batch: in the first one ρ = 1, and the gradient is SFT's. A token that falls is not clipped but weighs less (ρ < 1).

Wenhong Zhu et al., *Proximal Supervised Fine-Tuning* (2025), arXiv:2508.17784. The paper's lower clip has no effect
where all advantages are 1, so there is none here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.method import Rollout, Term
from surefoot.methods.language.baselines import SFT
from surefoot.objectives import PolicyObjective, ratios, stabilizers


@dataclass(frozen=True)
class PSFT(SFT):
    """SFT on the clipped ratio, several steps per batch of demonstrations."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "limo-2025": {  # the released script (zwhong714/PSFT) for Qwen2.5-7B-Instruct; its warm-up is 10 gradient steps
            "learning_rate": 1e-6,
            "warmup": 2,
            "weight_decay": 0.1,
        },
    }

    prompts: int = hyperparameter(64, low=1, help="Demonstrations per step.")
    minibatches: int = hyperparameter(8, low=1, help="Optimiser steps per pass; with one the clip has no effect.")
    clip_high: float = hyperparameter(0.28, above=0, help="Clip range ε: no gain from moving ρ above 1 + ε.")
    sft_steps: int = hyperparameter(
        0, low=0, help="Iterations of plain maximum likelihood at the beginning, the paper's warm-up."
    )

    def objective(self) -> PolicyObjective:
        clip = stabilizers.clip(self.clip_high)
        return dataclasses.replace(super().objective(), ratio=ratios.old(), stabilizer=clip)

    def terms(self, rollout: Rollout) -> list[Term]:
        plain = rollout.progress.step < self.sft_steps
        objective = super().objective() if plain else self.objective()
        return [self.imitation(rollout, name="", objective=objective)]

    def steps(self) -> list[str]:
        take, learn = super().steps()
        first = f"; in the first {self.sft_steps} iterations ρ = π/sg[π], plain maximum likelihood"
        return [take, learn + (first if self.sft_steps else "")]


METHOD = PSFT

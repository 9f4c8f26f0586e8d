"""HPT: imitate what the policy cannot do yet, reinforce what it can, prompt by prompt.

    a prompt whose completions succeed in more than a share γ:  maximise  Σ_seq Σ_t ρ(R − mean(R)) / (N·T)
    any other prompt:                                           maximise  mean_tokens log π of its demonstration

for a batch of N completions of at most T tokens, including those of imitated prompts: a prompt's contribution to the
policy gradient does not depend on how many others are imitated.

SFT and policy gradients are estimators of one objective, reward plus a KL to the demonstrations, that differ in four
parts: mask, denominator, advantage, likelihood. So the two can be mixed, and the policy's own success rate decides
where. Use it when every prompt has a verifier and a demonstration, and some prompts are too hard for rewards alone.

Xingtai Lv et al., *Towards a Unified View of Large Language Model Post-Training* (2025), arXiv:2509.04419. Where no
completion of a prompt succeeds, its rewards are all equal, so γ = 0 takes nothing from the policy gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.method import GroupRollout, Rollout, Term
from surefoot.loops.group_rollout.rewards import successes
from surefoot.objectives import PolicyObjective, aggregation, ratios, stabilizers
from surefoot.objectives.advantages import group_mean


@dataclass(frozen=True)
class HPT(GroupRollout):
    """Imitation for prompts with a low success rate, the policy gradient for all others."""

    imitates: ClassVar[bool] = True

    minibatches: int = hyperparameter(2, low=1, help="Optimiser steps per pass.")
    gate: float = hyperparameter(
        0.0, high=1, help="γ: prompts with a success rate up to this are imitated; below 0 none are."
    )
    imitation_weight: float = hyperparameter(1.0, low=0, help="Weight of the imitation.")
    entropy: float = hyperparameter(1e-3, help="Weight of the entropy bonus.")

    def objective(self) -> PolicyObjective:
        return PolicyObjective(
            group_mean(),
            ratios.old(),
            stabilizers.none(),
            aggregation=aggregation.constant_length(self.max_tokens),
            divergence=self.kl,
            entropy=self.entropy,
        )

    def imitated(self, rollout: Rollout) -> Tensor:
        """The prompts that are learned from their demonstration, `[prompts]`."""
        solved = successes(rollout.reward, rollout.components, "HPT").sum(
            1
        )  # counts: the success rate is compared without rounding
        return solved <= self.gate * rollout.reward.shape[1] if self.gate >= 0 else torch.zeros_like(solved).bool()

    def terms(self, rollout: Rollout) -> list[Term]:
        shown = self.imitated(rollout)
        terms = []
        if not bool(shown.all()):
            kept = (~shown).nonzero().squeeze(-1)
            samples = rollout.reward.shape[1]
            share = len(kept) / len(shown)  # a prompt's weight does not depend on how many others are imitated
            group = kept.repeat_interleave(samples)
            terms.append(self.completions(rollout.prompts(kept), group=group, coefficient=share))
        if bool(shown.any()) and self.imitation_weight:
            terms.append(self.imitation(rollout, shown, coefficient=self.imitation_weight))
        return terms

    def steps(self) -> list[str]:
        write, _ = super().steps()
        return [
            write,
            f"of each prompt solved in more than {self.gate:g} of them keep the completions, of any other the "
            "demonstration",
            f"{self.epochs} × {self.minibatches} steps of AdamW: minimise −objective of the completions "
            f"+ {self.imitation_weight:g}·mean NLL of the demonstrations",
        ]


METHOD = HPT

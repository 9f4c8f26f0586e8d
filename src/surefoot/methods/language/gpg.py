"""GPG: the plain policy gradient with the group mean as baseline, and a correction for uninformative groups.

    maximise  mean_tokens[ log π · Â ]        Â = B/(B−M) · (R − mean(R)) / F

M of the B groups have equal rewards: they have no gradient but count in the mean, and there are more of them as the
policy improves. The factor removes them from the mean. F is 1, or the group's standard deviation. No critic, no
reference, no ratio, no clip: the baseline that every other method of this kind has to beat. `informative` also samples
more prompts until enough groups are informative; at 1 that is DAPO's dynamic sampling.

Xiangxiang Chu et al., *GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning* (2025),
arXiv:2504.02546. As in the released code, tokens of uninformative groups stay in the denominator of the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.objectives import PolicyObjective, aggregation, ratios, stabilizers
from surefoot.objectives.advantages import among_informative, group_mean, group_standardized


@dataclass(frozen=True)
class GPG(GroupRollout):
    """REINFORCE on groups; one step per batch, because there is no ratio to correct a second one."""

    epochs: int = hyperparameter(1, low=1, high=1, help="Passes over each batch; must be 1.")
    minibatches: int = hyperparameter(1, low=1, high=1, help="Optimiser steps per pass; must be 1.")
    standardized: bool = hyperparameter(False, help="Divide by the group's standard deviation (F = std + 1e-4).")
    corrected: bool = hyperparameter(True, help="Multiply by B/(B−M), to correct for uninformative groups.")
    informative: float = hyperparameter(
        0.0, low=0, high=1, help="Minimum share of prompts whose rewards differ; below it more prompts are sampled."
    )

    def objective(self) -> PolicyObjective:
        centred = group_standardized(1e-4, unbiased=True) if self.standardized else group_mean()
        return PolicyObjective(
            among_informative(centred) if self.corrected else centred,
            ratios.current(),
            stabilizers.none(),
            aggregation=aggregation.mean(),
            divergence=self.kl,
            entropy=self.entropy,
        )


METHOD = GPG

"""The usual objectives for language models, each a choice of parts.

    ∇J = Σ c · f'(ρ, Â) · ∇π/d        ρ = π/d

GRPO compares the completions of a prompt with one another, takes several clipped steps on them, and weights all
completions equally. The others change one or two parts: the clipping (DAPO, GSPO, CISPO), the baseline (Dr.GRPO, RLOO),
the weights of tokens, or what is imitated (RFT, SFT).

After the table in *Towards a Unified View of Large Language Model Post-Training* (2025), arXiv:2509.04419. DAPO has
its clip, its token mean and its resampling here; its penalty on long completions is a reward function, not a loss.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.method import GroupRollout, Rollout, Term
from surefoot.objectives import PolicyObjective, aggregation, ratios, stabilizers
from surefoot.objectives.advantages import group_mean, group_standardized, leave_one_out, outcome, unit


@dataclass(frozen=True)
class ClippedGroups(GroupRollout):
    """Rewards minus their group's mean, PPO's clip, equal weight for each completion; base of the methods below."""

    minibatches: int = hyperparameter(2, low=1, help="Optimiser steps per pass.")
    clip: float = hyperparameter(0.2, above=0, help="Lower clip range of the ratio.")
    clip_high: float | None = hyperparameter(None, above=0, help="Upper clip range; the lower one if not given.")

    def objective(self) -> PolicyObjective:
        return PolicyObjective(
            group_mean(),
            ratios.old(),
            stabilizers.clip(self.clip, self.clip_high),
            aggregation=aggregation.per_sequence(),
            divergence=self.kl,
            entropy=self.entropy,
        )


@dataclass(frozen=True)
class GRPO(ClippedGroups):
    """Rewards standardised in their group, PPO's clip, equal weight for every completion (arXiv:2402.03300).

    The standard deviation is the group's population standard deviation, as in the paper and its theory. TRL and verl
    divide by the unbiased one, which makes the advantages √((n−1)/n) times as large: `unbiased=True`.
    """

    unbiased: bool = hyperparameter(False, help="Standardise by the standard deviation with n − 1, as TRL and verl do.")

    def objective(self) -> PolicyObjective:
        return dataclasses.replace(super().objective(), advantage=group_standardized(1e-4, self.unbiased))


@dataclass(frozen=True)
class DrGRPO(ClippedGroups):
    """GRPO without its two biases: no division by the standard deviation or by the length (arXiv:2503.20783)."""

    def objective(self) -> PolicyObjective:
        counted = aggregation.constant_length(self.max_tokens)
        return dataclasses.replace(super().objective(), aggregation=counted)


@dataclass(frozen=True)
class DAPO(GRPO):
    """GRPO with a wider upper clip range, a token mean, and only groups whose rewards differ (arXiv:2503.14476)."""

    clip_high: float | None = hyperparameter(0.28, above=0, help="Upper clip range; the lower one if not given.")
    informative: float = hyperparameter(
        1.0, low=0, high=1, help="Minimum share of prompts whose rewards differ; below it more prompts are sampled."
    )

    def objective(self) -> PolicyObjective:
        return dataclasses.replace(super().objective(), aggregation=aggregation.mean())


@dataclass(frozen=True)
class GSPO(GRPO):
    """GRPO on the length-normalised ratio of the whole completion, with a narrow clip range (arXiv:2507.18071)."""

    clip: float = hyperparameter(3e-4, above=0, help="Lower clip range of the ratio.")
    clip_high: float | None = hyperparameter(4e-4, above=0, help="Upper clip range; the lower one if not given.")

    def objective(self) -> PolicyObjective:
        return dataclasses.replace(super().objective(), ratio=ratios.sequence())


@dataclass(frozen=True)
class CISPO(GRPO):
    """The importance weight is clipped, the gradient is not: every token contributes (arXiv:2506.13585)."""

    clip: float = hyperparameter(1.0, above=0, help="Lower clip range of the weight.")
    clip_high: float | None = hyperparameter(0.28, above=0, help="Upper clip range of the weight; `clip` if not given.")

    def objective(self) -> PolicyObjective:
        high = self.clip if self.clip_high is None else self.clip_high
        return dataclasses.replace(
            super().objective(),
            ratio=ratios.truncated(self.clip, high),
            stabilizer=stabilizers.none(),
            aggregation=aggregation.mean(),
        )


@dataclass(frozen=True)
class RLOO(GroupRollout):
    """REINFORCE on whole completions with the mean of the others as baseline (arXiv:2402.14740); one step per
    batch, because there is no ratio to correct a second one."""

    epochs: int = hyperparameter(1, low=1, high=1, help="Passes over each batch; must be 1.")
    minibatches: int = hyperparameter(1, low=1, high=1, help="Optimiser steps per pass; must be 1.")

    def objective(self) -> PolicyObjective:
        return PolicyObjective(
            leave_one_out(),
            ratios.current(),
            stabilizers.none(),
            aggregation=aggregation.constant_length(1.0),
            divergence=self.kl,
            entropy=self.entropy,
        )


@dataclass(frozen=True)
class RFT(GroupRollout):
    """Imitation of the completions that succeeded, weighted by their reward (rejection sampling)."""

    def objective(self) -> PolicyObjective:
        return PolicyObjective(
            outcome(),
            ratios.current(),
            stabilizers.none(),
            aggregation=aggregation.mean(),
            divergence=self.kl,
            entropy=self.entropy,
        )


@dataclass(frozen=True)
class SFT(GroupRollout):
    """Maximum likelihood of the demonstrations; no completions are generated or rewarded."""

    imitates: ClassVar[bool] = True

    samples: int = hyperparameter(0, low=0, high=0, help="Completions per prompt; must be 0.")
    kl_estimator: str = hyperparameter(
        "k3", choices=("k3",), help="Must be k3: demonstrations are not drawn from the model."
    )

    def objective(self) -> PolicyObjective:
        return PolicyObjective(
            unit(),
            ratios.current(),
            stabilizers.none(),
            aggregation=aggregation.mean(),
            divergence=self.kl,
            entropy=self.entropy,
        )

    def terms(self, rollout: Rollout) -> list[Term]:
        return [self.imitation(rollout, name="", objective=self.objective())]

    def steps(self) -> list[str]:
        return [
            f"take {self.prompts} prompts with their demonstrations",
            f"{self.epochs} × {self.minibatches} steps of AdamW: minimise −objective of the demonstrations' tokens",
        ]

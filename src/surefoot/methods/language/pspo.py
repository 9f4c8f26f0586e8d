"""PSPO: the ratio of a policy smoothed towards the old one, in place of a clip.

    maximise  mean_seq mean_t[ ρ̃Â ]        ρ̃ = (1−α)ρ + α

ρ̃ is the ratio of the mixture (1−α)π + απ_old, so it stays nearer to 1 than ρ. But α has no gradient: this is exactly
1−α times the gradient of the unclipped surrogate, and Adam cancels even that factor. Its gain over a clip is the gain
of not clipping. Two uses of the mixture that do more are here as extensions: inside PPO's clip ("clip"), and in the
logarithm ("log": the gradient saturates for large ρ).

Differences: by default each completion has the same weight and the population's standard deviation is used, as in GRPO
here, so that the two methods differ in the ratio alone. The authors' released setting (a patch of TRL's trainer) takes
the mean over all tokens of the batch and the unbiased deviation: `presets["gsm8k-2025"]`. It also samples with top-p
0.9, for which there is no hyperparameter here; its warm-up of 140 gradient steps are 70 iterations.

Madeleine Dwyer et al., *It's Not You, It's Clipping: A Soft Trust-Region via Probability Smoothing for LLM RL* (2025),
arXiv:2509.21282.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.objectives import PolicyObjective, aggregation, estep, ratios, stabilizers
from surefoot.objectives.advantages import group_standardized


@dataclass(frozen=True)
class PSPO(GroupRollout):
    """GRPO's advantage and aggregation on the smoothed ratio (GR-PSPO)."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gsm8k-2025": {  # the released script for Qwen2.5-0.5B (MCDwyer/GR-PSPO), TRL's defaults where it says nothing
            "samples": 4,
            "max_tokens": 128,
            "temperature": 0.8,
            "minibatches": 1,
            "learning_rate": 5e-7,
            "warmup": 70,
            "anneal": "linear",
            "unbiased": True,
            "token_mean": True,
        },
    }

    epochs: int = hyperparameter(
        2, low=1, help="Passes over each batch; with a single step α only scales the gradient."
    )
    minibatches: int = hyperparameter(2, low=1, help="Optimiser steps per pass.")
    alpha: float = hyperparameter(0.1, low=0, high=1, help="Share of the old policy in the mixture.")
    form: str = hyperparameter(
        "plain", choices=("plain", "clip", "log"), help="The paper's form (plain), or an extension."
    )
    clip: float = hyperparameter(0.2, above=0, help="Clip range of ρ̃, with form=clip.")
    unbiased: bool = hyperparameter(False, help="Standardise by the standard deviation with n − 1, as TRL and verl do.")
    token_mean: bool = hyperparameter(False, help="Mean over the tokens of the batch instead of over each completion.")

    def objective(self) -> PolicyObjective:
        inner = {
            "plain": stabilizers.none(),
            "clip": stabilizers.clip(self.clip),
            "log": estep.weighted_likelihood(),
        }[self.form]
        return PolicyObjective(
            group_standardized(1e-4, self.unbiased),
            ratios.old(),
            stabilizers.smoothed(self.alpha, inner),
            aggregation=aggregation.mean() if self.token_mean else aggregation.per_sequence(),
            divergence=self.kl,
            entropy=self.entropy,
        )


METHOD = PSPO

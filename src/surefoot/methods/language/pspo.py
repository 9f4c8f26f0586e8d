"""PSPO: the ratio of a policy smoothed towards the old one, in place of a clip.

    maximise  mean_seq mean_t[ ρ̃Â ]        ρ̃ = (1−α)ρ + α

ρ̃ is the ratio of the mixture (1−α)π + απ_old, so it stays nearer to 1 than ρ. But α has no gradient: this is exactly
1−α times the gradient of the unclipped surrogate, and Adam cancels even that factor. Its gain over a clip is the gain
of not clipping. Two uses of the mixture that do more are here as extensions: inside PPO's clip ("clip"), and in the
logarithm ("log": the gradient saturates for large ρ).

Madeleine Dwyer et al., *It's Not You, It's Clipping: A Soft Trust-Region via Probability Smoothing for LLM RL* (2025),
arXiv:2509.21282.
"""

from __future__ import annotations

from dataclasses import dataclass

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.objectives import PolicyObjective, aggregation, estep, ratios, stabilizers
from surefoot.objectives.advantages import group_standardized


@dataclass(frozen=True)
class PSPO(GroupRollout):
    """GRPO's advantage and aggregation on the smoothed ratio (GR-PSPO)."""

    epochs: int = hyperparameter(
        2, low=1, help="Passes over each batch; with a single step α only scales the gradient."
    )
    minibatches: int = hyperparameter(2, low=1, help="Optimiser steps per pass.")
    alpha: float = hyperparameter(0.1, low=0, high=1, help="Share of the old policy in the mixture.")
    form: str = hyperparameter(
        "plain", choices=("plain", "clip", "log"), help="The paper's form (plain), or an extension."
    )
    clip: float = hyperparameter(0.2, above=0, help="Clip range of ρ̃, with form=clip.")

    def objective(self) -> PolicyObjective:
        inner = {
            "plain": stabilizers.none(),
            "clip": stabilizers.clip(self.clip),
            "log": estep.weighted_likelihood(),
        }[self.form]
        return PolicyObjective(
            group_standardized(epsilon=1e-4),
            ratios.old(),
            stabilizers.smoothed(self.alpha, inner),
            aggregation=aggregation.per_sequence(),
            divergence=self.kl,
            entropy=self.entropy,
        )


METHOD = PSPO

"""PPO with a token-level critic: a learned value replaces the baseline that GRPO takes from the group.

    maximise  mean_tokens[ min(ρÂ, clip(ρ, 1−ε, 1+ε)Â) ]        Â_t = Σ_l (γλ)^l δ_{t+l},  δ_t = r_t + γV_{t+1} − V_t
    minimise  mean_tokens[ ½(V − G)² ]                          G = Â + V of the model that wrote

The method that GRPO and its variants replaced: use it where a prompt has one completion (samples = 1), or to see what a
critic gains and costs. V is linear in the hidden states of the policy, and its loss also trains the shared trunk.

A completion is an episode, its reward comes with the last token. One truncated by `max_tokens` has ended too: it is
not bootstrapped, because the reward function has judged it as it is. Advantages are standardised once, over all tokens
of the batch, so that the minibatches add up to the batch. The KL from the reference is a loss (`kl`), not a reward.

John Schulman et al., *Proximal Policy Optimization Algorithms* (2017), arXiv:1707.06347, with the value clip and
coefficients usual for language since Daniel M. Ziegler et al. (2019), arXiv:1909.08593. The slug `ppo` is the method
for environments; this one is named after its difference from the other language baselines.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.method import Batch, Metrics, Rollout, Term
from surefoot.methods.language.baselines import ClippedGroups
from surefoot.models.language.model import LanguageModel
from surefoot.objectives import PolicyObjective, aggregation, values
from surefoot.objectives.advantages import gae, standardize
from surefoot.objectives.tokens import token_advantages
from surefoot.objectives.values import ValueLoss


@dataclass(frozen=True)
class PPOCritic(ClippedGroups):
    """GRPO's clip with generalised advantage estimates of tokens in place of the group's, and a mean over tokens."""

    samples: int = hyperparameter(8, low=1, help="Completions per prompt; one is enough, as they are not compared.")
    gamma: float = hyperparameter(1.0, low=0, high=1, help="Discount factor per token.")
    lam: float = hyperparameter(0.95, low=0, high=1, help="GAE's λ; 1 uses the rewards alone.")
    standardize: bool = hyperparameter(True, help="Standardise advantages over all tokens of the batch of completions.")
    value_coefficient: float = hyperparameter(0.1, low=0, help="Weight of the critic's loss.")
    value_clip: float | None = hyperparameter(
        0.2, above=0, help="Clip range of the critic's change, in units of value."
    )

    def prepare(self, model: LanguageModel) -> None:
        model.add_critic()

    def objective(self) -> PolicyObjective:
        return dataclasses.replace(
            super().objective(), advantage=gae(self.gamma, self.lam), aggregation=aggregation.mean()
        )

    def value_loss(self) -> ValueLoss:
        """The critic's loss."""
        return values.within(self.value_clip)

    def gain(self, rollout: Rollout) -> Float[Tensor, "rows length"]:
        """Â of every token, before standardisation."""
        advantage, valid = self.objective().advantage, rollout.sequences.valid
        return token_advantages(advantage, rollout.reward.flatten(), rollout.value, valid)

    def advantages(self, rollout: Rollout) -> Float[Tensor, "prompts samples length"]:
        gain = self.gain(rollout)
        gain = standardize(gain.double(), rollout.sequences.valid).float() if self.standardize else gain
        return gain.unflatten(0, rollout.reward.shape)

    def completions(self, rollout: Rollout, **changes: Any) -> Term:
        extra = {"old_value": rollout.value, "target": rollout.value + self.gain(rollout)}
        return super().completions(rollout, **{"extra": extra, **changes})

    def critic_loss(self, batch: Batch, value: Tensor) -> tuple[Tensor, Metrics]:
        error = self.value_loss()(value, batch.extra["target"], batch.extra["old_value"])
        loss, mean = ((batch.weights * x).sum() for x in (error, value))
        return self.value_coefficient * loss, {"value_loss": loss.detach(), "value": mean.detach()}

    def steps(self) -> list[str]:
        write, learn = super().steps()
        standard = ", Â then standardised over all tokens" if self.standardize else ""
        return [
            write,
            "V of the state before every token, linear in the hidden state from which the policy predicts it",
            f"Â = {self.objective().advantage}, the reward at the last token; G = V + Â{standard}",
            f"{learn} + {self.value_coefficient:g}·mean {self.value_loss()}",
        ]


METHOD = PPOCritic

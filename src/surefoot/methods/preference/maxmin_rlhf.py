"""MaxMin-RLHF: the policy is optimised for the group of people that is worst off.

    maximise  min_u E_π[r̃_u] − β·KL(π ‖ π_ref)        r̃_u = (r_u − E_ref r_u)/sd_ref(r_u),  one reward for each group

One reward model of a mixed population follows its majority. Here every group has its own (`reward=[r_1, r_2, …]`, or
the heads that `reward-mixture` finds where nobody knows the groups: `reward="reward-models:FOLDER"`), and each
iteration maximises that of the group whose mean is lowest. Use it where minorities matter; the majority pays.

`mode="mirror"` keeps weights that shrink with a group's mean, λ_u ∝ λ_u·exp(−η·F_u), and maximises Σ λ_u·r̃_u: smoother,
with the same solution. `mode="pointwise_min"` is the authors' code, min_u r̃_u of every completion: a lower bound, and
another policy, which avoids whatever anybody dislikes.

Souradip Chakraborty et al., *MaxMin-RLHF: Towards Equitable Alignment of Large Language Models with Diverse Human
Preferences* (2024), arXiv:2402.08925. Differences: REINFORCE with a leave-one-out baseline in place of PPO; means of
groups are running ones, as those of small batches change places by chance; rewards of Bradley-Terry have no common
zero, so each is standardised over the first iteration's completions, which the reference wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.several import Judged, Scores, SeveralRewards

MODES = ("group_argmin", "mirror", "pointwise_min")


def lowered(
    log_weights: Float[Tensor, "... groups"], means: Float[Tensor, "... groups"], rate: float
) -> Float[Tensor, "... groups"]:
    """The logarithms of the groups' weights after a step of multiplicative weights: they shrink with the means."""
    return (log_weights - rate * means).log_softmax(-1)


@dataclass(frozen=True)
class MaxMinRLHF(SeveralRewards):
    """RLOO on the reward of the group that is worst off."""

    mode: str = hyperparameter(
        "group_argmin",
        choices=MODES,
        help="The lowest group's reward, weights that shrink with means (mirror), or the minimum of each completion.",
    )
    smoothing: float = hyperparameter(0.2, above=0, high=1, help="Weight of a batch in the running means of groups.")
    group_rate: float = hyperparameter(0.1, low=0, help="Step size η of the groups' weights in the mode mirror.")

    def gauge(self, scores: Scores) -> dict[str, Tensor]:
        spread, count = scores.flatten(0, 1).std(0), scores.shape[-1]
        groups = {"means": torch.zeros(count), "log_weights": torch.full((count,), 1 / count).log()}
        return {**super().gauge(scores), "scale": torch.where(spread > 0, spread, 1.0), **groups}

    def judged(self, scores: Scores, memory: Mapping[str, Tensor]) -> Judged:
        means, log_weights = scores.mean((0, 1)), memory["log_weights"]
        running = memory["means"].lerp(means, self.smoothing)
        if self.mode == "group_argmin":
            weights = torch.nn.functional.one_hot(running.argmin(), len(means)).to(scores.dtype)
        else:
            log_weights = lowered(log_weights, means, self.group_rate)
            weights = log_weights.exp()
        reward = scores.amin(-1) if self.mode == "pointwise_min" else scores @ weights
        logged = {"worst": running.min().expand_as(reward)}
        if self.mode != "pointwise_min":
            logged |= {f"weight_{group}": x.expand_as(reward) for group, x in enumerate(weights)}
        known = {**memory, "means": running, "log_weights": log_weights}
        return Judged(reward, torch.ones_like(reward), known, logged)

    def steps(self) -> list[str]:
        write, learn = super().steps()
        chosen = {
            "group_argmin": f"F_u: running means (a batch weighs {self.smoothing:g}); r = r̃ of the group with least F",
            "mirror": f"λ_u ∝ λ_u·exp(−{self.group_rate:g}·mean r̃_u); r = Σ λ_u·r̃_u",
            "pointwise_min": "r = min_u r̃_u of every completion",
        }
        return [
            write,
            "r̃_u: every group's reward, standardised by its mean and standard deviation at the start",
            chosen[self.mode],
            f"R = r − {self.beta:g}·log(π/π_ref) of the whole completion",
            learn,
        ]


METHOD = MaxMinRLHF

"""Max@k: the policy gradient of the best of k completions, the quantity that best-of-n sampling uses.

    maximise  E[ max(R_1 … R_k) ]        R̃_i = 1/C(n, k) · Σ of max(R) over the sets of k completions that contain i

Rewards train the mean of one attempt, and with it diversity goes. If k answers are written and the best is kept, a
completion is worth what it adds to the sets it is in: E[Σ R̃·∇log π] is the gradient of max@k without bias, at the cost
of one sort. For several steps on a batch R̃ is weighted by the ratios of the completions in each set, to first order:
Π ρ ≈ 1 + Σ (ρ − 1). Use it where answers are selected by a verifier or a vote; with binary rewards it is pass@k.

Farid Bagirov et al., *The Best of N Worlds: Aligning Reinforcement Learning with Best-of-N Sampling via max@k
Optimisation* (2025), arXiv:2510.23393; the estimator on-policy is that of PKPO (arXiv:2505.15201).

Differences: the paper states neither k nor the cap on |ρ − 1|, and not how the clip combines with weights that contain
the ratio already: here a token beyond the clip range does not push further, and inside it has the coefficient Â. A
group in which no set of k tells completions apart has no advantage; standardised, the weights alone would be noise.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from math import comb
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.method import Batch, GroupRollout, Metrics, Rollout, Term
from surefoot.objectives import PolicyObjective, aggregation, ratios, stabilizers
from surefoot.objectives.advantages import group_standardized


@dataclass(frozen=True)
class MaxAtK(GroupRollout):
    """GRPO's advantage of R̃ in place of R, and a clip of the log-ratio."""

    separable: ClassVar[bool] = False  # the ratios of all completions of a prompt enter the advantage of each

    k: int = hyperparameter(4, low=1, help="Completions of which the best counts.")
    samples: int = hyperparameter(8, low=2, help="Completions per prompt, at least k.")
    epochs: int = hyperparameter(3, low=1, help="Passes over each batch of completions.")
    clip: float = hyperparameter(0.2, above=0, below=1, help="Lower clip range of the ratio.")
    clip_high: float | None = hyperparameter(None, above=0, help="Upper clip range; the lower one if not given.")
    delta_max: float = hyperparameter(
        0.2, low=0, help="Cap on |ρ − 1| of a completion in the correction for several steps; 0: no correction."
    )
    kl: float = hyperparameter(
        0.01, low=0, help="Weight of the KL divergence from the reference, the model before training."
    )
    correction: str = hyperparameter(
        "none", choices=("none",), help="Must be none: the advantage changes in each step."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < self.k:
            raise UsageError(f"MaxAtK: k={self.k} needs at least as many samples per prompt, not {self.samples}.")

    def objective(self) -> PolicyObjective:
        return PolicyObjective(
            group_standardized(1e-4),
            ratios.old(),
            stabilizers.log_clip(self.clip, self.clip_high),
            aggregation=aggregation.constant_length(1.0),
            divergence=self.kl,
            entropy=self.entropy,
        )

    def advantages(self, rollout: Rollout) -> Tensor:
        return self.objective().advantage(best_of(below_best(rollout.reward), self.k))

    def terms(self, rollout: Rollout) -> list[Term]:
        return [self.completions(rollout, extra={"reward": rollout.reward.flatten()})]

    def loss(
        self, objective: PolicyObjective, batch: Batch, log_prob: Tensor, entropy: Tensor
    ) -> tuple[Tensor, Metrics]:
        reward = batch.extra["reward"].view(-1, self.samples)
        moved = torch.where(batch.valid, log_prob.detach() - batch.old_log_prob, 0.0).sum(1)
        delta = torch.expm1(moved).clamp(-self.delta_max, self.delta_max).view_as(reward)
        told_apart = best_of(below_best(reward), self.k).any(1, keepdim=True)
        advantage = told_apart * objective.advantage(best_of(reward, self.k, delta))
        changed = dataclasses.replace(batch, advantage=advantage.to(log_prob.dtype).view(-1, 1).expand_as(log_prob))
        loss, metrics = super().loss(objective, changed, log_prob, entropy)
        return loss, {**metrics, "max_at_k": best_of(reward, self.k).sum(1).mean() / self.k}

    def steps(self) -> list[str]:
        write, learn = super().steps()
        return [
            f"{write}; replace each R by R̃, its part of the best of {self.k}",
            f"{learn}, with R̃ weighted in each step by the ratios of its completions, |ρ − 1| ≤ {self.delta_max:g}",
        ]


def below_best(reward: Float[Tensor, "prompts samples"]) -> Float[Tensor, "prompts samples"]:
    """Rewards minus the highest of their group: R̃ is shifted by the same number for all, and is exactly 0 where no set
    of k tells completions apart."""
    return reward - reward.amax(1, keepdim=True)


def best_of(
    reward: Float[Tensor, "... samples"], k: int, delta: Float[Tensor, "... samples"] | None = None
) -> Float[Tensor, "... samples"]:
    """R̃ of every completion in float64; Σ R̃/k estimates max@k. With `delta` = ρ − 1 of each completion the maximum of a
    set has the weight 1 + Σ δ over the set.

    In ascending order, C(j−1, k−1) sets have j as their best, C(j−2, k−2) of them contain a given i < j, and
    C(j−3, k−3) a given pair below j.
    """
    samples = reward.shape[-1]
    ascending, order = reward.double().sort(-1)
    best, with_one, with_two = (
        torch.tensor([comb(j - m, k - m) if min(j, k) >= m else 0 for j in range(1, samples + 1)]).to(ascending)
        for m in (1, 2, 3)
    )
    shift = torch.zeros_like(ascending) if delta is None else delta.double().gather(-1, order)
    below = shift.cumsum(-1) - shift
    own = (best * (1 + shift) + with_one * below) * ascending
    others = _after((with_one * (1 + shift) + with_two * below) * ascending)
    others = others + shift * _after((with_one - with_two) * ascending)
    return torch.empty_like(own).scatter(-1, order, (own + others) / comb(samples, k))


def _after(x: Float[Tensor, "... samples"]) -> Float[Tensor, "... samples"]:
    """y[i] = Σ x[j] over j > i."""
    return x.flip(-1).cumsum(-1).flip(-1) - x


METHOD = MaxAtK

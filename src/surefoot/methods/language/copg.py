"""CoPG: contrasts of completions of one prompt, whoever wrote them; any reward is optimised from scored completions.

    maximise  mean_prompts Σ_{i>j} [ (R_i − R_j)·Δ_ij − β/2·Δ_ij² ]/(k−1)

    with Δ_ij = log π/π_ref (y_i) − log π/π_ref (y_j) for the k completions y of a prompt

The gradient of a completion is (R^β_i − mean of the others' R^β)·∇log π, with R^β = R − β·log π/π_ref: RLOO with the
regularised reward. But as the baseline is the other samples' whole R^β, the only maximum is π_ref·exp(R/β)/Z, whatever
policy wrote the completions: no importance weights, no clip, no critic, and any number of steps per batch. `samples=0`
learns from a file whose rows have a prompt, completions and their scores; nothing is then generated.

Yannis Flet-Berliac et al., *Contrastive Policy Gradient: Aligning LLMs on sequence-level scores in a
supervised-friendly fashion* (2024), arXiv:2406.19185; k > 2 completions as in *Command A* (arXiv:2504.00698). β has the
unit of the reward. Log-probabilities are summed over tokens: a mean would have another optimum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Batch, GroupRollout, Metrics, Rollout, Term
from surefoot.objectives import PolicyObjective, aggregation
from surefoot.objectives.advantages import leave_one_out


@dataclass(frozen=True)
class CoPG(GroupRollout):
    """Contrasts of all pairs of completions of a prompt, generated or read."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tldr-2024": {"prompts": 128, "samples": 0, "learning_rate": 1e-6},  # §6: Llama2-7B, offline pairs of summaries
    }
    separable: ClassVar[bool] = False  # the completions of a prompt must stay together

    prompts: int = hyperparameter(64, low=1, help="Prompts per step.")
    samples: int = hyperparameter(
        2, low=0, help="Completions per prompt; 0: the scored completions of the data are used, none are generated."
    )
    kl: float = hyperparameter(
        0.06, low=0, help="β: reward per nat of divergence from the reference, the model before training."
    )
    entropy: float = hyperparameter(0.0, low=0, high=0, help="Must be 0: the loss is a contrast.")
    kl_estimator: str = hyperparameter(
        "k3", choices=("k3",), help="Must be k3: the divergence is part of the contrast."
    )
    correction: str = hyperparameter("none", choices=("none",), help="Must be none: no token is weighted by a ratio.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples == 1:
            raise UsageError(
                "CoPG: samples=1 is not allowed: a completion is compared with others; give 0, or 2 or more."
            )

    def objective(self) -> str:  # type: ignore[override]
        return (
            f"maximise mean_prompts Σ_{{i>j}} [ (R_i − R_j)·Δ_ij − {self.kl / 2:g}·Δ_ij² ]/(k−1)\n"
            "  with Δ_ij = log π/π_ref (y_i) − log π/π_ref (y_j)"
        )

    def collect(self, iteration: Iteration) -> Rollout:
        return super().collect(iteration) if self.samples else iteration.read(iteration.choose(self.prompts))

    def advantages(self, rollout: Rollout) -> Tensor:
        return leave_one_out()(rollout.reward)

    def terms(self, rollout: Rollout) -> list[Term]:
        sums = PolicyObjective(leave_one_out(), aggregation=aggregation.constant_length(1.0))
        known = {"sampled": rollout.log_prob if self.samples else None, "extra": {"reward": rollout.reward.flatten()}}
        return [self.completions(rollout, objective=sums, **known)]

    def loss(
        self, objective: PolicyObjective, batch: Batch, log_prob: Tensor, entropy: Tensor
    ) -> tuple[Tensor, Metrics]:
        gain = log_prob if batch.reference is None else log_prob - batch.reference
        gain = torch.where(batch.valid, gain, 0.0).sum(1)
        groups = len(batch.group.unique())
        gain, reward = (x.view(groups, -1) for x in (gain, batch.extra["reward"].to(gain.dtype)))
        samples = gain.shape[1]
        # Σ_{i>j} (x_i − x_j)(y_i − y_j) = k·Σ (x − mean x)(y − mean y)
        gain, reward = (x - x.mean(1, keepdim=True) for x in (gain, reward))
        contrast = samples / (samples - 1) * (reward * gain - self.kl / 2 * gain**2).sum(1)
        metrics = {
            "contrast": contrast.detach().mean(),
            "moved": gain.detach().abs().mean(),
            "entropy": (batch.valid * entropy.detach()).sum() / batch.valid.sum().clamp(min=1),
        }
        return -contrast.mean(), metrics

    def steps(self) -> list[str]:
        source = (
            f"generate {self.samples} completions for each of {self.prompts} prompts at temperature "
            f"{self.temperature:g}; reward them"
            if self.samples
            else f"read {self.prompts} prompts with their scored completions"
        )
        return [source, super().steps()[1]]


METHOD = CoPG

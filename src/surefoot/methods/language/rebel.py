"""REBEL: policy improvement as regression of relative rewards.

    minimise  mean_pairs( [log ρ(y) − log ρ(y')] − η·(r(y) − r(y')) )²        log ρ = Σ_t log π − Σ_t log π_old

The log-ratios of two completions of a prompt should differ by η times the difference of their rewards: where that can
be solved exactly, the new policy is π_old·exp(ηr)/Z, mirror descent; one Gauss–Newton step of it is the natural
gradient. No critic, no clip, no baseline. Choose η so that η·(r − r') is a few nats.

Zhaolin Gao et al., *REBEL: Reinforcement Learning via Regressing Relative Rewards* (2024), arXiv:2404.16767. In the
form of the released code, η² times the paper's. `kl` enters the reward, evaluated at the sampling policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.method import Batch, GroupRollout, Metrics, Rollout, Term
from surefoot.objectives import PolicyObjective, aggregation
from surefoot.objectives.advantages import outcome


@dataclass(frozen=True)
class REBEL(GroupRollout):
    """Regression on pairs of completions of a prompt, with several passes per batch."""

    separable: ClassVar[bool] = False  # the rows of a pair must stay together

    prompts: int = hyperparameter(64, low=1, help="Prompts per step.")
    samples: int = hyperparameter(
        2, low=2, help="Completions per prompt; with more than two, the best and the worst are used."
    )
    epochs: int = hyperparameter(4, low=1, help="Passes over each batch of completions.")
    eta: float = hyperparameter(1.0, above=0, help="η: log-ratio in nats per unit of reward.")
    entropy: float = hyperparameter(0.0, low=0, high=0, help="Must be None: the loss is a regression.")
    kl_estimator: str = hyperparameter(
        "k3", choices=("k3",), help="Must be None: the divergence is part of the reward."
    )
    correction: str = hyperparameter("none", choices=("none",), help="Must be none: no token is weighted by a ratio.")
    truncation: float | None = hyperparameter(None, help="Reward of a truncated completion, if different.")

    def objective(self) -> str:  # type: ignore[override]
        return f"minimise mean_pairs( [log ρ(y) − log ρ(y')] − {self.eta:g}·[r(y) − r(y')] )²"

    def terms(self, rollout: Rollout) -> list[Term]:
        reward = rollout.reward
        if self.truncation is not None:
            reward = torch.where(rollout.truncated, self.truncation, reward)
        ends = torch.stack([reward.argmax(1), reward.argmin(1)], 1)
        ends = torch.where(ends[:, :1] == ends[:, 1:], torch.tensor([0, 1]), ends)  # all equal: any two
        pair = torch.tensor([0, 1]).expand_as(ends) if self.samples == 2 else ends
        rows = (torch.arange(len(pair))[:, None] * self.samples + pair).flatten()
        chosen = reward.gather(1, pair)
        sums = PolicyObjective(outcome(), aggregation=aggregation.constant_length(1.0))
        sequences = rollout.sequences[rows]
        return [
            Term(
                sequences,
                (chosen - chosen.flip(1)).flatten(),
                sums,
                torch.arange(len(pair)).repeat_interleave(2),
                sampled=rollout.log_prob[rows, : sequences.tokens.shape[1]],
                extra={"reward": chosen.flatten()},
            )
        ]

    def loss(
        self, objective: PolicyObjective, batch: Batch, log_prob: Tensor, entropy: Tensor
    ) -> tuple[Tensor, Metrics]:
        reward = batch.extra["reward"]
        if batch.reference is not None:
            reward = reward - self.kl * (batch.old_log_prob - batch.reference).sum(1)
        moved = (log_prob - batch.old_log_prob).sum(1)
        moved, reward = (x.view(-1, 2) for x in (moved, reward))
        residual = (moved[:, 0] - moved[:, 1]) - self.eta * (reward[:, 0] - reward[:, 1])
        metrics = {
            "residual": residual.detach().abs().mean(),
            "moved": moved.detach().abs().mean(),
            "entropy": (batch.valid * entropy.detach()).sum() / batch.valid.sum(),
        }
        return (residual**2).mean(), metrics

    def steps(self) -> list[str]:
        kl = f", less {self.kl:g}·log π_old/π_ref" if self.kl else ""
        which = "both" if self.samples == 2 else "the best and the worst"
        return [
            f"write {self.samples} completions of each of {self.prompts} prompts, at temperature {self.temperature:g}; "
            f"reward them{kl}; pair {which}",
            f"{self.epochs} × {self.minibatches} steps of AdamW on the objective",
        ]


METHOD = REBEL

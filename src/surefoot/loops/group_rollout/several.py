"""The base of methods on several rewards of the same completions, such as the heads of an ensemble or one of each
group.

    maximise  E_π[R] − β·E_ref[w·D]        D the divergence from the reference,  w a weight of each completion

A method says what R and w of every completion are (`judged`). The rewards are aligned first: measured from their means
over the completions of the first iteration, which the reference wrote. The penalty of a completion is that of the whole
of it, because w depends on all of its tokens: with rewards-to-go, the price of an early token would be wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Batch, GroupRollout, Metrics, Rollout, Term
from surefoot.objectives import PolicyObjective, aggregation, ratios, stabilizers
from surefoot.objectives.advantages import leave_one_out
from surefoot.objectives.ensembles import aligned, penalized

Scores = Float[Tensor, "prompts samples rewards"]


@dataclass(frozen=True)
class Judged:
    """What a method makes of several rewards: the reward and the weight of the penalty of every completion, its memory,
    and numbers for the log."""

    reward: Float[Tensor, "prompts samples"]
    weight: Float[Tensor, "prompts samples"]
    memory: Mapping[str, Tensor]
    logged: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class SeveralRollout(Rollout):
    """A rollout whose `reward` has the penalty in it."""

    logged_rows: Mapping[str, Float[Tensor, "prompts samples"]] = field(default_factory=dict)


@dataclass(frozen=True)
class SeveralRewards(GroupRollout):
    """REINFORCE on whole completions with the mean of the others as baseline; a subclass defines `judged`."""

    weighs: ClassVar[bool] = False

    epochs: int = hyperparameter(1, low=1, high=1, help="Passes over each batch; must be 1.")
    minibatches: int = hyperparameter(1, low=1, high=1, help="Optimiser steps per pass; must be 1.")
    samples: int = hyperparameter(8, low=2, help="Completions per prompt.")
    kl: float = hyperparameter(0.0, low=0, high=0, help="Must be 0: beta is the price of leaving the reference.")
    beta: float = hyperparameter(0.1, above=0, help="Price β of leaving the reference, in units of reward per nat.")

    # --- what a method defines ---------------------------------------------------------------------------------------

    def gauge(self, scores: Scores) -> dict[str, Tensor]:
        """`mean` and `scale` of every reward, and anything else to be kept about completions of the reference."""
        mean = scores.mean((0, 1))
        return {"mean": mean, "scale": torch.ones_like(mean)}

    def judged(self, scores: Scores, memory: Mapping[str, Tensor]) -> Judged:
        """What the aligned rewards of the completions come to."""
        raise NotImplementedError

    # --- rollouts ----------------------------------------------------------------------------------------------------

    @property
    def refers(self) -> bool:
        return True

    def objective(self) -> PolicyObjective:
        counted = aggregation.constant_length(1.0)
        parts = leave_one_out(), ratios.current(), stabilizers.none()
        return PolicyObjective(*parts, aggregation=counted, entropy=self.entropy)

    def collect(self, iteration: Iteration) -> SeveralRollout:
        rollout = super().collect(iteration)
        before = iteration.statistics(rollout.sequences, reference=True).log_prob
        moved = (iteration.statistics(rollout.sequences).log_prob - before).sum(1).view_as(rollout.reward)
        scores = torch.stack([torch.nan_to_num(x) for x in rollout.components.values()], -1)
        memory = rollout.progress.memory
        memory = memory if "mean" in memory else {**memory, **self.gauge(scores)}
        found = self.judged(aligned(scores, memory["mean"], memory["scale"]), memory)
        known = {f.name: getattr(rollout, f.name) for f in dataclasses.fields(Rollout)}
        known |= {
            "reward": penalized(found.reward, found.weight, moved, self.beta),
            "progress": dataclasses.replace(rollout.progress, memory=found.memory),
        }
        return SeveralRollout(**known, logged_rows={"divergence": moved, **found.logged})

    def completions(self, rollout: Rollout, **changes: Any) -> Term:
        assert isinstance(rollout, SeveralRollout), "collect made it"
        extra = {name: x.flatten() for name, x in rollout.logged_rows.items()}
        return super().completions(rollout, **{"extra": extra, **changes})

    def loss(
        self, objective: PolicyObjective, batch: Batch, log_prob: Tensor, entropy: Tensor
    ) -> tuple[Tensor, Metrics]:
        loss, metrics = super().loss(objective, batch, log_prob, entropy)
        share = batch.weights.amax(1)
        return loss, {**metrics, **{name: (share * x).sum() for name, x in batch.extra.items()}}

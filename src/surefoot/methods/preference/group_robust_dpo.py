"""Group-robust preferences: the worst group's loss is minimised, by weights on groups that grow with their losses.

    min_θ max_{α ∈ Δ} Σ_g α_g·L_g(θ)        α_g ← α_g·exp(η·L_g), normalised;  then a step on Σ_g α_g·L_g

Pairs come from groups of unequal size and difficulty, named by the column `group`. The average loss neglects the small
and the hard ones. A group of N_g among N pairs is estimated from a batch by (N/N_g)·Σ of its losses over the batch's
size, so that absent groups count as 0 and the mean over batches is right. `mix` = 0 is the average over groups, 1 the
worst group.

Shyam Sundhar Ramesh et al., *Group Robust Preference Optimization in Reward-free RLHF* (2024), arXiv:2405.20304; the
order of the two steps is that of the authors' code, the weights are kept as logarithms. The code sums over the batch
where this takes means, so its step size of 5e-7 for batches of 16 is 8e-6 here. The prompt should say which group asks,
unless groups that disagree are to meet in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from surefoot.envs.language import Task, pairs
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.pairs import PairRollout, Pairwise
from surefoot.models.language.model import LanguageModel
from surefoot.objectives import preferences as P
from surefoot.objectives.preferences import Compared, PairObjective

LINKS = {"logistic": P.logistic, "square": P.square}


def grown(
    log_weights: Float[Tensor, "... groups"], losses: Float[Tensor, "... groups"], rate: float, mix: float = 1.0
) -> Float[Tensor, "... groups"]:
    """The logarithms of the groups' weights after a step of multiplicative weights: they grow with the losses."""
    return (log_weights + mix * rate * losses).log_softmax(-1)


def mixed(log_weights: Float[Tensor, "... groups"], mix: float) -> Float[Tensor, "... groups"]:
    """The weights in use: those of the adversary, mixed with equal ones."""
    return mix * log_weights.softmax(-1) + (1 - mix) / log_weights.shape[-1]


@dataclass(frozen=True)
class GroupRobustDPO(Pairwise):
    """DPO or IPO for the worst group."""

    link: str = hyperparameter("square", choices=tuple(LINKS), help="The loss of a pair: square is IPO, logistic DPO.")
    beta: float = hyperparameter(0.01, above=0, help="Strength β of the reference; the implicit reward is β·ρ.")
    group_rate: float = hyperparameter(
        8e-6, low=0, help="Step size η of the groups' weights; choose it so that η times a group's loss is below 1."
    )
    mix: float = hyperparameter(1.0, low=0, high=1, help="1 for the worst group, 0 for the average over groups.")

    def pair_objective(self) -> PairObjective:
        return PairObjective(LINKS[self.link](self.beta))

    # --- groups ------------------------------------------------------------------------------------------------------

    def memory(self, model: LanguageModel, task: Task) -> dict[str, Tensor]:
        groups = torch.tensor(numbered(task))
        count = int(groups.max()) + 1
        weights = torch.full((count,), 1 / count, dtype=torch.float64).log()
        return {**super().memory(model, task), "groups": groups, "log_weights": weights}

    def collect(self, iteration: Iteration) -> PairRollout:
        rollout = super().collect(iteration)
        assert rollout.pairs is not None and rollout.reference is not None, "the objective has a reference"
        now = iteration.statistics(rollout.pairs).log_prob.sum(1).view(-1, 2)
        losses = self.pair_objective().losses(Compared(now, rollout.reference)).double()
        known, sizes = rollout.progress.memory, self._sizes(rollout)
        found = of_groups(losses, known["groups"][rollout.index], sizes)
        memory = {**known, "log_weights": grown(known["log_weights"], found, self.group_rate, self.mix)}
        return replace(rollout, progress=replace(rollout.progress, memory=memory))

    def weights(self, rollout: PairRollout) -> Tensor:
        known, sizes = rollout.progress.memory, self._sizes(rollout)
        by_group = mixed(known["log_weights"], self.mix) * sizes.sum() / sizes
        return by_group[known["groups"][rollout.index]].float()

    def _sizes(self, rollout: PairRollout) -> Tensor:
        return rollout.progress.memory["groups"].bincount()

    def steps(self) -> list[str]:
        first, *rest = super().steps()
        return [
            first,
            f"weights of groups grow by exp({self.group_rate:g}·loss of the group)"
            + (f"; {self.mix:g} of them, the rest equal" if self.mix < 1 else ""),
            *rest,
        ]


def numbered(task: Task) -> list[int]:
    """The number of the group of every pair, in the order of the groups' names.

    Raises:
        UsageError: the task is endless, a pair has no group, or all have the same.
    """
    found, names = pairs.numbered(task, "group")
    if len(names) < 2:
        raise UsageError(f"all pairs of {task} are of the group {names[0]!r}; give several groups, or use dpo.")
    return found


def of_groups(
    losses: Float[Tensor, " pairs"], group: Int[Tensor, " pairs"], sizes: Int[Tensor, " groups"]
) -> Float[Tensor, " groups"]:
    """Unbiased estimates of the groups' mean losses from a batch of all pairs: (N/N_g)·Σ/batch; 0 for absent groups."""
    summed = torch.zeros(len(sizes), dtype=losses.dtype).index_add(0, group, losses)
    return summed * sizes.sum() / sizes.clamp(min=1) / len(losses)


METHOD = GroupRobustDPO

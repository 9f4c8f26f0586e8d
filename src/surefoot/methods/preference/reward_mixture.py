"""A mixture of reward models: which of several rewards each annotator follows is found by hard EM.

    repeat  u(h) = argmax_u Σ over the pairs of h of log σ(r_u(y_w) − r_u(y_l));  fit each r_u to its people's pairs

Pairs have a column `annotator`; nobody needs to know the groups. The rewards are heads on one language model, and the
groups are found anew every so many iterations, first at random. A folder of the result is one reward of each group for
`maxmin-rlhf`: `reward="reward-models:FOLDER"`. A bad start can stall: train several seeds and keep the one with the
highest `likelihood`; choose the number of groups by held-out annotators, not by that.

Stage 1 of Souradip Chakraborty et al., *MaxMin-RLHF* (2024), arXiv:2402.08925. Differences: heads on a shared network,
where the paper has a separate adapter for each; a group that nobody is left in gets the person whom all rewards explain
worst, where the authors' code skips it; their code starts from the annotators' numbers modulo the groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from surefoot.envs.language import Task
from surefoot.envs.language.pairs import numbered
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Batch, Metrics, Rollout, Term
from surefoot.loops.group_rollout.scoring import Scoring, read
from surefoot.models.language.model import LanguageModel
from surefoot.objectives import PolicyObjective

TOGETHER = 256  # pairs scored at a time when the groups are found


def explained(
    gaps: Float[Tensor, "pairs groups"], annotator: Int[Tensor, " pairs"], people: int
) -> Float[Tensor, "people groups"]:
    """The log-likelihood of every person's pairs under every group's reward, from r(y_w) − r(y_l) of each pair."""
    summed = torch.zeros(people, gaps.shape[1], dtype=gaps.dtype)
    return summed.index_add(0, annotator, logsigmoid(gaps))


def grouped(likelihood: Float[Tensor, "people groups"]) -> Int[Tensor, " people"]:
    """The group of every person, whose reward explains their pairs best. A group that nobody is in gets the person whom
    the best reward explains worst, from a group of several."""
    found, best = likelihood.argmax(1), likelihood.amax(1)
    for group in range(likelihood.shape[1]):
        sizes = found.bincount(minlength=likelihood.shape[1])
        if not sizes[group]:
            found[torch.where(sizes[found] > 1, best, torch.inf).argmin()] = group
    return found


@dataclass(frozen=True)
class RewardMixture(Scoring):
    """Bradley-Terry scores by one head for each group of annotators, and the groups by hard EM."""

    heads: int = hyperparameter(2, low=2, help="Groups, each with a head of its own.")
    regroup: int = hyperparameter(50, low=1, help="Iterations after which the groups are found anew.")

    def memory(self, model: LanguageModel, task: Task) -> dict[str, Tensor]:
        annotator = torch.tensor(numbered(task, "annotator")[0])
        if (people := int(annotator.max()) + 1) < self.heads:
            raise UsageError(f"heads={self.heads} is more than the {people} annotators of {task}; give fewer groups.")
        group = torch.zeros(people, dtype=torch.int64)
        return {"annotator": annotator, "group": group, "likelihood": torch.tensor(0.5).log()}  # that of chance

    def known(self, iteration: Iteration) -> Mapping[str, Tensor]:
        memory, step = iteration.progress.memory, iteration.progress.step
        if step % self.regroup:
            return memory
        people = len(memory["group"])
        if not step:
            order = torch.randperm(people, generator=iteration.stream("groups"))
            return {**memory, "group": order % self.heads}
        likelihood = explained(self.gaps(iteration, len(memory["annotator"])), memory["annotator"], people)
        group = grouped(likelihood)
        mean = likelihood[torch.arange(people), group].sum() / len(memory["annotator"])
        return {**memory, "group": group, "likelihood": mean}

    def gaps(self, iteration: Iteration, count: int) -> Float[Tensor, "pairs heads"]:
        """r(y_w) − r(y_l) of all pairs by all heads, as the model is."""
        found = []
        for start in range(0, count, TOGETHER):
            examples = [iteration.task.example(i) for i in range(start, min(start + TOGETHER, count))]
            value = iteration.statistics(read(iteration.model, examples)).value
            assert value is not None, "the model has heads"
            scores = value.sum(1).view(-1, 2, self.heads)  # 0 but at the one valid place
            found.append(scores[:, 0] - scores[:, 1])
        return torch.cat(found)

    def head_weights(self, iteration: Iteration, index: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        return self.heads * one_hot(memory["group"][memory["annotator"][index]], self.heads).float()

    def measured(self, scores: Tensor, share: Tensor, weight: Tensor) -> Metrics:
        own = (scores * weight[:, None] / self.heads).sum(2, keepdim=True)
        return super().measured(own, share, weight)

    def terms(self, rollout: Rollout) -> list[Term]:
        (term,) = super().terms(rollout)
        likelihood = rollout.progress.memory["likelihood"].expand(len(term.group))
        return [replace(term, extra={**term.extra, "likelihood": likelihood})]

    def loss(
        self, objective: PolicyObjective, batch: Batch, log_prob: Tensor, entropy: Tensor
    ) -> tuple[Tensor, Metrics]:
        loss, metrics = super().loss(objective, batch, log_prob, entropy)
        return loss, {**metrics, "likelihood": (batch.weights.amax(1) * batch.extra["likelihood"]).sum()}

    def steps(self) -> list[str]:
        take, learn = super().steps()
        return [
            f"every {self.regroup} iterations: each annotator joins the group whose head explains all their pairs best "
            "(at first a random one)",
            f"take {self.prompts} pairs, and score both answers at their last token by the annotator's group's head",
            learn,
        ]


METHOD = RewardMixture

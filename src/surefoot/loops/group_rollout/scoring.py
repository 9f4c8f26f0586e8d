"""The base of methods that train reward models: heads on a language model, which score whole answers.

The score of an answer is that of the last token of prompt and answer together, read as text: exactly what a
`RewardModel` reads when it rewards a run. Several heads share the network and make an ensemble; each weighs the pairs
by its own draws from an exponential distribution of mean 1, the same whenever a pair comes again (a Bayesian
bootstrap), so they disagree where data are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from surefoot.envs.language import Example
from surefoot.envs.language.pairs import answers
from surefoot.errors import UsageError
from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Batch, Metrics, Rollout, Term
from surefoot.loops.group_rollout.pairs import SUMS, PairRollout, Pairwise
from surefoot.loops.group_rollout.rollout import unwritten
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.reward_model import RewardModel, classifier, whole_text
from surefoot.models.language.sequences import Sequences, ended
from surefoot.objectives import PolicyObjective
from surefoot.objectives.preferences import Compared, ScoreObjective

HEAD = "weight of head "  # the name of a head's weights of the rows, before its number


@dataclass(frozen=True)
class ScoredPairs(PairRollout):
    """Pairs of whole answers, each with one valid place after its end."""

    margin: Float[Tensor, " prompts"] = field(default_factory=lambda: torch.zeros(0))
    weight: Float[Tensor, "prompts heads"] = field(default_factory=lambda: torch.zeros(0, 1))


@dataclass(frozen=True)
class Scoring(Pairwise):
    """Bradley-Terry's likelihood of pairs by the scores of one or several heads."""

    acts: ClassVar[bool] = False

    beta: float = hyperparameter(1.0, low=1, high=1, help="Must be 1: the pairs themselves say how large scores are.")
    temperature: float = hyperparameter(1.0, low=1, high=1, help="Must be 1: nothing is sampled.")
    learning_rate: float | None = hyperparameter(
        1e-4,
        above=0,
        help="AdamW's learning rate; TRL's. 1e-5 suits all weights of a large model.",
        tune=Range(1e-6, 1e-3, log=True),
    )
    heads: int = hyperparameter(1, low=1, help="Heads; several make an ensemble on the same network.")
    centring: float = hyperparameter(
        0.01, low=0, help="Weight of (r_w + r_l)², which keeps scores near 0 (arXiv:2312.09244)."
    )

    def pair_objective(self) -> ScoreObjective:
        return ScoreObjective(centring=self.centring)

    def prepare(self, model: LanguageModel) -> None:
        classifier(model.base.config, model.tokenizer.pad_token_id)  # refuses what could not be saved
        model.add_heads(self.heads)

    def agent(self, model: LanguageModel, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> RewardModel:
        return RewardModel.of(model, facts)

    # --- what is learned from ----------------------------------------------------------------------------------------

    def collect(self, iteration: Iteration) -> ScoredPairs:
        index = iteration.choose(self.prompts)
        examples = [iteration.task.example(int(i)) for i in index]
        progress = replace(iteration.progress, memory=self.known(iteration))
        return ScoredPairs(
            **unwritten(examples, index),
            pairs=read(iteration.model, examples),
            margin=torch.tensor([margin(example) for example in examples]),
            weight=self.head_weights(iteration, index, progress.memory),
            progress=progress,
        )

    def known(self, iteration: Iteration) -> Mapping[str, Tensor]:
        """The method's memory in this iteration."""
        return iteration.progress.memory

    def head_weights(
        self, iteration: Iteration, index: Int[Tensor, " prompts"], memory: Mapping[str, Tensor]
    ) -> Float[Tensor, "prompts heads"]:
        """The weight of every pair for every head."""
        if self.heads == 1:
            return torch.ones(len(index), 1)
        streams = [iteration.stream("bootstrap", int(i)) for i in index]
        return torch.stack([torch.empty(self.heads).exponential_(generator=stream) for stream in streams])

    def terms(self, rollout: Rollout) -> list[Term]:
        assert isinstance(rollout, ScoredPairs) and rollout.pairs is not None, "collect made it"
        weight = rollout.weight.repeat_interleave(2, 0)
        extra = {"margin": rollout.margin.repeat_interleave(2)}
        extra |= {f"{HEAD}{head}": weight[:, head] for head in range(self.heads)}
        group = torch.arange(len(rollout.index)).repeat_interleave(2)
        return [Term(rollout.pairs, torch.ones(len(group)), SUMS, group, extra=extra)]

    def loss(
        self, objective: PolicyObjective, batch: Batch, log_prob: Tensor, entropy: Tensor
    ) -> tuple[Tensor, Metrics]:
        assert batch.now is not None and batch.now.value is not None, "the model has heads"
        share = batch.weights.amax(1).view(-1, 2).sum(1)  # of each pair in the mean over all of them
        place = batch.valid.float().argmax(1)
        scores = batch.now.value[torch.arange(len(place), device=place.device), place].view(len(share), 2, self.heads)
        margins = batch.extra["margin"][::2, None].expand(-1, self.heads).flatten()
        by_head = Compared(scores.transpose(1, 2).reshape(-1, 2), margin=margins)
        losses = self.pair_objective().losses(by_head).view(-1, self.heads)
        weight = torch.stack([batch.extra[f"{HEAD}{head}"][::2] for head in range(self.heads)], 1)
        loss = (share[:, None] * weight * losses).sum() / self.heads
        return loss, self.measured(scores.detach(), share, weight) | {"loss": loss.detach()}

    def measured(
        self,
        scores: Float[Tensor, "pairs 2 heads"],
        share: Float[Tensor, " pairs"],
        weight: Float[Tensor, "pairs heads"],
    ) -> Metrics:
        """Accuracy and margin of the mean score, both scores, and the standard deviation of the heads' margins."""
        chosen, rejected = scores.mean(2).unbind(1)
        gaps = scores[:, 0] - scores[:, 1]
        found = {
            "accuracy": (share * (chosen > rejected)).sum(),
            "margin": (share * (chosen - rejected)).sum(),
            "chosen": (share * chosen).sum(),
            "rejected": (share * rejected).sum(),
        }
        return found if scores.shape[2] == 1 else {**found, "disagreement": (share * gaps.std(1)).sum()}

    def steps(self) -> list[str]:
        several = f"; each of {self.heads} heads weighs them by its own exponential draws" if self.heads > 1 else ""
        return [
            f"take {self.prompts} pairs, and score both answers at their last token{several}",
            f"{self.epochs} × {self.minibatches} steps of AdamW: minimise the mean loss of the pairs",
        ]


def read(model: LanguageModel, examples: list[Example]) -> Sequences:
    """The two whole answers of every example, the chosen one first, as a reward model reads them."""
    return ended([whole_text(model.tokenizer, e.prompt, text) for e in examples for text in answers(e)])


def margin(example: Example) -> float:
    """The column `margin` of a pair, 0 if there is none.

    Raises:
        UsageError: it is not a number.
    """
    given = example.fields.get("margin", 0.0)
    try:
        return float(given)
    except (TypeError, ValueError):
        raise UsageError(f"margin={given!r} of {example.prompt!r} is not allowed; it must be a number.") from None

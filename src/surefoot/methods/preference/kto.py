"""KTO: single answers that are labelled good or bad, valued as people value gains and losses.

    loss = λ_D·(1 − σ(β(ρ − z₀))) if desirable, λ_U·(1 − σ(β(z₀ − ρ))) if not        ρ = log π/π_ref of the whole answer

No pairs are needed: rows with `prompt`, `completion` and `label`, such as thumbs up and down; of pairs both answers are
taken. z₀ = max(0, mean ρ) over the prompts of the batch, each with the answer to the next one, estimates the divergence
from the reference; it is a constant of the step. Where one label is rare, choose the weights such that
λ_D·n_D/(λ_U·n_U) is between 1 and 4/3.

Kawin Ethayarajh et al., *KTO: Model Alignment as Prospect Theoretic Optimization* (2024), arXiv:2402.01306.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.envs.language import Example, Task
from surefoot.envs.language.pairs import labelled
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Batch, Metrics, Rollout, Term
from surefoot.loops.group_rollout.pairs import SUMS, PairRollout, Pairwise, referred
from surefoot.loops.group_rollout.rollout import unwritten
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.sequences import join
from surefoot.objectives import PolicyObjective
from surefoot.objectives.preferences import ValueObjective


@dataclass(frozen=True)
class LabelledRollout(PairRollout):
    """Answers to prompts, as many adjacent rows of `pairs` for each; nothing was generated."""

    desirable: Float[Tensor, "prompts answers"] | None = None  # 1 or 0
    base: float = 0.0


@dataclass(frozen=True)
class KTO(Pairwise):
    """Answers one by one, each good or bad, against the divergence from the reference."""

    unit: ClassVar[int] = 1

    prompts: int = hyperparameter(16, low=2, help="Rows per step, labelled answers or pairs.")
    epochs: int = hyperparameter(1, low=1, high=1, help="Passes over each batch; must be 1, as z₀ is that of the step.")
    minibatches: int = hyperparameter(1, low=1, high=1, help="Optimiser steps per pass; must be 1.")
    desirable: float = hyperparameter(1.0, above=0, help="Weight λ_D of desirable answers.")
    undesirable: float = hyperparameter(1.0, above=0, help="Weight λ_U of undesirable answers.")

    def objective(self) -> ValueObjective:  # type: ignore[override]
        return ValueObjective(self.beta, self.desirable, self.undesirable)

    @property
    def refers(self) -> bool:
        return True

    def learned(self, example: Example) -> list[tuple[Any, str]]:
        return [(example.prompt, text) for text, _ in labelled(example)]

    def memory(self, model: LanguageModel, task: Task) -> dict[str, Tensor]:
        known = torch.full((task.size or 0, len(labelled(task.example(0)))), torch.nan)
        return {} if task.size is None else {"reference": known}

    def collect(self, iteration: Iteration) -> LabelledRollout:
        index = iteration.choose(self.prompts)
        examples = [iteration.task.example(int(i)) for i in index]
        each = [labelled(example) for example in examples]
        if len({len(said) for said in each}) > 1:
            raise UsageError("some rows are pairs and others single answers; give all of them in one form.")
        answers, model = len(each[0]), iteration.model
        asked = [example.prompt for example in examples for _ in range(answers)]
        said = model.encode_completions([text for several in each for text, _ in several], asked)
        prompts = model.encode(asked)
        rows = join(prompts, said)
        other = join(prompts, [*said[answers:], *said[:answers]])  # the answers to the next prompt
        moved = iteration.statistics(other).log_prob - iteration.statistics(other, reference=True).log_prob
        reference, progress = referred(iteration, index, rows, answers)
        return LabelledRollout(
            **unwritten(examples, index),
            pairs=rows,
            reference=reference,
            desirable=torch.tensor([[float(good) for _, good in several] for several in each]),
            base=max(0.0, float(moved.sum(1).mean())),
            progress=progress,
        )

    def terms(self, rollout: Rollout) -> list[Term]:
        assert isinstance(rollout, LabelledRollout) and rollout.pairs is not None, "collect made it"
        assert rollout.reference is not None and rollout.desirable is not None, "collect made them"
        group = torch.arange(len(rollout.index)).repeat_interleave(rollout.desirable.shape[1])
        base = torch.full((len(group),), rollout.base)
        extra = {"reference": rollout.reference.flatten(), "desirable": rollout.desirable.flatten(), "base": base}
        return [Term(rollout.pairs, torch.ones(len(group)), SUMS, group, extra=extra)]

    def loss(
        self, objective: PolicyObjective, batch: Batch, log_prob: Tensor, entropy: Tensor
    ) -> tuple[Tensor, Metrics]:
        share, good = batch.weights.amax(1), batch.extra["desirable"].bool()
        ratio = torch.where(batch.valid, log_prob, 0.0).sum(1) - batch.extra["reference"]
        loss = (share * self.objective().losses(ratio, good, batch.extra["base"])).sum()
        gain = self.beta * (ratio - batch.extra["base"]).detach()
        tokens = torch.where(batch.valid, entropy.detach(), 0.0).sum(1) / batch.valid.sum(1).clamp(min=1)
        found = {"accuracy": (gain > 0) == good, "desirable": good * gain, "undesirable": ~good * gain}
        found |= {"base": batch.extra["base"], "entropy": tokens}
        return loss, {name: (share * x).sum() for name, x in found.items()} | {"loss": loss.detach()}

    def steps(self) -> list[str]:
        return [
            f"take {self.prompts} rows; the reference's log-probabilities are computed once for each answer",
            "z₀ = max(0, mean log-ratio) of every prompt with the answer to the next one",
            "one step of AdamW: minimise the mean loss of the answers",
        ]


METHOD = KTO

"""The base of methods on pairs of answers, of which one was preferred: what DPO and its kin have in common.

Nothing is generated. A step takes pairs, and the loss of a pair depends on the summed log-probabilities of its two
answers under the model and under the reference. Those of the reference never change, so each is computed when its pair
is seen for the first time and kept in the method's memory, which checkpoints contain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from surefoot.envs.language import Example, Task
from surefoot.envs.language.pairs import answers
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.method import Batch, GroupRollout, Metrics, Rollout, Term
from surefoot.loops.group_rollout.rollout import Progress, unwritten
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.sequences import Sequences, join
from surefoot.objectives import PolicyObjective, aggregation, ratios, stabilizers
from surefoot.objectives.advantages import unit
from surefoot.objectives.preferences import Compared, PairObjective

SUMS = PolicyObjective(unit(), ratios.current(), stabilizers.none(), aggregation=aggregation.constant_length(1.0))


@dataclass(frozen=True)
class PairRollout(Rollout):
    """Pairs of answers to prompts; nothing was generated."""

    pairs: Sequences | None = None  # adjacent rows for each prompt: two, the chosen answer first, unless `rows` differs
    reference: Float[Tensor, "prompts rows"] | None = None  # summed log-probabilities, if the method compares with them


@dataclass(frozen=True)
class Paired(GroupRollout):
    """A method that takes pairs from the data, with the log-probabilities of the reference if it `refers` to them."""

    compares: ClassVar[bool] = True
    rows: ClassVar[int] = 2  # of a pair, as `learned` gives them
    default_steps: ClassVar[int] = 500

    prompts: int = hyperparameter(16, low=1, help="Pairs per step.")

    @property
    def reads(self) -> bool:
        return False  # pairs, not scores

    def learned(self, example: Example) -> list[tuple[Any, str]]:
        return [(example.prompt, text) for text in answers(example)]

    def memory(self, model: LanguageModel, task: Task) -> dict[str, Tensor]:
        known = torch.full((task.size or 0, self.rows), torch.nan)
        return {"reference": known} if self.refers and task.size is not None else {}

    def collect(self, iteration: Iteration) -> PairRollout:
        index = iteration.choose(self.prompts)
        examples = [iteration.task.example(int(i)) for i in index]
        learned = [row for example in examples for row in self.learned(example)]
        asked, texts = [prompt for prompt, _ in learned], [text for _, text in learned]
        pairs = join(iteration.model.encode(asked), iteration.model.encode_completions(texts, asked))
        reference, progress = None, iteration.progress
        if self.refers:
            reference, progress = referred(iteration, index, pairs, self.rows)
        return PairRollout(**unwritten(examples, index), pairs=pairs, reference=reference, progress=progress)


@dataclass(frozen=True)
class Pairwise(Paired):
    """A method whose loss is a `PairObjective`; a subclass defines `pair_objective`."""

    unit: ClassVar[int] = 2
    weighs: ClassVar[bool] = False

    samples: int = hyperparameter(0, low=0, high=0, help="Completions per prompt; must be 0.")
    kl: float = hyperparameter(0.0, low=0, high=0, help="Must be 0: beta is the strength of the reference.")
    entropy: float = hyperparameter(0.0, low=0, high=0, help="Must be 0.")
    beta: float = hyperparameter(0.1, above=0, help="Strength β of the reference; the implicit reward is β·ρ.")

    # --- what a method defines ---------------------------------------------------------------------------------------

    def pair_objective(self) -> PairObjective:
        """What is minimised."""
        raise NotImplementedError

    def weights(self, rollout: PairRollout) -> Float[Tensor, " prompts"]:
        """The weight of every pair; its mean over a batch is meant to be 1."""
        return torch.ones(len(rollout.index))

    # --- pairs -------------------------------------------------------------------------------------------------------

    def objective(self) -> PairObjective:  # type: ignore[override]
        return self.pair_objective()

    @property
    def refers(self) -> bool:
        return self.pair_objective().referenced

    def terms(self, rollout: Rollout) -> list[Term]:
        assert isinstance(rollout, PairRollout) and rollout.pairs is not None, "collect made it"
        weight = self.weights(rollout).repeat_interleave(self.rows)
        tokens = rollout.pairs.written.float()
        chosen = tokens.view(-1, 2, self.rows // 2)[:, 0]
        extra = {"weight": weight, "tokens": tokens, "usual": chosen.mean().expand_as(tokens)}
        if rollout.reference is not None:
            extra["reference"] = rollout.reference.flatten()
        group = torch.arange(len(rollout.index)).repeat_interleave(self.rows)
        return [Term(rollout.pairs, torch.ones(len(group)), SUMS, group, extra=extra)]

    def loss(
        self, objective: PolicyObjective, batch: Batch, log_prob: Tensor, entropy: Tensor
    ) -> tuple[Tensor, Metrics]:
        share = batch.weights.amax(1).view(-1, self.rows).sum(1)  # of each pair in the mean over all of them
        pairs = self.compared(batch, log_prob)
        losses = self.losses(pairs, batch)
        loss = (share * batch.extra["weight"][:: self.rows] * losses).sum()
        return loss, self._metrics(pairs, share, batch, entropy) | {"loss": loss.detach()}

    def losses(self, pairs: Compared, batch: Batch) -> Float[Tensor, " pairs"]:
        """The loss of every pair of a batch."""
        return self.pair_objective().losses(pairs)

    def compared(self, batch: Batch, log_prob: Tensor) -> Compared:
        """The pairs of a batch, as the loss takes them."""

        def paired(x: Tensor) -> Tensor:
            return x.view(-1, 2, self.rows // 2).squeeze(-1)

        summed, reference = torch.where(batch.valid, log_prob, 0.0).sum(1), batch.extra.get("reference")
        reference = None if reference is None else paired(reference)
        return Compared(paired(summed), reference, paired(batch.extra["tokens"]), batch.extra["usual"][:: self.rows])

    def _metrics(self, pairs: Compared, share: Tensor, batch: Batch, entropy: Tensor) -> Metrics:
        """Accuracy and margin of the implicit rewards, and both log-probabilities: often both fall."""
        known = self.pair_objective().values(pairs), pairs.log_prob
        # Of several rows of an answer the first is that of the prompt alone.
        values, log_prob = (x.detach().view(-1, 2, self.rows // 2)[..., 0] for x in known)
        gap = values[:, 0] - values[:, 1]
        tokens = torch.where(batch.valid, entropy.detach(), 0.0).sum(1) / batch.valid.sum(1).clamp(min=1)
        return {
            "accuracy": (share * (gap > 0)).sum(),
            "margin": self.beta * (share * gap).sum(),
            "chosen": (share * log_prob[:, 0]).sum(),
            "rejected": (share * log_prob[:, 1]).sum(),
            "entropy": (share * tokens.view(-1, self.rows).mean(1)).sum(),
        }

    def steps(self) -> list[str]:
        first = "; the reference's log-probabilities are computed once for each pair" if self.refers else ""
        return [
            f"take {self.prompts} pairs{first}",
            f"{self.epochs} × {self.minibatches} steps of AdamW: minimise the mean loss of the pairs",
        ]


def referred(
    iteration: Iteration, index: Int[Tensor, " prompts"], rows: Sequences, answers: int
) -> tuple[Float[Tensor, "prompts answers"], Progress]:
    """The reference's summed log-probabilities of the answers to the prompts with these numbers, as many adjacent rows
    each: those in the method's memory, others computed now; and the progress with them in its memory."""
    progress = iteration.progress
    known = progress.memory.get("reference")
    reference = torch.full((len(index), answers), torch.nan) if known is None else known[index]
    new = reference.isnan().any(1)
    if bool(new.any()):
        asked = rows[(answers * new.nonzero() + torch.arange(answers)).flatten()]
        found = iteration.statistics(asked, reference=True).log_prob.sum(1)
        reference = reference.clone()
        reference[new] = found.view(-1, answers)
    if known is not None:
        known = known.index_copy(0, index, reference)
        progress = replace(progress, memory={**progress.memory, "reference": known})
    return reference, progress

"""What a model says of tokens, and the gradient of a method's loss on them: a piece of the rows at a time, and a share
of the rows in every process. The sums are those of all rows at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.loops.common import distributed
from surefoot.loops.common.distributed import Row
from surefoot.loops.group_rollout.method import Batch, GroupRollout, Term, micro_batches, per_token
from surefoot.loops.group_rollout.rollout import Rollout
from surefoot.models.language.model import LanguageModel, TokenStatistics
from surefoot.models.language.sequences import Sequences

PULL = "pull_max"


@dataclass(frozen=True)
class LanguageEstimator:
    """The losses of a method on a model."""

    method: GroupRollout
    model: LanguageModel

    def judged(self, rollout: Rollout) -> Rollout:
        """The rollout with what the model says of it, without dropout, where that has a critic."""
        if self.model.critic is None:
            return rollout
        with self.model.evaluating():
            return dataclasses.replace(rollout, judged=self.statistics(rollout.sequences))

    def statistics(self, sequences: Sequences, reference: bool = False) -> TokenStatistics:
        """What the model, or the reference, says of every token, without a gradient."""
        fields = 2 if reference or self.model.critic is None else 3
        found = torch.zeros(fields, *sequences.valid.shape)
        with torch.no_grad():
            for rows in self.in_step(sequences, self._pieces(sequences), reference):
                part = sequences[rows]
                statistics = self.model.statistics(part, temperature=self.method.temperature, reference=reference)
                found[:, rows, : part.tokens.shape[1]] = torch.stack(statistics.known).cpu()
        distributed.add([found])
        return TokenStatistics(*found)

    def batch(self, term: Term, again: bool) -> Batch:
        """A term with all that its loss needs; `again` says that there are several steps, so that the likelihoods
        before the first have to be kept."""
        valid = term.sequences.valid
        weights = term.coefficient * term.objective.aggregation.weights(valid)
        old = torch.full(valid.shape, torch.nan)
        if again:
            old = (term.judged or self.statistics(term.sequences)).log_prob
        return Batch(
            valid,
            old,
            per_token(term.advantage, valid).float(),
            weights,
            self.statistics(term.sequences, reference=True).log_prob if self.method.kl else None,
            term.group,
            term.extra,
            term.sampled,
        )

    def backward(self, term: Term, batch: Batch, sequences: Sequences) -> Row:
        """Add this process's share of the gradient of these rows, times the model's `gradient_scale`, to the weights';
        returns the metrics of all of it."""
        pieces, tokens = self._pieces(sequences), int(batch.valid.sum())
        whole = self.method.separable or (len(pieces) == 1 and distributed.world_size() == 1)
        if whole and not self.method.separable:
            pieces = [torch.arange(len(sequences))]  # as they stand: the rows of a pair are neighbours
        slopes, metrics = (None, {}) if whole else self._slopes(term, batch, self.statistics(sequences), tokens)
        found: list[Row] = []
        for rows in self.in_step(sequences, pieces):
            part = sequences[rows]
            statistics = self.model.statistics(part, temperature=self.method.temperature)
            width = part.tokens.shape[1]
            if slopes is None:
                here, row = self._slopes(term, batch[rows].trimmed(width), statistics, tokens)
                found.append(row)
            else:
                here = [None if slope is None else slope[rows, :width].to(self.model.device) for slope in slopes]
            pairs = zip(here, statistics.known, strict=True)
            loss = total(slope * x for slope, x in pairs if slope is not None)
            if loss.requires_grad:
                (self.model.gradient_scale * loss).backward()
        return summed(distributed.gather_row(summed(found))) if slopes is None else metrics

    def in_step(self, sequences: Sequences, pieces: Sequence[Tensor], reference: bool = False) -> Iterator[Tensor]:
        """The pieces that this process reads, one after another. A sharded model is read by all processes at a time,
        so there it then goes on, as long as another process has a piece to read, with the shortest row, whose gradient
        it makes 0."""
        passes = distributed.largest(len(pieces)) if self.model.sharded else 0
        yield from pieces
        for _ in range(passes - len(pieces)):
            shortest = sequences[sequences.lengths.argmin()[None]]
            nothing = 0 * total(self.model.statistics(shortest, reference=reference).known)
            if nothing.requires_grad:
                nothing.backward()

    def _pieces(self, sequences: Sequences) -> list[Tensor]:
        """This process's share of the rows, a piece of at most `micro_tokens` at a time."""
        if distributed.world_size() == 1:
            return micro_batches(sequences.lengths, self.method.micro_tokens)
        mine = distributed.share(sequences.lengths.argsort(stable=True))
        pieces = micro_batches(sequences.lengths[mine], self.method.micro_tokens)
        return [mine[piece] for piece in pieces if len(piece)]

    def _slopes(
        self, term: Term, batch: Batch, statistics: TokenStatistics, tokens: int
    ) -> tuple[Sequence[Tensor | None], Row]:
        """The slopes of the loss of some rows in what the model says of them, None for what it does not depend on, and
        its metrics. With those of all rows the model can be read a piece at a time.

        `PULL` among the metrics is the largest slope in the log-probability of a token that is not certain: what should
        give the weights a gradient.
        """
        given = statistics.each(lambda x: x.detach().requires_grad_())
        loss, metrics = self._loss(term, batch, given, tokens)
        if not loss.requires_grad:
            return [None for _ in given.known], metrics
        slopes = list(torch.autograd.grad(loss, given.known, allow_unused=True))
        pull = 0.0 if slopes[0] is None else float((slopes[0] * (given.log_prob < 0)).abs().max())
        return slopes, {**metrics, PULL: pull}

    def _loss(self, term: Term, batch: Batch, statistics: TokenStatistics, tokens: int) -> tuple[Tensor, Row]:
        """The loss of some rows and their part of the metrics of a batch of so many tokens."""
        log_prob, entropy, value = statistics
        batch = batch.to(log_prob.device)
        if bool(batch.old_log_prob.isnan().any()):  # the first step on the rows
            batch = dataclasses.replace(batch, old_log_prob=log_prob.detach())
        gaps: dict[str, Tensor] = {}
        if batch.sampled is not None:
            gap = torch.where(batch.valid, batch.old_log_prob - batch.sampled, 0.0)
            batch = dataclasses.replace(batch, advantage=batch.advantage * self._correction(gap))
            gaps = {"engine_gap": gap.abs().sum() / max(tokens, 1), "engine_gap_max": gap.abs().max()}
        loss, metrics = self.method.loss(term.objective, batch, log_prob, entropy)
        if value is not None:
            error, errors = self.method.critic_loss(batch, value)
            loss, metrics = loss + error, metrics | errors
        return loss, {name: float(x) for name, x in {**metrics, **gaps}.items()}

    def _correction(self, gap: Tensor) -> Tensor | float:
        """What a token counts by which the model finds exp(gap) times as likely as the engine that drew it."""
        if self.method.correction == "none":
            return 1.0
        weight, cap = gap.exp(), self.method.correction_cap
        return weight.clamp(max=cap) if self.method.correction == "truncate" else weight * (weight <= cap)


def total(parts: Iterable[Tensor]) -> Tensor:
    """The sum of all numbers of several tensors; 0 of none."""
    return sum((x.sum() for x in parts), torch.zeros(()))


def summed(rows: Sequence[Row]) -> Row:
    """The metrics of a batch from those of its parts: sums, and the largest of what is a maximum."""
    names = {name for row in rows for name in row}
    return {n: (max if n.endswith("_max") else sum)(row[n] for row in rows if n in row) for n in sorted(names)}

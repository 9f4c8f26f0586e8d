"""A model's statistics of tokens, and the gradient of a method's loss on them, computed for some rows at a time and
for a share of the rows in every process. The sums equal those of all rows at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surefoot.loops.common import distributed
from surefoot.loops.common.distributed import Row
from surefoot.loops.group_rollout.method import Batch, GroupRollout, Term, per_token, unit_batches
from surefoot.loops.group_rollout.rollout import Rollout
from surefoot.models.language.model import LanguageModel, TokenStatistics
from surefoot.models.language.sequences import Sequences

PULL = "pull_max"


@dataclass(frozen=True)
class LanguageEstimator:
    """Losses of a method on a model, and their gradients."""

    method: GroupRollout
    model: LanguageModel

    def judged(self, rollout: Rollout) -> Rollout:
        """The rollout, with the model's statistics of it (in evaluation mode) if anything reads them."""
        if not len(rollout.sequences) or (self.model.critic is None and not self.method.judges):
            return rollout
        with self.model.evaluating():
            judged = self.statistics(rollout.sequences, candidates=self.method.likeliest)
        return dataclasses.replace(rollout, judged=judged)

    def statistics(self, sequences: Sequences, reference: bool = False, candidates: int = 0) -> TokenStatistics:
        """The statistics of every token under the model, or under the reference, without a gradient."""
        vocabulary, width = self.model.head()[0].shape
        critic, candidates = None if reference else self.model.critic, min(candidates, vocabulary)
        outputs = None if critic is None else critic.outputs
        found = TokenStatistics.blank(sequences.valid.shape, outputs, width, candidates)
        settings = {"temperature": self.method.temperature, "reference": reference, "candidates": candidates}
        with torch.no_grad():
            for rows in self.in_step(sequences, self._pieces(sequences), reference):
                part = sequences[rows]
                for whole, x in zip(found.known, self.model.statistics(part, **settings).known, strict=True):
                    whole[rows, : part.tokens.shape[1]] = x.cpu()
        distributed.add(found.known)
        return found

    def batch(self, term: Term, again: bool) -> Batch:
        """A term with everything its loss needs; `again` is True if there are several steps, so that the likelihoods
        before the first one must be stored."""
        valid = term.sequences.valid
        weights = term.coefficient * term.objective.aggregation.weights(valid if term.kept is None else term.kept)
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
        returns the metrics of the whole term."""
        pieces, tokens = self._pieces(sequences), int(batch.valid.sum())
        whole = self.method.separable or (len(pieces) == 1 and distributed.world_size() == 1)
        if whole and not self.method.separable:
            pieces = [torch.arange(len(sequences))]  # in their order: the rows of a pair are adjacent
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
        """The pieces that this process reads, one after another. All processes must read a sharded model equally often,
        so a process that has finished repeats the shortest row, with gradient 0, while another still has a piece to
        read."""
        passes = distributed.largest(len(pieces)) if self.model.sharded else 0
        yield from pieces
        for _ in range(passes - len(pieces)):
            shortest = sequences[sequences.lengths.argmin()[None]]
            nothing = 0 * total(self.model.statistics(shortest, reference=reference).known)
            if nothing.requires_grad:
                nothing.backward()

    def _pieces(self, sequences: Sequences) -> list[Tensor]:
        """This process's share of the rows, a piece of at most `micro_tokens` at a time; units stay together."""
        unit, tokens = self.method.unit, self.method.micro_tokens
        if distributed.world_size() == 1:
            return unit_batches(sequences.lengths, tokens, unit)
        longest = sequences.lengths.view(-1, unit).amax(1)
        units = distributed.share(longest.argsort(stable=True))
        mine = (unit * units[:, None] + torch.arange(unit)).flatten()
        return [mine[piece] for piece in unit_batches(sequences.lengths[mine], tokens, unit) if len(piece)]

    def _slopes(
        self, term: Term, batch: Batch, statistics: TokenStatistics, tokens: int
    ) -> tuple[Sequence[Tensor | None], Row]:
        """The derivatives of the loss of some rows with respect to the model's statistics, None for those that it does
        not depend on, and its metrics. Given these for all rows, the model can be read in pieces.

        `PULL` among the metrics is the largest derivative with respect to the log-probability of a token that is not
        certain: if it is not 0, the weights should have a gradient.
        """
        given = statistics.each(lambda x: x.detach().requires_grad_())
        loss, metrics = self._loss(term, batch, given, tokens)
        if not loss.requires_grad:
            return [None for _ in given.known], metrics
        slopes = list(torch.autograd.grad(loss, given.known, allow_unused=True))
        pull = 0.0 if slopes[0] is None else float((slopes[0] * (given.log_prob < 0)).abs().max())
        return slopes, {**metrics, PULL: pull}

    def _loss(self, term: Term, batch: Batch, statistics: TokenStatistics, tokens: int) -> tuple[Tensor, Row]:
        """The loss of some rows, and their part of the metrics of a batch of `tokens` tokens."""
        log_prob = statistics.log_prob
        batch = batch.to(log_prob.device)
        if bool(batch.old_log_prob.isnan().any()):  # the first step on the rows
            batch = dataclasses.replace(batch, old_log_prob=log_prob.detach())
        gaps: dict[str, Tensor] = {}
        if batch.sampled is not None:
            gap = torch.where(batch.valid, batch.old_log_prob - batch.sampled, 0.0)
            batch = dataclasses.replace(batch, advantage=batch.advantage * self._correction(gap))
            gaps = {"engine_gap": gap.abs().sum() / max(tokens, 1), "engine_gap_max": gap.abs().max()}
        batch = dataclasses.replace(batch, now=statistics)
        loss, metrics = self.method.loss(term.objective, batch, log_prob, statistics.entropy)
        if statistics.value is not None:
            error, errors = self.method.critic_loss(batch, statistics.value)
            loss, metrics = loss + error, metrics | errors
        return loss, {name: float(x) for name, x in {**metrics, **gaps}.items()}

    def _correction(self, gap: Tensor) -> Tensor | float:
        """The weight of a token that the model finds exp(gap) times as likely as the engine that sampled it."""
        if self.method.correction == "none":
            return 1.0
        weight, cap = gap.exp(), self.method.correction_cap
        return weight.clamp(max=cap) if self.method.correction == "truncate" else weight * (weight <= cap)


def total(parts: Iterable[Tensor]) -> Tensor:
    """The sum of all numbers in several tensors; 0 if there are none."""
    return sum((x.sum() for x in parts), torch.zeros(()))


def summed(rows: Sequence[Row]) -> Row:
    """The metrics of a batch from those of its parts: sums, and maxima for the metrics that are maxima."""
    names = {name for row in rows for name in row}
    return {n: (max if n.endswith("_max") else sum)(row[n] for row in rows if n in row) for n in sorted(names)}

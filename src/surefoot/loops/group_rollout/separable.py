"""Checks that the loss of a method can be computed for some rows at a time, and that its settings have an effect.

Both are tested on the loss itself, for the rows of a batch and random likelihoods, before the first step; no forward
pass of the model is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.loops.common.distributed import Row
from surefoot.loops.group_rollout.method import Batch, GroupRollout, Term
from surefoot.models.language.model import TokenStatistics
from surefoot.seeding import torch_stream

TOLERANCE = 1e-3  # relative to the largest slope, or to a metric; rounding is of order 1e-6


@dataclasses.dataclass(frozen=True)
class Probe:
    """A term of a method, and values at which to test its loss."""

    method: GroupRollout
    term: Term
    batch: Batch
    statistics: TokenStatistics

    @staticmethod
    def of(
        method: GroupRollout, term: Term, batch: Batch, device: torch.device, judged: tuple[int, ...] | None
    ) -> Probe:
        """Random advantages and likelihoods, so that nothing cancels out; rows are padded by one token, as they are
        next to a longer row."""
        batch, stream = batch.padded(), torch_stream(0, "probe of a loss")
        drawn = torch.where(batch.valid, torch.rand(6, *batch.valid.shape, generator=stream), 0.0)
        value = None if judged is None else torch.rand(*batch.valid.shape, *judged, generator=stream)
        advantage = torch.randn(batch.valid.shape, generator=stream)
        if term.advantage.ndim == 1:
            advantage = advantage[:, :1].expand(batch.valid.shape).contiguous()
        old = None if batch.sampled is None else -drawn[0]
        near = None if batch.reference is None else -drawn[1]
        batch = dataclasses.replace(batch, old_log_prob=-drawn[0], advantage=advantage, reference=near, sampled=old)
        statistics = TokenStatistics(-drawn[2], drawn[3], drawn[5], value)
        return Probe(method, term, batch, statistics).to(device)

    def to(self, device: torch.device) -> Probe:
        statistics = self.statistics.each(lambda x: x.to(device))
        return dataclasses.replace(self, batch=self.batch.to(device), statistics=statistics)

    def part(self, rows: Tensor) -> Probe:
        """Some of the rows, trimmed to the longest of them."""
        used = self.batch.valid[rows].any(0).nonzero()
        width = int(used.max()) + 1 if len(used) else 1
        statistics = self.statistics.each(lambda x: x[rows, :width])
        return dataclasses.replace(self, batch=self.batch[rows].trimmed(width), statistics=statistics)

    def slopes(self) -> tuple[list[Tensor], Row]:
        """The slopes of the loss in log-probability, entropy, normaliser and value, and its metrics."""
        given = self.statistics.each(lambda x: x.clone().requires_grad_())
        batch = dataclasses.replace(self.batch, now=given)
        loss, metrics = self.method.loss(self.term.objective, batch, given.log_prob, given.entropy)
        if given.value is not None:
            error, errors = self.method.critic_loss(self.batch, given.value)
            loss, metrics = loss + error, metrics | errors
        loss = loss + sum(0 * x.sum() for x in given.known)  # the loss may be a constant
        return list(torch.autograd.grad(loss, given.known)), {name: float(x) for name, x in metrics.items()}


def check_loss(
    method: GroupRollout,
    terms: Sequence[Term],
    batches: Sequence[Batch],
    device: torch.device,
    judged: tuple[int, ...] | None,
) -> bool:
    """Raise `UsageError` if a loss declared separable is not, or if `kl` or `entropy` has no effect on it. Returns
    whether everything could be checked, which needs a term with several rows and one with the method's own
    objective. `judged` is the shape of what the model's critic says about a token, None without one."""
    probes = [Probe.of(method, term, batch, device, judged) for term, batch in zip(terms, batches, strict=True)]
    if method.separable:
        for probe in probes:
            _check_separable(probe)
    main = [probe for probe in probes if not probe.term.name]
    if main:
        _check_effect(method, main)
    return bool(main) and all(len(batch.valid) > 1 for batch in batches)


def _check_separable(probe: Probe) -> None:
    """Compare all rows at once with every second row (or unit of rows) at a time."""
    unit, valid = probe.method.unit, probe.batch.valid
    count = len(valid) // unit
    if count < 2:
        return
    (whole, of_whole), of_parts = probe.slopes(), list[Row]()
    found = [torch.zeros_like(x) for x in whole]
    for start in (0, 1):
        units = torch.arange(start, count, 2, device=valid.device)
        rows = (unit * units[:, None] + torch.arange(unit, device=valid.device)).flatten()
        try:
            slopes, metrics = probe.part(rows).slopes()
        except (RuntimeError, ValueError, IndexError) as error:
            raise _mixed(probe, f"it cannot be computed for a part of them ({error})") from error
        of_parts.append(metrics)
        for x, slope in zip(found, slopes, strict=True):
            x[rows, : slope.shape[1]] = slope
    for x, y in zip(whole, found, strict=True):
        size, gap = (float(z[valid].abs().max()) for z in (x, x - y))
        if not gap <= TOLERANCE * size:
            raise _mixed(
                probe, f"its gradient differs if computed in two parts (by {gap / size if size else 1:.2g} of its size)"
            )
    for name, value in of_whole.items():
        several = [row.get(name, 0.0) for row in of_parts]
        together = max(several) if name.endswith("_max") else sum(several)
        if not abs(value - together) <= TOLERANCE * max(abs(value), *map(abs, several)):
            raise _mixed(probe, f"its metric {name!r} is {value:.4g} for all of them and {together:.4g} in two parts")


def _mixed(probe: Probe, what: str) -> UsageError:
    name = type(probe.method).__name__
    return UsageError(
        f"The loss of {name} is not the sum of the losses of its rows: {what}. It would depend on micro_tokens and on "
        "the number of processes. Sum over rows and tokens with batch.weights in place of a mean over them, or write "
        f"`separable: ClassVar[bool] = False` in {name}, which then gets all rows at once."
    )


def _check_effect(method: GroupRollout, probes: Sequence[Probe]) -> None:
    name = type(method).__name__
    for weight in {probe.term.objective.divergence for probe in probes} - {0.0}:
        if not method.kl:
            raise UsageError(
                f"the objective of {name} has divergence={weight:g} while kl=0, so there is no reference to "
                f"diverge from; set kl={weight:g}."
            )
    if method.kl and not any(_moves(probe) for probe in probes):
        raise _idle(name, "kl", method.kl, "divergence=self.kl")
    if method.entropy and not any(bool(probe.slopes()[0][1].any()) for probe in probes):
        raise _idle(name, "entropy", method.entropy, "entropy=self.entropy")


def _moves(probe: Probe) -> bool:
    """Whether a different reference gives a different gradient."""
    reference = probe.batch.reference
    assert reference is not None, "if kl is set there is a reference"
    other = dataclasses.replace(probe, batch=dataclasses.replace(probe.batch, reference=1.5 * reference))
    return any(not torch.equal(x, y) for x, y in zip(probe.slopes()[0], other.slopes()[0], strict=True))


def _idle(method: str, name: str, value: float, instead: str) -> UsageError:
    return UsageError(
        f"{name}={value:g} has no effect on the loss of {method}; put {instead} into its objective, or leave it out."
    )

"""Gradient subspaces: PPO that measures how much of its gradients lies in the few directions of highest curvature.

    fraction(g, U) = ‖Uᵀg‖² / ‖g‖²        overlap(U₁, U₂) = ‖U₁ᵀU₂‖² / k        U: top k eigenvectors of ∇²L

It trains as PPO does, to the bit; every `analysis_every` iterations it logs, for the actor's loss, the critic's and
their sum, the fraction of the minibatches' gradients (their mean) and of the whole batch's, the eigenvalues, and the
overlap of the subspace with that of the previous analysis. Look at it before you use a second-order method or
exploration in few dimensions: they pay off where the fraction is far above k/n, its value for a random subspace of n
parameters, and where the overlap is too. `Subspaces` does the same for any other on-policy method:

    sf.train("spo", env, steps, callbacks=[Subspaces(env, every=50)])

Jan Schneider et al., *Identifying Policy Gradient Subspaces* (2024), arXiv:2401.06604.

Differences: the method takes its eigenvectors from the batch of the update (the paper's low-sample variant), at no
environment step; the callback takes them from fresh data, but from fewer steps than the paper's million, and the one
batch of estimation is fresh too. 10 eigenvectors by default, not 100. Minibatches with a zero gradient are left
out. The critic's loss is ½(V − G)² times its coefficient, half of the paper's: its eigenvalues are half of the paper's,
fractions are the same, and the subspace of both losses together weighs the critic half as much.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surefoot.envs.make import EnvLike
from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter
from surefoot.loops.on_policy.method import Batch
from surefoot.methods.control.gradient_subspaces.subspaces import Report, analyse, fresh_batches, refuse_shared
from surefoot.methods.control.ppo import PPO
from surefoot.models.device import computing_on
from surefoot.models.functional import Model

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner

HEADS = ("actor", "critic", "combined")


@dataclass(frozen=True)
class GradientSubspaces(PPO):
    """PPO that logs the subspaces of its gradients."""

    analysis_every: int = hyperparameter(50, low=1, help="Number of iterations between analyses.")
    subspaces: tuple[int, ...] = hyperparameter((1, 10), low=1, help="Numbers k of eigenvectors to report on.")

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_shared(self)
        refuse_none(self.subspaces)

    def extra_state(self, model: Model) -> dict[str, Tensor]:
        sizes = {name: int(model.mask(lambda full, name=name: full.startswith(f"{name}.")).sum()) for name in HEADS[:2]}
        sizes["combined"] = sum(sizes.values())
        k = max(self.subspaces)
        if k > min(sizes.values()):
            raise UsageError(
                f"subspaces={self.subspaces!r} requests {k} eigenvectors; the actor has {sizes['actor']} parameters "
                f"and the critic {sizes['critic']}; use at most {min(sizes.values())}, or a larger network."
            )
        bases = {f"{name}_basis": torch.zeros(size, k, dtype=torch.float64) for name, size in sizes.items()}
        return {**super().extra_state(model), **bases}

    def update(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        analysis = self.analysis(learner, batch) if (learner.iteration + 1) % self.analysis_every == 0 else {}
        return {**super().update(learner, batch), **analysis}

    def analysis(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        """Metrics of every seed, before the update; keeps the subspaces for the next analysis."""
        reports = analyse(learner, batch, batch, max(self.subspaces))
        previous = [{name: learner.extra[f"{name}_basis"][i] for name in HEADS} for i in range(len(reports))]
        first = not learner.extra["actor_basis"].any()
        rows = named(reports, self.subspaces, None if first else previous)
        for name in HEADS:
            learner.extra[f"{name}_basis"] = torch.stack([report[name].basis for report in reports])
        return {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}

    def steps(self) -> list[str]:
        sizes = ", ".join(map(str, self.subspaces))
        return [
            f"every {self.analysis_every} iterations, on the batch: the top {max(self.subspaces)} eigenvectors of",
            "    actor's and critic's Hessian by Lanczos;",
            f"    log the gradient's fraction in the top {sizes}, and the overlap with the previous subspace",
            *super().steps(),
        ]


@dataclass
class Subspaces:
    """A callback that adds the analysis to the rows of any on-policy run, after every `every`-th iteration.

    `env` (an id or a factory) and `options` make the environments of the analysis, as in `envs.make`; the run's own
    environments are not touched, and its results stay bit-identical. A resumed run has no overlap until its second
    analysis.
    """

    env: EnvLike
    every: int = hyperparameter(50, low=1, help="Number of iterations between analyses.")
    steps: int = hyperparameter(8192, low=1, help="Environment steps used for each Hessian.")
    subspaces: tuple[int, ...] = hyperparameter((1, 10), low=1, help="Numbers k of eigenvectors to report on.")
    options: dict[str, Any] = field(default_factory=dict)
    previous: list[dict[str, Tensor]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check(self)
        refuse_none(self.subspaces)

    def __call__(self, learner: Learner, rows: list[dict[str, Any]]) -> None:
        refuse_shared(learner.method)
        if learner.iteration % self.every:
            return
        data, estimation = fresh_batches(learner, self.env, self.steps, **self.options)
        with computing_on(learner.device):
            reports = analyse(learner, data, estimation, max(self.subspaces))
        for row, found in zip(rows, named(reports, self.subspaces, self.previous), strict=True):
            row.update(found)
        self.previous = [{name: report.basis for name, report in seed.items()} for seed in reports]


def named(
    reports: list[dict[str, Report]], ks: tuple[int, ...], previous: list[dict[str, Tensor]] | None
) -> list[dict[str, float]]:
    """Rows of metrics such as `actor/subspace_fraction_10`, one per seed; `previous` are the bases to compare with."""
    rows = []
    for index, seed in enumerate(reports):
        bases = previous[index] if previous else {}
        found = {name: report.metrics(ks, bases.get(name)) for name, report in seed.items()}
        rows.append({f"{name}/{key}": x for name, metrics in found.items() for key, x in metrics.items()})
    return rows


def refuse_none(subspaces: tuple[int, ...]) -> None:
    """Raise `UsageError` if no subspace is requested."""
    if not subspaces:
        raise UsageError("subspaces=() is not allowed; give at least one number of eigenvectors, such as (1, 10).")


METHOD = GradientSubspaces

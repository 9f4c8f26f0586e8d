"""The acting rule that improves a policy in closed form where it is dense, by the critics that the agent keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from surefoot.hyperparameters import Range, hyperparameter
from surefoot.models.acting import Ask, Rule, Said
from surefoot.models.distributions import BoundedGaussian, Deterministic, SquashedGaussian
from surefoot.models.mixtures import SquashedMixture, before_tanh
from surefoot.models.networks import Observation
from surefoot.objectives.improvement import Mixture, center, jensen, pessimistic, radii, step

BY = ("both", "components", "jensen", "samples")


@dataclass(frozen=True)
class Improvement:
    """How an agent's actions are improved: the knobs that may be turned after training."""

    by: str = hyperparameter(
        "both",
        choices=BY,
        help="Candidates: steps from the components' means, one by Jensen's bound, both, or samples.",
    )
    log_tau: float = hyperparameter(
        0.5, low=0, high=100, help="log τ, how far to go: 0 stays at the best mean.", tune=Range(0.0, 2.0)
    )
    proposals: int = hyperparameter(
        1, low=1, high=1000, help="Values of log τ that are tried, evenly spaced, the last one log_tau."
    )
    least_log_tau: float = hyperparameter(0.2, low=0, high=100, help="The first of these values, if there are several.")
    pessimism: float = hyperparameter(
        1.0, low=0, high=100, help="β: standard deviations over critics taken off values.", tune=Range(0.1, 2.0)
    )
    trivial: float = hyperparameter(0.05, low=0, below=1, help="Components of a smaller weight have no say.")
    radius_scale: float = hyperparameter(
        1.0, above=0, high=10, help="Factor of the radius around a component; the authors' code has √2."
    )
    samples: int = hyperparameter(10, low=1, high=10**4, help="Actions drawn if by samples, to take the best.")

    def log_taus(self) -> list[float]:
        """The values of log τ."""
        if self.proposals == 1:
            return [self.log_tau]
        start, last = min(self.least_log_tau, self.log_tau), self.proposals - 1
        return [start + (self.log_tau - start) * i / last for i in range(self.proposals)]


@dataclass(frozen=True)
class ClosedForm(Improvement, Rule):
    """The candidate that the critics value most, of points that the improved policy may be at (CFPI,
    arXiv:2211.15956). Where a policy squashes its actions by tanh, all of this is before it.

    A Gaussian that is not squashed is one component, whose actions are clipped; an action alone is a Gaussian of unit
    variance before a tanh.
    """

    asks: ClassVar[tuple[str, ...]] = ("critic",)

    @property
    def exported(self) -> bool:  # type: ignore[override]
        return self.by != "samples"

    def fits(self, distribution: Any) -> str:
        if isinstance(distribution, SquashedGaussian | BoundedGaussian | Deterministic):
            return ""
        return f"it acts by {type(distribution).__name__}, not by an action or a Gaussian within bounds."

    def __call__(self, ask: Ask, observation: Observation, said: Said) -> Tensor:
        mixture, squash = proposed(said)

        def value(points: Tensor) -> Tensor:
            """The lower bound of the value of points `[batch, n, dim]` before squashing, `[batch, n]`."""
            shape, rest = points.shape[:2], points.shape[2:]  # flat, as exports need it
            seen = tree_map(
                lambda x: x.unsqueeze(1).expand(*shape, *x.shape[1:]).reshape(-1, *x.shape[1:]), observation
            )
            values = ask("critic", seen, squash(points).reshape(-1, *rest))
            return pessimistic(values, self.pessimism).reshape(shape)

        if self.by == "samples":
            points, valid = drawn(mixture, self.samples), None
        else:
            points, valid = self.candidates(mixture, torch.func.grad(lambda x: value(x).sum()))
        values = value(points)
        values = values if valid is None else torch.where(valid, values, -math.inf)
        best = values.argmax(-1)[:, None, None].expand(-1, 1, points.shape[-1])
        return squash(points.gather(1, best).squeeze(1))

    def candidates(self, mixture: Mixture, slope: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Points `[batch, n, dim]`, and which of them count; `slope` of points `[batch, n, dim]` is that of the
        value."""
        weights = mixture.log_weights.exp()
        said = weights >= weights.amax(-1, keepdim=True).clamp(max=self.trivial)
        points, valid = [], []
        rise = slope(mixture.means) if self.by != "jensen" else None
        middle = center(mixture)[0].unsqueeze(1)
        rise_there = slope(middle).squeeze(1) if self.by != "components" else None
        for log_tau in self.log_taus():
            if rise is not None:
                radius = self.radius_scale**2 * radii(mixture, log_tau)
                points.append(step(mixture.means, mixture.variances, rise, radius))
                valid.append(said)
            if rise_there is not None:
                point, feasible = jensen(mixture, rise_there, log_tau)
                points.append(point.unsqueeze(1))
                valid.append(feasible.unsqueeze(1))
        if rise is None:  # where no point satisfies Jensen's bound, its center
            points.append(middle)
            valid.append(~torch.stack(valid).any(0))
        return torch.cat(points, 1), torch.cat(valid, 1)


def proposed(said: Said) -> tuple[Mixture, Callable[[Tensor], Tensor]]:
    """What was said as a mixture, and what makes actions in [−1, 1] of its points."""
    distribution, params = said.distribution, said.params
    if isinstance(distribution, SquashedMixture):
        return distribution.mixture(params), torch.tanh
    if isinstance(distribution, Deterministic):
        return _one(before_tanh(params), torch.zeros_like(params)), torch.tanh
    squash = torch.tanh if isinstance(distribution, SquashedGaussian) else _clip
    return _one(*distribution.split(params)), squash


def drawn(mixture: Mixture, count: int) -> Tensor:
    """Points `[batch, count, dim]` of a mixture, from torch's global generator."""
    batch, _, dim = mixture.means.shape
    which = torch.multinomial(mixture.log_weights.exp(), count, replacement=True)[..., None].expand(-1, -1, dim)
    noise = torch.randn(batch, count, dim, dtype=mixture.means.dtype)
    return mixture.means.gather(1, which) + mixture.variances.gather(1, which).sqrt() * noise


def _one(mean: Tensor, log_std: Tensor) -> Mixture:
    return Mixture(torch.zeros_like(mean[..., :1]), mean.unsqueeze(-2), (2 * log_std).exp().unsqueeze(-2))


def _clip(points: Tensor) -> Tensor:
    return points.clamp(-1, 1)

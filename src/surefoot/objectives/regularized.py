"""KL divergences between the sampling policy and the current one, each with the weight that its samples need.

At x drawn from π_old, with ρ = π/π_old, every divergence below is the mean of a function D(ρ), so it is one more term
of a stabilizer: f(ρ, Â) − β·D(ρ). Its gradient is that of the divergence itself however far π has moved, which an
unweighted k3 to a reference has not (arXiv:2505.17508).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.objectives.stabilizers import Stabilizer, dual_clip

LARGEST = 10.0  # a token whose D is larger does not pull, except in the forward divergence, whose pull is constant


class Form(NamedTuple):
    """D of a ratio and its logarithm, and ρ·D'(ρ), the coefficient of ∇log π in its gradient."""

    formula: str
    value: Callable[[Tensor, Tensor], Tensor]
    pull: Callable[[Tensor, Tensor], Tensor]


DIVERGENCES = {
    # KL(π_old ‖ π) and KL(π ‖ π_old)
    "forward": Form("−log ρ", lambda r, log: -log, lambda r, log: -(r**0)),
    "reverse": Form("ρ·log ρ", lambda r, log: r * log, lambda r, log: r * (log + 1)),
    # the same for measures that need not sum to 1, so that D'(1) = 0
    "forward-unnormalised": Form("ρ − log ρ − 1", lambda r, log: r - log - 1, lambda r, log: r - 1),
    "reverse-unnormalised": Form("ρ·log ρ − ρ + 1", lambda r, log: r * log - r + 1, lambda r, log: r * log),
    # the mean of forward and reverse
    "jeffreys": Form("½(ρ − 1)·log ρ", lambda r, log: (r - 1) * log / 2, lambda r, log: (r * (log + 1) - 1) / 2),
}


def divergence(ratio: Float[Tensor, "..."], kind: str) -> Float[Tensor, "..."]:
    """D(ρ), clamped to ±`LARGEST` except for the forward divergence."""
    found = DIVERGENCES[kind].value(ratio, ratio.log())
    return found if kind == "forward" else found.clamp(-LARGEST, LARGEST)


def pull(ratio: Float[Tensor, "..."], kind: str) -> Float[Tensor, "..."]:
    """ρ·D'(ρ), 0 where D is clamped."""
    form, log_ratio = DIVERGENCES[kind], ratio.log()
    found = form.pull(ratio, log_ratio)
    return found if kind == "forward" else found * (form.value(ratio, log_ratio).abs() <= LARGEST)


@dataclass(frozen=True)
class regularized(Stabilizer):
    """Another stabilizer less β times a KL divergence from the sampling policy (RPG, arXiv:2505.17508)."""

    divergence: str = hyperparameter(
        "reverse-unnormalised", choices=tuple(DIVERGENCES), help="Which divergence between π_old and π."
    )
    beta: float = hyperparameter(1e-4, low=0, help="Weight β of the divergence.")
    inner: Stabilizer = dataclasses.field(default_factory=dual_clip)

    def __call__(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return self.inner(ratio, advantage) - self.beta * divergence(ratio, self.divergence)

    def weight(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return self.inner.weight(ratio, advantage) - self.beta * pull(ratio, self.divergence) / ratio

    def outside(self, ratio: Tensor) -> Tensor | None:
        return self.inner.outside(ratio)

    def __str__(self) -> str:
        return f"{self.inner} − {self.beta:g}·({DIVERGENCES[self.divergence].formula})"

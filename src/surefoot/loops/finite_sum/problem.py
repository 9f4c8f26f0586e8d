"""The problem that solvers see: losses of a linear model, and the worst case that weighs them.

    F(W) = max_q { q·ℓ(W) − price } + ½ Σ_j μ_j ‖W_j‖²

Everything is NumPy in float64: a step touches one sample, and the overhead of a tensor would be most of its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from surefoot.ambiguity import Ambiguity, Priced
from surefoot.ambiguity.operator import solve
from surefoot.models.linear_losses import Loss

Array = np.ndarray


class Weighed(NamedTuple):
    """The risk of some losses, the weight of each `[n]`, and their order `[n]`, the greatest first."""

    risk: float
    q: Array
    order: Array


class Point(NamedTuple):
    """The objective at some W, its gradient `[p, k]`, the losses `[n]` and what they are weighed by `[n]`."""

    objective: float
    gradient: Array
    losses: Array
    q: Array


@dataclass(frozen=True)
class Problem:
    """A finite sum with a linear model of k scores.

    X: `[n, p]`; y: `[n]`; mu: `[p, 1]`, the price μ of each row of W; offset: `[n]` or 0, subtracted from the losses
    before they are weighed (those of a reference model).
    """

    X: Array
    y: Array
    outputs: int
    loss: Loss
    ambiguity: Ambiguity
    mu: Array
    offset: Array | float = 0.0

    def start(self) -> Array:
        """The weights at zero, `[p, k]`."""
        return np.zeros((self.X.shape[1], self.outputs))

    def some(self, W: Array, which: Array | slice = slice(None)) -> tuple[Array, Array]:
        """What is weighed of some samples, `[m]`, and the slopes of their losses in the scores, `[m, k]`."""
        scores, y = self.X[which] @ W, self.y[which]
        offset = self.offset[which] if isinstance(self.offset, np.ndarray) else self.offset
        return self.loss.value(scores, y) - offset, self.loss.slope(scores, y)

    def at(self, W: Array) -> Point:
        """The objective and its gradient by the envelope theorem: Σ q_i ∇ℓ_i + μ W."""
        losses, slopes = self.some(W)
        found = weigh(self.ambiguity, losses)
        gradient = self.X.T @ (found.q[:, None] * slopes) + self.mu * W
        return Point(found.risk + 0.5 * float(np.sum(self.mu * W**2)), gradient, losses, found.q)

    def prox(self, W: Array, step: float) -> Array:
        """The exact step of a size on ½ Σ μ ‖W‖²."""
        return W / (1 + step * self.mu)

    def greatest_weight(self) -> float:
        """n·max q over all losses, where the set bounds it: that of a risk on the greatest loss. 1 elsewhere."""
        n = len(self.y)
        return n * float(_spectrum(self.ambiguity, n)[1].max()) if isinstance(self.ambiguity, Priced) else 1.0

    def step_size(self) -> float:
        """1/(3·nσ·L) for the greatest weight nσ and the greatest curvature L of a sample's regularised loss."""
        curvature = self.loss.curvature * float((self.X**2).sum(-1).max()) + float(self.mu.max())
        return 1 / (3 * self.greatest_weight() * curvature)


@lru_cache(maxsize=64)
def _spectrum(risk: Priced, n: int) -> tuple[Array, Array]:
    """The uniform nominal of n samples, and the weights that a risk gives to them, the greatest loss first."""
    p = np.full(n, 1 / n)
    return p, risk.spectrum(p)


def weigh(ambiguity: Ambiguity, losses: Array, order: Array | None = None, price: float | None = None) -> Weighed:
    """The greatest risk of equally likely losses `[n]`, and its weights.

    order: of losses that were nearly the same, from which a priced risk is found in O(n). price: in place of that of a
    priced risk.
    """
    if not isinstance(ambiguity, Priced):
        values, nominal = torch.as_tensor(losses), torch.full((len(losses),), 1 / len(losses), dtype=torch.float64)
        found = solve(values, nominal, ambiguity, ambiguity.strength, maximise=True)
        return Weighed(float(found.value), found.distribution().reshape(-1).numpy(), np.arange(len(losses)))
    p, spectrum = _spectrum(ambiguity, len(losses))
    values = -losses  # the package's sign: values are rewards
    order = np.arange(len(losses)) if order is None else order
    order = order[np.argsort(values[order], kind="stable")]  # merges runs, so that nearly sorted values take O(n)
    q = np.empty_like(losses)
    q[order] = weights = ambiguity.pooled(values[order], p, spectrum, price)
    return Weighed(-ambiguity.paid(values[order], weights, p), q, order)

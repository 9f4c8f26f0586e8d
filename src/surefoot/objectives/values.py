"""Value losses: how far the critic is from its target, element by element, with the usual ½."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.objectives.part import Part


@dataclass(frozen=True)
class ValueLoss(Part, slot="value loss"):
    """Base of value losses."""

    def __call__(
        self, values: Float[Tensor, "..."], targets: Float[Tensor, "..."], old_values: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """The loss of every element; `targets` and `old_values` carry no gradient."""
        raise NotImplementedError


@dataclass(frozen=True)
class squared(ValueLoss):
    """½(V − G)²."""

    formula = "½(V−G)²"

    def __call__(self, values: Tensor, targets: Tensor, old_values: Tensor) -> Tensor:
        return 0.5 * (values - targets) ** 2


@dataclass(frozen=True)
class clipped(ValueLoss):
    """The larger of the squared error and that of V kept within ±ε of its old value. ε is in units of value."""

    epsilon: float = hyperparameter(0.2, above=0, help="Clip range of the critic's change, in units of value.")
    formula = "½max((V−G)², (clip(V, V_old±{epsilon:g})−G)²)"

    def __call__(self, values: Tensor, targets: Tensor, old_values: Tensor) -> Tensor:
        near = old_values + (values - old_values).clamp(-self.epsilon, self.epsilon)
        return 0.5 * torch.maximum((values - targets) ** 2, (near - targets) ** 2)


def within(epsilon: float | None) -> ValueLoss:
    """The value loss with a clip range, or without one for None."""
    return squared() if epsilon is None else clipped(epsilon)


@dataclass(frozen=True)
class huber(ValueLoss):
    """½e² up to |e| = δ, linear beyond: outliers in the returns have bounded gradients."""

    delta: float = hyperparameter(1.0, above=0, help="Error at which the loss becomes linear.")
    formula = "Huber_{delta:g}(V−G)"

    def __call__(self, values: Tensor, targets: Tensor, old_values: Tensor) -> Tensor:
        return torch.nn.functional.huber_loss(values, targets, reduction="none", delta=self.delta)


@dataclass(frozen=True)
class expectile(ValueLoss):
    """|τ − 1[G < V]|·(V − G)²: V becomes the τ-expectile of what it is told, for τ = ½ the mean.

    Used by implicit Q-learning (arXiv:2110.06169, eq. 5), where τ near 1 makes V the best of the actions in the data.
    """

    level: float = hyperparameter(0.7, above=0, below=1, help="Expectile τ.")
    formula = "|{level:g} − 1[G<V]|·(V−G)²"

    def __call__(self, values: Tensor, targets: Tensor, old_values: Tensor) -> Tensor:
        error = targets - values
        return torch.where(error < 0, 1 - self.level, self.level) * error**2

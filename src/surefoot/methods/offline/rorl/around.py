"""What RORL makes of points in a ball around states: how far policy and values change, and what disagreement costs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from surefoot.objectives.values import expectile


def apart(distribution: Any, params: Tensor, around: Tensor) -> Tensor:
    """max_j J of the Gaussians before the tanh, which does not change J, `[batch]`; `around [samples, batch, size]`."""
    return (distribution.kl(params, around) + distribution.kl(around, params)).amax(0)


def rough(values: Tensor, around: Tensor, tau: float) -> Tensor:
    """The asymmetric loss of values `[critics, batch]` against those `[critics, samples, batch]` around, `[batch]`."""
    here = values.unsqueeze(1).expand_as(around)
    return expectile(1 - tau)(here, around, here).mean(0).amax(0)


def disputed(values: Tensor, penalty: Tensor | float) -> Tensor:
    """mean (sg[Q_k − λ·u] − Q_k)², whose slope in Q_k `[critics, ...]` is proportional to λ·u, the same for all k."""
    return (((values - penalty * values.std(0)).detach() - values) ** 2).mean()

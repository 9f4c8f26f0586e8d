"""Quantal responses in zero-sum matrix games: each player answers the other by a softmax of its payoffs.

    x ∝ exp(A y/α_P),  y ∝ exp(−Aᵀx/α_A)

The fixed point is the quantal response equilibrium of the temperatures α. An infinite temperature plays uniformly, one
of zero plays best responses; with both near zero the equilibrium is Nash's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Response(NamedTuple):
    """Mixed strategies `[rows]` and `[columns]`."""

    rows: Tensor
    columns: Tensor

    def value(self, payoff: Tensor) -> float:
        """The expected payoff of the rows."""
        return float(self.rows @ payoff @ self.columns)

    def guaranteed(self, payoff: Tensor) -> float:
        """The rows' payoff against the worst column."""
        return float((self.rows @ payoff).min())


def equilibrium(payoff: Tensor, rows: float, columns: float, tolerance: float = 1e-12) -> Response:
    """The quantal response equilibrium for these temperatures above 0, `payoff [rows, columns]` in float64.

    Newton's method on the logits u = Ay/α_P, v = −Aᵀx/α_A with steps halved until the residual falls: the Jacobian is
    the identity plus a matrix with imaginary eigenvalues, so it is never singular.
    """
    m, n = payoff.shape

    def residual(logits: Tensor) -> Tensor:
        u, v = logits.split((m, n))
        answers = torch.cat([payoff @ torch.softmax(v, 0) / rows, -payoff.T @ torch.softmax(u, 0) / columns])
        return logits - answers

    logits = torch.zeros(m + n, dtype=payoff.dtype)
    found = residual(logits)
    while float(found.abs().max()) > tolerance * (1 + float(logits.abs().max())):
        step = torch.linalg.solve(torch.func.jacrev(residual)(logits), found)
        share = 1.0
        while (after := residual(logits - share * step)).norm() >= found.norm() and share > 1e-9:
            share /= 2
        if share <= 1e-9:  # rounding
            break
        logits, found = logits - share * step, after
    u, v = logits.split((m, n))
    return Response(torch.softmax(u, 0), torch.softmax(v, 0))

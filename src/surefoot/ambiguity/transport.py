"""The Wasserstein ball on finitely many outcomes with a given cost: exact, by sorting the edges of lower hulls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity.arrays import tensor
from surefoot.ambiguity.contract import Solution
from surefoot.ambiguity.moves import Supported, filled
from surefoot.ambiguity.search import take, untake
from surefoot.errors import UsageError


class Edges(NamedTuple):
    """The efficient moves from each outcome, best first: the edges of the lower hull of (cost, value) points.

    All are `[..., h, n]`: the i-th move takes mass that started in outcome j from the target of the previous move
    (`origin`) to `target`, at a `cost` more and a value lower by `drop`. Their rate drop/cost falls with i.
    """

    origin: Tensor
    target: Tensor
    cost: Tensor
    drop: Tensor
    rate: Tensor


def hull_edges(values: Tensor, cost: Tensor, allowed: Tensor) -> tuple[Tensor, Edges]:
    """The best outcome at no cost `[..., n]` (index), and the edges from there on; computed for all outcomes at once.

    values: `[..., n]`; cost: `[..., n, n]`, from and to; allowed: `[..., n]`, the targets that may have mass.
    """
    n = values.shape[-1]
    shape = torch.broadcast_shapes(values.shape[:-1], cost.shape[:-2], allowed.shape[:-1])
    values, cost = values.expand(*shape, n), cost.expand(*shape, n, n)
    target_value = torch.where(allowed, values, torch.inf).unsqueeze(-2).expand(*shape, n, n)
    here = torch.where(cost == 0, target_value, torch.inf).argmin(-1)
    start = here
    at_cost, at_value = torch.zeros_like(values), values.gather(-1, here)
    steps = []
    while True:
        drop, price = at_value.unsqueeze(-1) - target_value, cost - at_cost.unsqueeze(-1)
        rate = torch.where((drop > 0) & (price > 0), drop / price, 0.0).nan_to_num(0.0)
        best, there = rate.max(-1)
        moving = best > 0
        if not moving.any():
            break
        there = torch.where(moving, there, here)
        price = torch.where(moving, price.gather(-1, there.unsqueeze(-1)).squeeze(-1), 0.0)
        drop = at_value - values.gather(-1, there)
        # Rates fall along a hull; rounding must not reorder its edges.
        best = torch.minimum(best, steps[-1].rate) if steps else best
        steps.append(Edges(here, there, price, drop, best))
        here, at_cost, at_value = there, at_cost + price, at_value - drop
    if not steps:
        nothing = values.unsqueeze(-2)[..., :0, :]
        return start, Edges(start.unsqueeze(-2)[..., :0, :], start.unsqueeze(-2)[..., :0, :], nothing, nothing, nothing)
    return start, Edges(*(torch.stack(one, -2) for one in zip(*steps)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Wasserstein(Supported):
    """The optimal transport cost D = min Σ π_jk·cost_jk over plans π that move the nominal into q.

    cost: `[n, n]` or `[..., n, n]`, from row j to column k, ≥ 0 with zeros on the diagonal; infinite where a move is
    forbidden. It is used unchanged: for the order-2 distance give squared distances and the squared radius.

    Each outcome moves its mass along the lower hull of its points (cost_jk, v_k). The edges of all hulls, the steepest
    first, are bought until the radius is spent, or while they are steeper than the penalty.
    """

    cost: Tensor
    name = "wasserstein"
    symbol = "W(q, p)"

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", tensor(self.cost, "Wasserstein: cost", torch.float64))
        super().__post_init__()
        if self.cost.ndim < 2 or self.cost.shape[-1] != self.cost.shape[-2]:
            raise UsageError(f"Wasserstein: cost {list(self.cost.shape)} must be square, [n, n], from row to column.")
        wrong = ~(self.cost >= 0)
        wrong |= torch.eye(self.cost.shape[-1], dtype=torch.bool) & (self.cost != 0)
        if wrong.any():
            place = tuple(int(i) for i in wrong.nonzero()[0])
            raise UsageError(
                f"Wasserstein: cost[{', '.join(map(str, place))}] = {self.cost[place].item():g} is not allowed; costs "
                "must be >= 0, and 0 on the diagonal (staying)."
            )

    @property
    def outcomes(self) -> int:
        return self.cost.shape[-1]

    @property
    def leading(self) -> torch.Size:
        return self.cost.shape[:-2]

    def ball(self, values: Tensor, nominal: Tensor, radius: Tensor) -> Solution:
        start, edges = hull_edges(values, self.cost.to(values), self.allowed(nominal))
        price = (nominal.unsqueeze(-2) * edges.cost).flatten(-2)
        order = edges.rate.flatten(-2).argsort(dim=-1, descending=True, stable=True)
        spent = untake(filled(take(price, order), radius), order)
        share = torch.where(price > 0, spent / price, 0.0).unflatten(-1, edges.cost.shape[-2:])
        return self._moved(values, nominal, start, edges, nominal.unsqueeze(-2) * share)

    def penalised(self, values: Tensor, nominal: Tensor, penalty: Tensor) -> Solution:
        start, edges = hull_edges(values, self.cost.to(values), self.allowed(nominal))
        bought = edges.rate > penalty.unsqueeze(-2)
        mass = torch.where(bought, nominal.unsqueeze(-2), 0.0)
        price = torch.where(bought, penalty.unsqueeze(-2) * edges.cost, 0.0)
        return self._moved(values, nominal, start, edges, mass, (price * mass).sum((-2, -1)))

    def _moved(
        self, values: Tensor, nominal: Tensor, start: Tensor, edges: Edges, mass: Tensor, paid: Tensor | float = 0.0
    ) -> Solution:
        """The nominal with `mass` `[..., h, n]` sent along the edges."""
        rest = torch.take_along_dim(values, start, -1)
        value = (nominal * rest).sum(-1) - (mass * edges.drop).sum((-2, -1)) + paid

        def distribution() -> Tensor:
            shape = mass.shape[:-2] + mass.shape[-1:]
            q = mass.new_zeros(shape).scatter_add(-1, start.expand(shape), nominal.expand(shape))
            flow = mass.flatten(-2)
            q = q.scatter_add(-1, edges.target.expand_as(mass).flatten(-2), flow)
            return q.scatter_add(-1, edges.origin.expand_as(mass).flatten(-2), -flow).clamp(min=0)

        return Solution(value, distribution)

    def divergence(self, distribution: Tensor, nominal: Tensor) -> Tensor:
        """The transport cost, by a linear programme for each row: to check a result, not to compute with."""
        n = self.outcomes
        p, q = (x.reshape(-1, n).cpu().numpy() for x in torch.broadcast_tensors(nominal, distribution))
        costs = self.cost.expand(*nominal.shape[:-1], n, n).reshape(-1, n * n).numpy()
        least = [_transport_cost(*row) for row in zip(costs, p, q)]
        return torch.as_tensor(least, dtype=nominal.dtype).reshape(nominal.shape[:-1])


def _transport_cost(cost: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
    from scipy.optimize import linprog

    n = len(p)
    leaving, arriving = np.kron(np.eye(n), np.ones((1, n))), np.kron(np.ones((1, n)), np.eye(n))
    possible = np.isfinite(cost)
    plan = linprog(cost[possible], A_eq=np.concatenate([leaving, arriving])[:, possible], b_eq=np.concatenate([p, q]))
    return plan.fun if plan.success else np.inf

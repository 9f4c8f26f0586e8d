"""Projections of many rows onto the rows that stay accepted, by the alternating direction method of multipliers.

The set of a row x₀ is an intersection: a box, a ball of the cost around x₀, and for every component k the cone
θ̂_kᵀx + b_k − ρ_k‖(x, 1)‖ ≥ ε. Each has a projection in closed form, and the linear system between them is the same
for all rows, so one factorisation serves the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PENALTY, OVER = 10.0, 1.6  # at the start, and over-relaxation
EVERY, ADAPTING, ENOUGH = 20, 100, 1e-6  # iterations between looks, those with other penalties, residual of a row done
SLACK = 1e-4  # of the budget
Move = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What becomes of the moves `[n, d]` of the rows at `[n]` of a batch under the penalties `[n, 1]`."""


def on_l1_ball(y: Tensor, radius: Tensor) -> Tensor:
    """The nearest point of ‖·‖₁ ≤ radius, for `y [n, d]` and `radius [n]`."""
    falling = y.abs().sort(-1, descending=True).values
    excess = falling.cumsum(-1) - radius[:, None]
    count = torch.arange(1, y.shape[-1] + 1, dtype=y.dtype)
    used = (falling * count > excess).sum(-1, keepdim=True).clamp_min(1)
    level = excess.gather(-1, used - 1) / used
    return torch.where(y.abs().sum(-1, keepdim=True) <= radius[:, None], y, shrunk(y, level.clamp_min(0)))


def on_l2_ball(y: Tensor, radius: Tensor) -> Tensor:
    """The nearest point of ‖·‖₂ ≤ radius."""
    return y * (radius[:, None] / y.norm(dim=-1, keepdim=True).clamp_min(1e-300)).clamp_max(1)


def shrunk(y: Tensor, level: Tensor) -> Tensor:
    """Every coordinate moved towards 0 by the level: the proximal map of level·‖·‖₁."""
    return y.sign() * (y.abs() - level).clamp_min(0)


def shortened(y: Tensor, level: Tensor) -> Tensor:
    """The vector shortened by the level: the proximal map of level·‖·‖₂."""
    length = y.norm(dim=-1, keepdim=True)
    return y * (1 - level / length.clamp_min(1e-300)).clamp_min(0)


BALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": on_l1_ball, "l2": on_l2_ball}
PROXIMAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": shrunk, "l2": shortened}
NORMS: dict[str, int] = {"l1": 1, "l2": 2}


def on_cone(t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest point of ‖s‖ ≤ t, for `t [..., 1]` and `s [..., m]`."""
    length = s.norm(dim=-1, keepdim=True)
    mean = (t + length) / 2
    edge = mean.clamp_min(0)  # of points below the polar cone the nearest is the tip
    inside = length <= t
    return torch.where(inside, t, edge), torch.where(inside, s, s * edge / length.clamp_min(1e-300))


@dataclass(frozen=True)
class Accepted:
    """The rows that all components accept with a margin.

    means: `[k, d + 1]`, with the intercept last; radii: `[k]`; margin: ε; cost: "l1" or "l2".
    """

    means: Tensor
    radii: Tensor
    margin: float
    cost: str
    iterations: int = 4000

    def margins(self, x: Tensor) -> Tensor:
        """θ̂_kᵀ(x, 1) − ρ_k‖(x, 1)‖, `[n, k]`."""
        whole = with_one(x)
        return whole @ self.means.T - self.radii * whole.norm(dim=-1, keepdim=True)

    def holds(self, x: Tensor, start: Tensor, budget: Tensor) -> Tensor:
        """Whether rows are accepted and within the budget, up to what a projection leaves, `[n]`."""
        cost = (x - start).norm(p=NORMS[self.cost], dim=-1)
        return (self.margins(x) >= self.margin / 2).all(-1) & (cost <= budget + SLACK)

    def least_move(self, start: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The accepted row `[n, d]` of the least cost; where there is none, a row that is not accepted."""
        cheaper = PROXIMAL[self.cost]
        return self._split(start, start, low, high, lambda y, at, penalty: cheaper(y, 1 / penalty), 0.0)

    def project(self, x: Tensor, start: Tensor, low: Tensor, high: Tensor, budget: Tensor) -> Tensor:
        """The nearest accepted row at a cost of at most `budget [n]` from `start`."""
        ball = BALLS[self.cost]
        return self._split(x, start, low, high, lambda y, at, penalty: ball(y, budget[at]), 1.0)

    def _split(self, wanted: Tensor, start: Tensor, low: Tensor, high: Tensor, move: Move, pull: float) -> Tensor:
        """min ½·pull·‖x − wanted‖² over x in the box and the cones, with what `move` makes of x − start.

        z are copies of what each set sees of x, u their scaled multipliers. Rows that are done leave the batch, and the
        penalty of every other row follows its residuals.
        """
        length = self.means[:, :-1].norm(dim=-1, keepdim=True).clamp_min(1e-12)
        theta, rho = self.means[:, :-1] / length, (self.radii / length[:, 0]).view(1, -1, 1)
        offset = ((self.means[:, -1] - self.margin) / length[:, 0]).view(1, -1, 1)
        eye = torch.eye(wanted.shape[1], dtype=wanted.dtype)
        values, vectors = torch.linalg.eigh((2 + float((rho**2).sum())) * eye + theta.T @ theta)

        def seen(x: Tensor, at: Tensor) -> list[Tensor]:
            """x for the box, the move for the ball, and (t, s) for the cones."""
            return [x, x - start[at], (x @ theta.T)[..., None] + offset, rho * with_one(x)[:, None]]

        result, at = wanted.clamp(low, high), torch.arange(len(wanted))
        z, penalty = seen(wanted, at), torch.full_like(wanted[:, :1], PENALTY)
        u = [torch.zeros_like(one) for one in z]
        for count in range(1, self.iterations + 1):
            back = [one - dual for one, dual in zip(z, u)]
            right = (
                back[0] + back[1] + start[at] + (back[2] - offset)[..., 0] @ theta + (rho * back[3][..., :-1]).sum(1)
            )
            x = (((pull * wanted[at] + penalty * right) @ vectors) / (pull + penalty * values)) @ vectors.T
            now, last = seen(x, at), z
            ahead = [OVER * new + (1 - OVER) * old + dual for new, old, dual in zip(now, z, u)]
            z = [ahead[0].clamp(low[at], high[at]), move(ahead[1], at, penalty), *on_cone(ahead[2], ahead[3])]
            u = [one - new for one, new in zip(ahead, z)]
            if count % EVERY == 0 or count == self.iterations:
                result[at] = z[0]
                apart, moved = _gap(z, now), _gap(z, last)
                left = torch.maximum(apart, moved) >= ENOUGH
                if not left.any():
                    break
                factor = (apart / (penalty[:, 0] * moved).clamp_min(1e-300)).sqrt().clamp(0.2, 5)
                change = ((factor > 2) | (factor < 0.5)) & (count <= ADAPTING)
                factor = torch.where(change, factor, 1.0)
                at, penalty = at[left], (penalty * factor[:, None])[left]
                z = [one[left] for one in z]
                u = [(one / factor.view(-1, *[1] * (one.dim() - 1)))[left] for one in u]
        return result


def with_one(x: Tensor) -> Tensor:
    """The rows with a last coordinate of 1, `[n, d + 1]`."""
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=-1)


def _gap(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """The greatest difference in every row, `[n]`."""
    return torch.stack([(a - b).abs().flatten(1).amax(-1) for a, b in zip(one, other)]).amax(0)

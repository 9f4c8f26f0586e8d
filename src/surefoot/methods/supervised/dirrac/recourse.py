"""Rows moved by projected gradient, all at once, each with its own line search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from surefoot.data.tables import check_finite
from surefoot.errors import UsageError, nearest
from surefoot.methods.supervised.dirrac.models import Moments
from surefoot.methods.supervised.dirrac.projection import NORMS, Accepted

if TYPE_CHECKING:
    from surefoot.methods.supervised.dirrac import DiRRAc

LINE = 60  # trials of a line search


class Recourse(NamedTuple):
    """What to change: rows `[n, d]`, the worst probability that one is rejected all the same, its cost, the least cost
    of any accepted row, and whether there is one, `[n]`. Where there is none, the numbers of the row are NaN."""

    rows: np.ndarray
    probability: np.ndarray
    cost: np.ndarray
    least_cost: np.ndarray
    found: np.ndarray


@dataclass(frozen=True)
class Fitted:
    """A method and what it knows of tomorrow's classifiers."""

    method: DiRRAc
    known: Moments

    def __post_init__(self) -> None:
        for name in (*self.method.immutable, *self.method.increasing):
            if name not in self.known.features:
                raise UsageError(f"feature {name!r} is unknown. {nearest(name, self.known.features)}")

    @property
    def accepted(self) -> Accepted:
        """The rows that all groups accept with the margin."""
        radii = torch.full_like(self.known.shares, self.method.radius)
        return Accepted(self.known.means, radii, self.method.margin, self.method.cost)

    def probability(self, X: Any) -> np.ndarray:
        """The worst probability that rows X `[n, d]` are rejected, `[n]`."""
        return self.method.probability(self._checked(X), self.known).numpy()

    def recourse(self, X: Any) -> Recourse:
        """The changed rows of X `[n, d]`, an array or a data frame.

        Raises:
            UsageError: X does not fit the classifiers, or has numbers that are missing.
        """
        start = self._checked(X)
        low, high = self._box(start)
        least = self.accepted.least_move(start, low, high)
        found = self.accepted.holds(least, start, torch.full_like(start[:, 0], torch.inf))
        result = torch.full_like(start, torch.nan)
        probability, least_cost = (torch.full((len(start),), torch.nan, dtype=start.dtype) for _ in range(2))
        least_cost[found] = self._cost(least[found], start[found])
        if found.any():
            budget = least_cost[found] + self.method.budget
            moved = self._descended(least[found], start[found], low[found], high[found], budget)
            result[found], probability[found] = moved, self.method.probability(moved, self.known)
        cost = self._cost(result, start)
        return Recourse(*(one.numpy() for one in (result, probability, cost, least_cost, found)))

    def _cost(self, x: Tensor, start: Tensor) -> Tensor:
        return (x - start).norm(p=NORMS[self.method.cost], dim=-1)

    def _descended(self, least: Tensor, start: Tensor, low: Tensor, high: Tensor, budget: Tensor) -> Tensor:
        """Projected gradient from the projection of every row, or from its least move where that has not converged."""
        method, accepted = self.method, self.accepted
        x = accepted.project(start, start, low, high, budget)
        x = torch.where(accepted.holds(x, start, budget)[:, None], x, least)
        value = method.probability(x, self.known)
        going = value >= method.tolerance
        for _ in range(method.iterations):
            if not going.any():
                break
            gradient = self._gradient(x)
            pending, before = going.clone(), value.clone()
            size = (budget / gradient.norm(dim=-1).clamp_min(1e-12)).clamp_min(method.step)  # reaches the budget
            for _ in range(LINE):
                place = pending.nonzero()[:, 0]
                if not len(place):
                    break
                wanted = x[place] - size[place, None] * gradient[place]
                trial = accepted.project(wanted, start[place], low[place], high[place], budget[place])
                there = method.probability(trial, self.known)
                step = x[place] - trial
                enough = there <= value[place] - step.square().sum(-1) / (2 * size[place])
                enough &= accepted.holds(trial, start[place], budget[place])
                taken, hopeless = place[enough], (gradient[place] * step).sum(-1) < method.tolerance
                x[taken], value[taken] = trial[enough], there[enough]
                pending[place[enough | hopeless]] = False  # a shorter step would gain even less
                size = size * method.shrink
            going = going & (value >= method.tolerance) & (before - value >= method.tolerance)
        return x

    def _gradient(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.method.probability(x, self.known).sum(), x)
        return gradient

    def _checked(self, X: Any) -> Tensor:
        """The rows, `[n, d]` float64."""
        names, size = self.known.features, len(self.known.features)
        columns = getattr(X, "columns", None)
        if columns is not None:
            if missing := [name for name in names if name not in set(map(str, columns))]:
                if names != tuple(f"x{place}" for place in range(size)):
                    raise UsageError(f"X has no column {missing[0]!r}, which the models know.")
            else:
                X = X[list(names)]
        if hasattr(X, "toarray"):  # a sparse matrix
            raise UsageError("X is sparse, and dense rows are needed; give X.toarray().")
        try:
            rows = np.array(X, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise UsageError(f"X holds something that is no number ({error}); give numbers [rows, {size}].") from error
        if rows.ndim != 2 or rows.shape[1] != size:
            raise UsageError(f"X has the shape {list(rows.shape)}; the models have {size} features: [rows, {size}].")
        if not len(rows):
            raise UsageError("X has no rows; give at least one that was rejected.")
        check_finite(rows, "feature", names, range(len(rows)))
        return torch.as_tensor(rows)

    def _box(self, start: Tensor) -> tuple[Tensor, Tensor]:
        """The least and greatest value of every feature of every row. What a row has already is never forbidden."""
        low, high = torch.full_like(start, -torch.inf), torch.full_like(start, torch.inf)
        if self.method.limits is not None:
            least, greatest = self.method.limits
            low, high = start.clamp_max(least), start.clamp_min(greatest)
        for place, name in enumerate(self.known.features):
            if name in (*self.method.immutable, *self.method.increasing):
                low[:, place] = start[:, place]
            if name in self.method.immutable:
                high[:, place] = start[:, place]
        return low, high

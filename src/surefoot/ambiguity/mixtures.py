"""Sets that do not depend on the nominal: all distributions, an interval box, a list of scenarios.

A radius r in [0, 1] mixes such a set C into the nominal, `{(1−r)·p + r·q : q ∈ C}`; with r = 1 it is C itself. If C
contains the nominal these sets grow with r. A penalty is the price of r = 1; it is all or nothing, because the gain and
the price are both linear in r: the worst case is the nominal or the worst of C.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity.arrays import normalised, tensor
from surefoot.ambiguity.checks import check_nominal
from surefoot.ambiguity.contract import Plan, Solution
from surefoot.ambiguity.core import Divergence, printed
from surefoot.ambiguity.moves import Supported, filled
from surefoot.ambiguity.search import lowest, take, untake
from surefoot.ambiguity.shared import lowest_of_rows, lowest_outcomes
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter


@dataclass(frozen=True)
class Mixture(Divergence):
    """Base of the sets that are mixed into the nominal; `symbol` names C."""

    radius: float | Tensor | np.ndarray | None = hyperparameter(None, low=0, high=1, help="Share of contamination.")

    def __str__(self) -> str:
        if self.penalty is None:
            return f"min {{ q·v : q ∈ (1−r)·p + r·{self.symbol}, r = {printed(self.radius)} }}"
        return f"min {{ q·v + {printed(self.penalty)}·r : q ∈ (1−r)·p + r·{self.symbol} }}"

    def worst_of_all(self, values: Tensor, nominal: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """The minimum value `[..., 1]` over C, and a function that makes its distribution."""
        raise NotImplementedError

    def ball(self, values: Tensor, nominal: Tensor, radius: Tensor) -> Solution:
        least, worst = self.worst_of_all(values, nominal)
        mean = (nominal * values).sum(-1, keepdim=True)
        value = torch.lerp(mean, least, radius)
        return Solution(value.squeeze(-1), lambda: torch.lerp(nominal, worst(), radius))

    def penalised(self, values: Tensor, nominal: Tensor, penalty: Tensor) -> Solution:
        least, worst = self.worst_of_all(values, nominal)
        mean = (nominal * values).sum(-1, keepdim=True)
        value = torch.minimum(mean, least + penalty)
        return Solution(value.squeeze(-1), lambda: torch.where(least + penalty < mean, worst(), nominal))


@dataclass(frozen=True)
class Contamination(Mixture, Supported):
    """A share R of the draws has any distribution: q = (1−R)·p + R·anything; its divergence is 1 − min_j q_j/p_j."""

    name = "contamination"
    symbol = "Δ"

    def worst_of_all(self, values: Tensor, nominal: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        allowed = self.allowed(nominal)

        def worst() -> Tensor:
            target = torch.where(allowed, values, torch.inf).argmin(-1)
            return torch.nn.functional.one_hot(target, values.shape[-1]).to(values.dtype)

        return lowest(values, allowed), worst

    def plan(self, values: Tensor, sample: Tensor, strength: Tensor | None) -> Plan:
        outcomes = lowest_outcomes(values, self.support)

        def finish(means: Tensor, probabilities: Tensor, strength: Any) -> tuple[Tensor, Tensor]:
            least = lowest_of_rows(values, outcomes, probabilities)
            price = torch.minimum(means, least + strength)
            value = (torch.lerp(means, least, strength) if self.penalty is None else price).squeeze(-1)
            return value, torch.isfinite(value)

        return Plan(values[:, None], finish, outcomes)

    def divergence(self, distribution: Tensor, nominal: Tensor) -> Tensor:
        ratio = torch.where(nominal > 0, distribution / nominal, torch.inf).amin(-1)
        return self.within(distribution, nominal, (1 - ratio).clamp(min=0))


@dataclass(frozen=True, kw_only=True)
class Given(Mixture):
    """Base of sets given as arrays; without radius and penalty it is the set itself, radius 1.

    The arrays come first, and radius or penalty are given by name: `Box(lower, upper, radius=0.5)`.
    """

    radius: float | Tensor | np.ndarray | None = hyperparameter(
        None, low=0, high=1, help="Share of contamination; 1 if no penalty is given."
    )
    penalty: float | Tensor | np.ndarray | None = hyperparameter(None, low=0, help="Penalty for using the whole set.")

    def __post_init__(self) -> None:
        if self.radius is None and self.penalty is None:
            object.__setattr__(self, "radius", 1.0)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("radius", "penalty"):
                object.__setattr__(self, field.name, normalised(tensor(value, f"{type(self).__name__}: {field.name}")))
        super().__post_init__()


@dataclass(frozen=True, eq=False)
class Box(Given):
    """Every probability between its bounds: `{q : lower ≤ q ≤ upper}`, each `[..., n]`."""

    lower: Tensor
    upper: Tensor
    name = "box"
    symbol = "Box"

    def __post_init__(self) -> None:
        super().__post_init__()
        lower, upper = self.lower, self.upper
        if lower.shape != upper.shape or lower.ndim == 0:
            raise UsageError(
                f"Box: lower {list(lower.shape)} and upper {list(upper.shape)} must have one shape [..., n]; expand "
                "the shorter one."
            )
        wrong = ~((lower <= upper) & (upper >= 0) & (lower <= 1))
        if wrong.any():
            place = tuple(int(i) for i in wrong.nonzero()[0])
            raise UsageError(
                f"Box: the interval [{lower[place].item():g}, {upper[place].item():g}] at {list(place)} contains no "
                "probability; lower <= upper is needed, and the interval must intersect [0, 1]."
            )
        object.__setattr__(self, "lower", lower.clamp(min=0))
        object.__setattr__(self, "upper", upper.clamp(max=1))
        for bound, total, most in (("lower", self.lower.sum(-1), True), ("upper", self.upper.sum(-1), False)):
            wrong = total > 1 + 1e-12 if most else total < 1 - 1e-12
            if wrong.any():
                place = tuple(int(i) for i in wrong.nonzero()[0])
                raise UsageError(
                    f"Box: the {bound} bounds{f' of row {list(place)}' if place else ''} sum to "
                    f"{total[place].item():.9g}, so no distribution fits; they must sum to at "
                    f"{'most' if most else 'least'} 1. {'Lower' if most else 'Raise'} some of them."
                )

    @property
    def outcomes(self) -> int:
        return self.lower.shape[-1]

    @property
    def leading(self) -> torch.Size:
        return self.lower.shape[:-1]

    def worst_of_all(self, values: Tensor, nominal: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        values, lower, upper = torch.broadcast_tensors(values, self.lower.to(values), self.upper.to(values))
        order = values.argsort(-1)
        lower = take(lower, order)
        q = lower + filled(take(upper, order) - lower, 1 - lower.sum(-1, keepdim=True))
        return (q * take(values, order)).sum(-1, keepdim=True), lambda: untake(q, order)


@dataclass(frozen=True, eq=False)
class Scenarios(Given):
    """A list of K distributions `[..., K, n]` and their mixtures; the worst of them is one of the list."""

    distributions: Tensor
    name = "scenarios"
    symbol = "Scenarios"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distributions.ndim < 2 or 0 in self.distributions.shape:
            raise UsageError(
                f"Scenarios: distributions {list(self.distributions.shape)} must be [K, n] or [..., K, n] with at "
                "least one scenario; stack them."
            )
        check_nominal(self.distributions, "distributions")

    @property
    def outcomes(self) -> int:
        return self.distributions.shape[-1]

    @property
    def leading(self) -> torch.Size:
        return self.distributions.shape[:-2]

    def worst_of_all(self, values: Tensor, nominal: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        scenarios = self.distributions.to(values)
        each = (scenarios @ values.unsqueeze(-1)).squeeze(-1)
        least, which = each.min(-1, keepdim=True)

        def worst() -> Tensor:
            rows = scenarios.expand(each.shape + scenarios.shape[-1:])
            return rows.gather(-2, which.unsqueeze(-1).expand(which.shape + rows.shape[-1:])).squeeze(-2)

        return least, worst

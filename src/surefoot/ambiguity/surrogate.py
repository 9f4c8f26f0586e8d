"""The worst case over all distributions on a continuous space, where moving a point has a price: the transport
surrogate, and the certificate that it gives.

    φ(z) = sup_x' { ℓ(x', y) − γ/2·‖x' − x‖² }        sup { E_Q ℓ : W₂(Q, P) ≤ ρ } = inf_γ { γρ²/2 + E_P φ }

A set of `worst_case` has finitely many outcomes and moves mass among them; here the points themselves move, so the
values are a function. Its maximiser is found elsewhere (`perturbations.ascent.ascend_priced`); this is what follows
from it. Labels never move. Sinha, Namkoong, Duchi (2018), arXiv:1710.10571.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.errors import UsageError


@dataclass(frozen=True)
class Certificate:
    """What a transport surrogate says of a model.

    Args:
        penalty: γ, of the price γ/2·‖x' − x‖².
        surrogate: the mean of φ, γ/2·radius² below the mean loss of the moved points.
        radius: ρ̂, the root of the mean squared distance that points moved: how far away the worst distribution is.
        curvature: an estimate of the greatest upward curvature of the loss in a point, at the points and where they
            moved.
    """

    penalty: float
    surrogate: float
    radius: float
    curvature: float

    @property
    def holds(self) -> bool:
        """Whether every point has one worst place, by the estimate of the curvature: the bound is sure then, and else
        rests on the search for that place."""
        return self.curvature < self.penalty

    def bound(self, radius: float | None = None) -> float:
        """A bound on the mean loss of every distribution within a Wasserstein distance of order 2; by default within
        `self.radius`, for which it is attained.

        Raises:
            UsageError: the radius is negative.
        """
        rho = self.radius if radius is None else radius
        if not rho >= 0:
            raise UsageError(f"radius={radius!r} is not allowed; a distance is a number >= 0.")
        return self.surrogate + (self.penalty * rho**2 / 2 if rho > 0 else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON-ready data."""
        return {**vars(self), "bound": self.bound(), "holds": self.holds}


def certificate(
    penalty: float, losses: np.ndarray, squared: np.ndarray, curvature: float, weights: np.ndarray | None = None
) -> Certificate:
    """The certificate of points that have moved to their worst places.

    losses: `[n]`, there; squared: `[n]`, the squared distances; weights: `[n]` of the points, summing to one, equal
    ones by default.
    """
    paid = 0.0 if math.isinf(penalty) else penalty / 2 * squared
    mean = np.mean if weights is None else lambda x: float(weights @ x)
    return Certificate(penalty, float(mean(losses - paid)), math.sqrt(float(mean(squared))), curvature)


def ascent_step(penalty: float, curvature: Any) -> Any:
    """The step of gradient ascent on ℓ − γ/2·‖x' − x‖² that cannot overshoot: 1/(γ + L)."""
    return 1 / (penalty + curvature)

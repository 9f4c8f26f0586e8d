"""What a Lipschitz constant guarantees of a policy that was learned from an expert: its error away from the data, its
closed loop, and its cost. Norms are Euclidean; nothing is estimated here, all constants are given.

The expert π* has the Lipschitz constant ℓ, the learned policy π has α. The plant is x⁺ = f(x, u), where f changes by at
most L_u·‖u − u'‖ with the input, and the expert's loop x⁺ = f(x, π*(x)) brings two states together by the factor ρ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from surefoot.errors import UsageError

Array = NDArray[Any]


def distances(x: ArrayLike, data: ArrayLike) -> Array:
    """`[places, rows]` from places `[places, n]` to the rows `[rows, n]` of the data."""
    return cdist(np.asarray(x, float), np.asarray(data, float))


def learning_error(residuals: ArrayLike, slopes: float, apart: ArrayLike) -> Array:
    """A bound `[places]` of ‖π(x) − π*(x)‖: `min_i e_i + (α + ℓ)·‖x − x_i‖`, with `residuals [rows]`
    e_i = ‖π(x_i) − u_i‖, `slopes` α + ℓ, and distances `apart [places, rows]`."""
    return (np.asarray(residuals, float) + slopes * np.asarray(apart, float)).min(-1)


def deviation(
    steps: ArrayLike, *, contraction: float, gain: float, error: float, lipschitz: float, radius: float
) -> Array:
    """A bound of the distance between the expert's state and the learned policy's after `steps`, from the same start:
    `L_u·(ē + α·δ)·(1 − ρ^t)/(1 − ρ)`. Infinitely many steps give the radius of the tube in which it stays.

    Args:
        contraction: ρ, below 1.
        gain: L_u.
        error: ē, the largest ‖π(x) − π*(x)‖ in the tube.
        lipschitz: α.
        radius: δ, the largest error of a measured state.

    Raises:
        UsageError: the expert's loop does not contract.
    """
    if not 0 <= contraction < 1:
        raise UsageError(
            f"contraction={contraction!r} is not allowed: the bound is about an expert's loop that contracts, by a "
            "factor in [0, 1). Give a norm in which it does, or do without the bound."
        )
    share = 1 - np.power(contraction, np.asarray(steps, float))
    return gain * (error + lipschitz * radius) * share / (1 - contraction)


def regret(
    steps: int, *, cost: float, expert: float, contraction: float, gain: float, error: float, lipschitz: float,
    radius: float,
) -> float:  # fmt: skip
    """A bound of `Σ_t |c(x_t, u_t) − c(x*_t, u*_t)|` over the steps 0 … `steps` − 1 for a stage cost that changes by at
    most `cost` times the change of state and input: `L_c·Σ_t [(1 + ℓ)·Δ_t + ē + α·δ]`. `expert` is ℓ, the rest is as in
    `deviation`, which is Δ_t."""
    apart = deviation(
        np.arange(steps), contraction=contraction, gain=gain, error=error, lipschitz=lipschitz, radius=radius
    )
    return float(cost * ((1 + expert) * apart + error + lipschitz * radius).sum())

"""The curriculum over an adversary's temperature: a Gamma law whose mean falls as fast as the protagonist's return
allows.

    minimise KL(p_k ‖ p_target)  subject to  KL(p_k ‖ p_old) ≤ ε,   (1/n) Σ_i [p_k(α_i)/p_old(α_i)]·J_i ≥ ξ,   k ≥ 10⁻⁸

p_k = Gamma(k, λ) with a fixed rate λ. The concentration k is one number, so the solution is found by a search along the
way from the present one to the target, to the end of what is feasible. Without return enough at the present law, it
stays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import digamma, gammaln

LEAST = 1e-8  # concentration
POINTS = 2000  # of the search along the way


def divergence(a: float, b: float) -> float:
    """KL(Gamma(a, λ) ‖ Gamma(b, λ)) = (a − b)ψ(a) − lnΓ(a) + lnΓ(b)."""
    return float((a - b) * digamma(a) - gammaln(a) + gammaln(b))


def importance(k: float, old: float, rate: float, temperatures: NDArray[np.float64]) -> NDArray[np.float64]:
    """p_k(α)/p_old(α)."""
    logs = (k - old) * (np.log(rate) + np.log(np.maximum(temperatures, 1e-300))) + gammaln(old) - gammaln(k)
    return np.exp(logs)


def advanced(
    old: float,
    target: float,
    rate: float,
    step: float,
    bound: float,
    temperatures: NDArray[np.float64],
    returns: NDArray[np.float64],
) -> float:
    """The concentration after an update from `n` pairs of a temperature and the discounted return under it.

    Args:
        old, target: concentrations now and at the end.
        rate: λ of all laws.
        step: ε.
        bound: ξ, the least return; −∞ for none.
        temperatures, returns: `[n]`.
    """

    def enough(k: float) -> bool:
        return float(np.mean(importance(k, old, rate, temperatures) * returns)) >= bound

    if old == target or not enough(old):
        return old
    end = target
    if divergence(target, old) > step:
        end = float(brentq(lambda k: divergence(k, old) - step, *sorted((target, old)), xtol=1e-12))  # type: ignore[arg-type]
    way = np.linspace(old, max(end, LEAST), POINTS + 1)
    reached = old
    for k in way[1:]:
        if not enough(float(k)):
            return reached
        reached = float(k)
    return reached

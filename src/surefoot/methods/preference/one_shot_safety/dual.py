"""The dual of alignment under constraints, from samples of the reference: a smooth convex function of few multipliers.

    D(λ) = β·mean_x log mean_y~π_ref exp( (r + λᵀ(g − b))/β )        minimised over λ ≥ 0

Its gradient is the mean of g − b under π_λ ∝ π_ref·exp((r + λᵀg)/β), its Hessian the mean covariance of g under π_λ,
over β. At the minimum π_λ is the best policy that satisfies the constraints, and D its value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from surefoot.errors import UsageError

Array = NDArray[np.float64]
STEEPEST = 1e4  # the largest multiplier, in units of (β + spread of the reward) per spread of the constraint
EXACT = 1e-9  # the gradient at a minimum, in spreads of the constraint
NEWTON = 50  # most steps of Newton's method


@dataclass(frozen=True)
class Dual:
    """The minimum of the dual, and what the policy π_λ there is predicted to be on the samples."""

    multipliers: Array  # λ, one per constraint
    value: float  # D(λ), of the reward less β times the divergence
    reward: float  # mean of r under π_λ
    safety: Array  # mean of each g under π_λ
    kl: float  # KL(π_λ ‖ π_ref), mean over the prompts
    effective: float  # effective number of samples per prompt, 1/Σp², mean over the prompts
    before: tuple[float, Array]  # means of r and of each g under the reference


def solve(
    reward: Any, safety: Any, threshold: Any, beta: float, *, reference: Any = None, relative: bool = False
) -> Dual:
    """The multipliers of the constraints E_π[g] ≥ b, from `reward [prompts, samples]`, `safety [constraints, prompts,
    samples]` and `threshold [constraints]`.

    The samples of a prompt have equal weights, as those drawn from the reference have, or the probabilities `reference
    [prompts, samples]`. `relative`: thresholds are of the improvement over the reference, E_π[g] − E_ref[g] ≥ b.

    Raises:
        UsageError: the sizes differ, a number is not finite, or no policy on these samples satisfies the constraints.
    """
    r, g, b = np.asarray(reward, float), np.asarray(safety, float), np.atleast_1d(np.asarray(threshold, float))
    weight = np.full(r.shape, 1 / r.shape[-1]) if reference is None else np.asarray(reference, float)
    if r.ndim != 2 or g.shape != (len(b), *r.shape) or weight.shape != r.shape:
        raise UsageError(
            f"one-shot safety: reward {r.shape}, safety {g.shape}, threshold {b.shape} and reference {weight.shape} do "
            "not fit; give [prompts, samples], [constraints, prompts, samples], [constraints] and [prompts, samples]."
        )
    if not all(np.isfinite(x).all() for x in (r, g, b, weight)):
        raise UsageError("one-shot safety: a reward, a constraint or a threshold is not finite; remove those samples.")
    before = float((weight * r).sum(1).mean()), (weight * g).sum(2).mean(1)
    h = g - (b + before[1] if relative else b)[:, None, None]
    with np.errstate(divide="ignore"):
        log_weight = np.log(weight)
    known = weight > 0
    spread = np.maximum(g.max((1, 2), where=known, initial=-np.inf) - g.min((1, 2), where=known, initial=np.inf), 1e-12)
    most = STEEPEST * (beta + np.ptp(r[known])) / spread
    found = _minimum(r, h, log_weight, beta, most, spread)
    slope = _moments(r, h, log_weight, beta, found)[1]
    if (slope < -1e-6 * spread).any():
        _refuse(g, known, b + before[1] if relative else b)
    policy = tilted(r, h, log_weight, beta, found)
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = float(np.where(policy > 0, policy * (np.log(policy) - log_weight), 0).sum(1).mean())
    return Dual(
        multipliers=found,
        value=_moments(r, h, log_weight, beta, found)[0],
        reward=float((policy * r).sum(1).mean()),
        safety=(policy * g).sum(2).mean(1),
        kl=kl,
        effective=float((1 / (policy**2).sum(1)).mean()),
        before=before,
    )


def tilted(reward: Array, safety: Array, log_weight: Array, beta: float, multipliers: Array) -> Array:
    """π_λ on the samples, `[prompts, samples]`: ∝ weight·exp((r + λᵀg)/β), prompt by prompt."""
    logits = log_weight + (reward + np.tensordot(multipliers, safety, 1)) / beta
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def _moments(r: Array, h: Array, log_weight: Array, beta: float, multipliers: Array) -> tuple[float, Array, Array]:
    """D, its gradient and its Hessian."""
    logits = log_weight + (r + np.tensordot(multipliers, h, 1)) / beta
    top = logits.max(1, keepdims=True)
    raised = np.exp(logits - top)
    total = raised.sum(1, keepdims=True)
    policy = raised / total
    means = (policy * h).sum(2)  # [constraints, prompts]
    second = np.einsum("np,jnp,knp->jk", policy, h, h) / len(r)
    value = beta * float((top + np.log(total)).mean())
    return value, means.mean(1), (second - means @ means.T / len(r)) / beta


def _minimum(r: Array, h: Array, log_weight: Array, beta: float, most: Array, spread: Array) -> Array:
    """The minimum over 0 ≤ λ ≤ `most`: near it by a quasi-Newton method, to the last digits by Newton's."""

    def scaled(u: Array) -> tuple[float, Array]:
        value, slope, _ = _moments(r, h, log_weight, beta, u / spread)
        return value, slope / spread

    start, bounds = np.zeros(len(h)), [(0.0, float(m * s)) for m, s in zip(most, spread)]
    found = minimize(scaled, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14}).x / spread
    left = np.inf
    for _ in range(NEWTON):
        _, slope, curve = _moments(r, h, log_weight, beta, found)
        free = ((found > 0) | (slope < 0)) & ((found < most) | (slope > 0))
        last, left = left, float((np.abs(slope) / spread)[free].max(initial=0.0))
        if left <= EXACT or left >= last:
            break
        step = np.linalg.lstsq(curve[np.ix_(free, free)], slope[free], rcond=None)[0]
        found[free] = np.clip(found[free] - step, 0, most[free])
    return found


def _refuse(g: Array, known: NDArray[np.bool_], threshold: Array) -> None:
    highest = np.where(known, g, -np.inf).max(2).mean(1)
    reachable = ", ".join(f"{x:.4g}" for x in highest)
    raise UsageError(
        f"one-shot safety: no policy on these samples satisfies threshold={[round(float(x), 4) for x in threshold]}; "
        f"the safest sample of every prompt has the mean {reachable}. Lower the threshold, or draw more samples of the "
        "reference (dual_samples), among which there may be safer ones."
    )

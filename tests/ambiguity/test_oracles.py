"""Every set in both forms against an independent convex solver, on random and degenerate instances.

The polyhedral sets are linear programmes for HiGHS, written from the definition; the others conic programmes for
Clarabel, compiled once and solved for every instance. Radii too small for a solver's tolerances are checked in
`test_extremes.py` with many digits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cvxpy as cp
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import block_diag

from surefoot.ambiguity import (
    KL,
    L1,
    Box,
    ChiSquare,
    Contamination,
    Ellipsoid,
    Hellinger,
    LInfinity,
    ReverseKL,
    Scenarios,
    TotalVariation,
    Wasserstein,
    worst_case,
    worst_case_value,
)

N, COUNT = 6, 200
TOLERANCE = 1e-7


def instances(seed: int, high: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, nominals and strengths [COUNT]: dense and sparse, tied and equal, certain, tiny and huge strengths."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(COUNT, N))
    values[::4] = rng.integers(0, 3, size=values[::4].shape)  # ties
    values[::29] = 0.5  # all equal
    values[1::31] *= 1e-3
    nominal = rng.dirichlet(np.full(N, 0.7), size=COUNT)
    nominal[1::3] *= rng.random(size=nominal[1::3].shape) < 0.5  # zeros
    nominal[5::17] = np.eye(N)[rng.integers(0, N, size=len(nominal[5::17]))]  # certain
    nominal[nominal.sum(-1) == 0] = np.eye(N)[0]
    nominal[nominal < 1e-3] = 0
    nominal /= nominal.sum(-1, keepdims=True)
    strength = high * 10 ** rng.uniform(-4, 0, size=COUNT)
    strength[::7], strength[3::7] = 0.0, high
    return values, nominal, strength


# ---------------------------------------------------------------------------------------------------------------------
# Polyhedral sets.


class Programme(NamedTuple):
    cost: Any
    at_most: list[tuple[Any, Any]]
    equal: list[tuple[Any, Any]]
    bounds: list[Any]
    constant: float = 0.0


def minima(programmes: list[Programme]) -> np.ndarray:
    """Of each programme, by one call: side by side in one programme each is as low as it can be."""

    def stacked(rows: list[list[tuple[Any, Any]]], widths: list[int]) -> tuple[Any, Any]:
        blocks = [np.vstack([r[0] for r in own]) if own else np.zeros((0, n)) for own, n in zip(rows, widths)]
        return block_diag(blocks, "csr"), np.concatenate([np.atleast_1d(r[1]) for own in rows for r in own] or [[]])

    costs = [np.asarray(one.cost) for one in programmes]
    widths = [len(cost) for cost in costs]
    (A, b), (E, e) = (stacked([getattr(one, kind) for one in programmes], widths) for kind in ("at_most", "equal"))
    tight = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    bounds = [bound for one in programmes for bound in one.bounds]
    done = linprog(np.concatenate(costs), A, b, E, e, bounds, method="highs", options=tight)
    assert done.success, done.message
    parts = np.split(done.x, np.cumsum(widths)[:-1])
    return np.array([one.constant + cost @ x for one, cost, x in zip(programmes, costs, parts)])


EYE, ONE = np.eye(N), np.ones((1, N))


def forbid(q_bounds: list[Any], p: np.ndarray, support: str) -> list[Any]:
    return [(0, 0) if support == "nominal" and pj == 0 else bound for bound, pj in zip(q_bounds, p)]


def l1_programme(scale: float) -> Callable[..., Programme]:
    """Variables q, d ≥ |q − p|, D = scale·Σ d."""

    def solve(v: np.ndarray, p: np.ndarray, strength: float, penalised: bool, support: str) -> Programme:
        cost = np.concatenate([v, np.full(N, strength * scale if penalised else 0.0)])
        near = [(np.hstack([EYE, -EYE]), p), (np.hstack([-EYE, -EYE]), -p)]
        ball = [] if penalised else [(np.hstack([0 * ONE, scale * ONE]), strength)]
        bounds = forbid([(0, None)] * N, p, support) + [(0, None)] * N
        return Programme(cost, near + ball, [(np.hstack([ONE, 0 * ONE]), 1.0)], bounds)

    return solve


def linf_programme(v: np.ndarray, p: np.ndarray, strength: float, penalised: bool, support: str) -> Programme:
    """Variables q, d ≥ |q_j − p_j| for all j."""
    cost = np.append(v, strength if penalised else 0.0)
    near = [(np.hstack([EYE, -ONE.T]), p), (np.hstack([-EYE, -ONE.T]), -p)]
    bounds = [*forbid([(0, None)] * N, p, support), (0, None if penalised else strength)]
    return Programme(cost, near, [(np.hstack([ONE, [[0.0]]]), 1.0)], bounds)


def contamination_programme(v: np.ndarray, p: np.ndarray, strength: float, penalised: bool, support: str) -> Programme:
    """Variables q, r with q ≥ (1 − r)·p."""
    cost = np.append(v, strength if penalised else 0.0)
    above = [(np.hstack([-EYE, -p[:, None]]), -p)]
    bounds = [*forbid([(0, None)] * N, p, support), (0, 1 if penalised else strength)]
    return Programme(cost, above, [(np.hstack([ONE, [[0.0]]]), 1.0)], bounds)


LOWER, UPPER = np.array([0.0, 0.1, 0.0, 0.05, 0.2, 0.0]), np.array([0.3, 0.1, 1.0, 0.4, 0.6, 0.15])


def box_programme(v: np.ndarray, p: np.ndarray, strength: float, penalised: bool, support: str) -> Programme:
    """Variables z, r: q = (1 − r)·p + z with r·lower ≤ z ≤ r·upper, Σz = r."""
    cost = np.append(v, (strength if penalised else 0.0) - v @ p)
    inside = [(np.hstack([EYE, -UPPER[:, None]]), 0 * p), (np.hstack([-EYE, LOWER[:, None]]), 0 * p)]
    bounds = [(0, None)] * N + [(0, 1) if penalised else (strength, strength)]
    return Programme(cost, inside, [(np.hstack([ONE, [[-1.0]]]), 0.0)], bounds, v @ p)


SCENARIOS = np.random.default_rng(8).dirichlet(np.full(N, 0.5), size=4)


def scenarios_programme(v: np.ndarray, p: np.ndarray, strength: float, penalised: bool, support: str) -> Programme:
    """Variables: weights of the scenarios, their sum r: q = (1 − r)·p + weights @ scenarios."""
    cost = SCENARIOS @ v - v @ p + (strength if penalised else 0.0)
    total = (np.ones((1, 4)), 1.0 if penalised else strength)
    return Programme(cost, [total] if penalised else [], [] if penalised else [total], [(0, None)] * 4, v @ p)


def costs() -> np.ndarray:
    """A plain metric with ties, costs that break the triangle inequality, free moves and forbidden ones."""
    cost = np.random.default_rng(9).random((N, N)) ** 2
    cost[0] = abs(np.arange(N) - 0)
    cost[1] = abs(np.arange(N) - 1)
    cost[2, 3], cost[4, 5], cost[5, 0] = 0.0, np.inf, np.inf
    np.fill_diagonal(cost, 0)
    return cost


COST = costs()


def wasserstein_programme(v: np.ndarray, p: np.ndarray, strength: float, penalised: bool, support: str) -> Programme:
    """Variables: the transport plan."""
    finite = np.where(np.isfinite(COST), COST, 0).ravel()
    cost = np.tile(v, N) + (strength * finite if penalised else 0.0)
    reachable = np.isfinite(COST) & ((p > 0)[None, :] if support == "nominal" else True)
    bounds = [(0, None if ok else 0) for ok in reachable.ravel()]
    ball = [] if penalised else [(finite[None, :], strength)]
    return Programme(cost, ball, [(np.kron(EYE, ONE), p)], bounds)


POLYHEDRAL: dict[str, tuple[Callable[..., Any], Callable[..., Programme], float]] = {
    "tv": (TotalVariation, l1_programme(0.5), 1.2),
    "l1": (L1, l1_programme(1.0), 2.2),
    "l-infinity": (LInfinity, linf_programme, 1.0),
    "contamination": (Contamination, contamination_programme, 1.0),
    "box": (lambda support, **form: Box(lower=LOWER, upper=UPPER, **form), box_programme, 1.0),
    "scenarios": (lambda support, **form: Scenarios(distributions=SCENARIOS, **form), scenarios_programme, 1.0),
    "wasserstein": (lambda **form: Wasserstein(cost=COST, **form), wasserstein_programme, 2.0),
}


def compared(found: Any, ambiguity: Any, values: np.ndarray, nominal: np.ndarray, truth: np.ndarray) -> None:
    np.testing.assert_allclose(found.value, truth, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.distribution.sum(-1), 1, rtol=0, atol=1e-12)
    assert (found.distribution >= 0).all()
    np.testing.assert_array_equal(worst_case_value(values, nominal, ambiguity), found.value)


@pytest.mark.parametrize("support", ["all", "nominal"])
@pytest.mark.parametrize("form", ["radius", "penalty"])
@pytest.mark.parametrize("name", POLYHEDRAL)
def test_polyhedral_sets_agree_with_highs(name, form, support):
    make, programme, high = POLYHEDRAL[name]
    if name in ("box", "scenarios") and support == "nominal":
        pytest.skip("these sets say themselves where mass may be")
    values, nominal, strength = instances(3, high if form == "radius" else 3.0)
    truth = minima([programme(v, p, s, form == "penalty", support) for v, p, s in zip(values, nominal, strength)])
    ambiguity = make(support=support, **{form: strength})
    compared(worst_case(values, nominal, ambiguity), ambiguity, values, nominal, truth)


# ---------------------------------------------------------------------------------------------------------------------
# Smooth sets. Each builder gives D as an expression of the variable q (or of q = p·r) and parameters.


class Conic:
    """min q·v with D ≤ radius, or + penalty·D, as a problem that is compiled once."""

    def __init__(self, divergence: Callable[..., Any], ratio: bool, penalised: bool):
        self.x, self.ratio = cp.Variable(N, nonneg=True), ratio
        self.v, self.p, self.root = cp.Parameter(N), cp.Parameter(N, nonneg=True), cp.Parameter(N, nonneg=True)
        self.allowed, self.strength = cp.Parameter(N, nonneg=True), cp.Parameter(nonneg=True)
        self.constant = cp.Parameter()
        d = divergence(self.x, self.p, self.root, self.constant)
        total = self.p @ self.x == 1 if ratio else cp.sum(self.x) == 1
        constraints = [total] if ratio else [total, self.x <= self.allowed]
        if penalised:
            paid = cp.Variable()
            self.problem = cp.Problem(cp.Minimize(self.v @ self.x + self.strength * paid), [*constraints, d <= paid])
        else:
            self.problem = cp.Problem(cp.Minimize(self.v @ self.x), [*constraints, d <= self.strength])
        assert self.problem.is_dcp(dpp=True)

    def solve(self, v: np.ndarray, p: np.ndarray, strength: float, support: str) -> float:
        self.v.value, self.p.value, self.root.value = (v * p if self.ratio else v), p, np.sqrt(p)
        self.allowed.value = np.where(p > 0, 1.0, 0.0) if support == "nominal" else np.ones(N)
        self.constant.value = float(np.sum(p[p > 0] * np.log(p[p > 0])))
        self.strength.value = strength
        tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-11)
        self.problem.solve(solver=cp.CLARABEL, ignore_dpp=False, **tight)
        assert self.problem.status in ("optimal", "optimal_inaccurate"), self.problem.status
        return self.problem.value


WEIGHTS = np.array([0.5, 1.0, 2.0, 0.1, 1.0, 0.3])
SMOOTH: dict[str, tuple[Callable[..., Any], Callable[..., Any], bool, float, tuple[str, ...]]] = {
    "kl": (
        lambda support, **form: KL(**form),
        lambda r, p, root, c: p @ -cp.entr(r),
        True,
        3.0,
        ("nominal",),
    ),
    "chi-square": (
        lambda support, **form: ChiSquare(**form),
        lambda r, p, root, c: cp.sum_squares(cp.multiply(root, r - 1)),
        True,
        20.0,
        ("nominal",),
    ),
    "reverse-kl": (ReverseKL, lambda q, p, root, c: c - p @ cp.log(q), False, 5.0, ("all", "nominal")),
    "hellinger": (Hellinger, lambda q, p, root, c: 1 - root @ cp.sqrt(q), False, 1.0, ("all", "nominal")),
    "ellipsoid": (
        lambda **form: Ellipsoid(weights=WEIGHTS, **form),
        lambda q, p, root, c: cp.sum_squares(cp.multiply((q - p), 1 / np.sqrt(WEIGHTS))),
        False,
        3.0,
        ("all", "nominal"),
    ),
    "l2": (Ellipsoid, lambda q, p, root, c: cp.sum_squares(q - p), False, 2.0, ("all", "nominal")),
}


@pytest.mark.parametrize("form", ["radius", "penalty"])
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_sets_agree_with_clarabel(name, form):
    make, divergence, ratio, high, supports = SMOOTH[name]
    conic = Conic(divergence, ratio, form == "penalty")
    values, nominal, strength = instances(4, high)
    strength = np.maximum(strength, 1e-3 * high)  # the solver's tolerance against the square root of the radius
    for support in supports:
        truth = np.array([conic.solve(*row, support) for row in zip(values, nominal, strength)])
        ambiguity = make(support=support, **{form: strength})
        compared(worst_case(values, nominal, ambiguity), ambiguity, values, nominal, truth)

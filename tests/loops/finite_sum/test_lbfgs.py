"""L-BFGS, one iteration at a time."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from surefoot.loops.finite_sum import lbfgs


def rosenbrock(W: np.ndarray) -> tuple[float, np.ndarray]:
    a, b = W[:, 0]
    slope = [-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)]
    return (1 - a) ** 2 + 100 * (b - a * a) ** 2, np.array(slope)[:, None]


def test_it_finds_a_minimum_and_then_stays():
    state = lbfgs.start(np.array([[-1.2], [1.0]]), rosenbrock)
    values = []
    for _ in range(80):
        state = lbfgs.iteration(state, rosenbrock)
        values.append(float(state["value"][0]))
    assert values == sorted(values, reverse=True)
    np.testing.assert_allclose(state["W"][:, 0], 1.0, atol=1e-6)
    assert state["done"][0] and lbfgs.iteration(state, rosenbrock) is state


def test_it_descends_where_there_are_kinks():
    def function(W: np.ndarray) -> tuple[float, np.ndarray]:
        return float(np.abs(W).sum() + 3 * np.abs(W[0] - W[1]).sum() + (W**2).sum()), (
            np.sign(W) + 2 * W + 3 * np.sign(W[0] - W[1]) * np.array([[1.0], [-1.0]])
        )

    state = lbfgs.start(np.array([[2.0], [-3.0]]), function)
    for _ in range(60):
        state = lbfgs.iteration(state, function)
    assert state["value"][0] < 1e-2


def test_scipy_finds_the_same_minimum():
    A = np.random.default_rng(0).normal(size=(30, 6))

    def function(W: np.ndarray) -> tuple[float, np.ndarray]:
        scores = A @ W.reshape(6, 1)
        return float(np.logaddexp(0, scores).sum() + 0.5 * (W**2).sum()), (
            A.T @ (1 / (1 + np.exp(-scores))) + W.reshape(6, 1)
        )

    state = lbfgs.start(np.zeros((6, 1)), function)
    for _ in range(40):
        state = lbfgs.iteration(state, function)
    theirs = minimize(lambda w: (function(w)[0], function(w)[1].ravel()), np.zeros(6), jac=True, tol=1e-12)
    np.testing.assert_allclose(state["W"][:, 0], theirs.x, atol=1e-6)

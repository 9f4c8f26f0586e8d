"""Finite sums: the problem, its losses, and that every solver comes to the same minimum."""

from __future__ import annotations

import numpy as np
import pytest

from surefoot.ambiguity import KL, CVaR, Priced
from surefoot.data.tables import Table
from surefoot.loops.finite_sum.problem import weigh
from surefoot.loops.finite_sum.solvers import SOLVERS
from surefoot.methods.supervised.prospect import Prospect
from surefoot.models.linear_losses import LOGISTIC, SOFTMAX, SQUARED, Loss

STREAM = np.random.default_rng(0)
X = STREAM.normal(size=(40, 3))
NUMBERS = Table(X, X @ [1.0, -2.0, 0.5] + STREAM.standard_t(3, size=40))
CLASSES = Table(X, np.array(["a", "b", "c"])[(X[:, 0] + STREAM.normal(size=40) > 0) + 1 * (X[:, 1] > 0.5)])


def slope_by_differences(loss: Loss, scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    found = np.zeros_like(scores)
    for k in range(scores.shape[1]):
        step = np.zeros_like(scores)
        step[:, k] = 1e-6
        found[:, k] = (loss.value(scores + step, y) - loss.value(scores - step, y)) / 2e-6
    return found


@pytest.mark.parametrize(("loss", "k"), [(SQUARED, 1), (LOGISTIC, 1), (SOFTMAX, 4)])
def test_slopes_and_curvatures_of_the_losses(loss, k):
    scores = STREAM.normal(size=(50, k)) * 3
    y = STREAM.normal(size=50) if loss is SQUARED else STREAM.integers(max(k, 2), size=50).astype(float)
    slopes = loss.slope(scores, y)
    np.testing.assert_allclose(slopes, slope_by_differences(loss, scores, y), atol=1e-7)
    other = scores + STREAM.normal(size=scores.shape)
    turned = np.linalg.norm(loss.slope(other, y) - slopes, axis=1)
    assert (turned <= loss.curvature * np.linalg.norm(other - scores, axis=1) + 1e-12).all()


def test_two_classes_of_the_softmax_are_the_logistic_loss():
    score, y = STREAM.normal(size=20), STREAM.integers(2, size=20).astype(float)
    both = np.column_stack([np.zeros(20), score])
    np.testing.assert_allclose(LOGISTIC.value(score[:, None], y), SOFTMAX.value(both, y), atol=1e-12)


@pytest.mark.parametrize("method", [Prospect(), Prospect(divergence="kl", risk="extremile:2")], ids=str)
@pytest.mark.parametrize("table", [NUMBERS, CLASSES], ids=["numbers", "classes"])
def test_the_gradient_is_by_the_envelope_theorem(method, table):
    if table is CLASSES:
        method = type(method)(**{**vars(method), "loss": "logistic"})
    problem = method.problem(table)
    W = STREAM.normal(size=problem.start().shape)
    point = problem.at(W)
    for place in np.ndindex(W.shape):
        step = np.zeros_like(W)
        step[place] = 1e-6
        slope = (problem.at(W + step).objective - problem.at(W - step).objective) / 2e-6
        assert point.gradient[place] == pytest.approx(slope, abs=1e-6)


def test_a_known_order_changes_nothing():
    risk = Priced(CVaR(0.3), 0.4)
    losses = STREAM.normal(size=30)
    first = weigh(risk, losses)
    again = weigh(risk, losses + 0.01 * STREAM.normal(size=30), first.order)
    fresh = weigh(risk, losses, again.order)
    np.testing.assert_allclose(fresh.q, first.q, atol=1e-15)
    assert fresh.risk == pytest.approx(first.risk, abs=1e-14)


def test_any_set_can_weigh_the_losses():
    losses = STREAM.normal(size=30)
    found = weigh(KL(penalty=0.7), losses)
    tilted = np.exp(losses / 0.7)
    np.testing.assert_allclose(found.q, tilted / tilted.sum(), atol=1e-12)
    assert found.risk == pytest.approx(0.7 * np.log(tilted.mean()))


def least(problem) -> float:
    solver = SOLVERS["lbfgs"]
    state = solver.start(problem)
    for _ in range(100):
        state = solver.epoch(problem, state, np.arange(0), 0.0, 0)
    return problem.at(state["W"]).objective


@pytest.mark.parametrize("name", ["prospect", "lsvrg", "saddle-saga"])
@pytest.mark.parametrize("table", [NUMBERS, CLASSES], ids=["numbers", "classes"])
def test_solvers_without_bias_find_the_minimum(name, table):
    method = Prospect(loss="squared" if table is NUMBERS else "logistic", l2=4.0)
    problem, solver = method.problem(table), SOLVERS[name]
    state, stream = solver.start(problem), np.random.default_rng(1)
    gap = problem.at(state["W"]).objective - (bottom := least(problem))
    for _ in range(60):
        state = solver.epoch(problem, state, stream.integers(40, size=40), problem.step_size(), 0)
    assert -1e-12 < problem.at(state["W"]).objective - bottom < 1e-4 * gap


@pytest.mark.parametrize("name", ["sgd", "srda"])
def test_batches_stall_above_it(name):
    """The worst case of a batch is not that of all samples, whatever the step size."""
    problem, solver = Prospect(risk="cvar:0.2", shift_cost=0.1).problem(NUMBERS), SOLVERS[name]
    bottom, gaps = least(problem), []
    for size in (0.003, 0.01, 0.03):
        state, stream = solver.start(problem), np.random.default_rng(1)
        for _ in range(150):
            state = solver.epoch(problem, state, stream.permutation(40), size, 5)
        gaps.append(problem.at(state["W"]).objective - bottom)
    assert min(gaps) > 1e-3


def test_a_batch_of_all_samples_has_no_bias():
    problem = Prospect().problem(NUMBERS)
    state, solver = SOLVERS["sgd"].start(problem), SOLVERS["sgd"]
    for _ in range(400):
        state = solver.epoch(problem, state, np.arange(40), 0.1, 40)
    assert problem.at(state["W"]).objective - least(problem) < 1e-10


def test_epochs_are_pure():
    problem = Prospect().problem(NUMBERS)
    for solver in SOLVERS.values():
        state = solver.epoch(problem, solver.start(problem), np.arange(40), 0.01, 8)
        before = {name: x.copy() for name, x in state.items()}
        once, twice = (solver.epoch(problem, state, np.arange(40)[::-1], 0.01, 8) for _ in range(2))
        for name, x in before.items():
            assert (state[name] == x).all() and (once[name] == twice[name]).all()

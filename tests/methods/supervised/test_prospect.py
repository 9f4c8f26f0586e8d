"""Prospect: the paper's numbers, the state that its tables keep, and the methods that it becomes."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from surefoot.ambiguity import CVaR, Priced
from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.loops.finite_sum import solvers
from surefoot.loops.finite_sum.learner import FiniteSumLearner
from surefoot.loops.finite_sum.problem import weigh
from surefoot.methods.supervised.prospect import METHOD, Prospect

STREAM = np.random.default_rng(2)
X = STREAM.normal(size=(25, 3))
TABLE = Table(X, X @ [1.0, -1.0, 2.0] + STREAM.standard_t(3, size=25))
RNG = np.random.default_rng


def walked(problem, epochs: int, step: float, seed: int = 0) -> solvers.State:
    state, stream = solvers.tables(problem), RNG(seed)
    for _ in range(epochs):
        state = solvers.prospect(problem, state, stream.integers(25, size=25), step, 0)
    return state


def test_the_first_step_is_the_whole_gradient_whichever_sample_is_drawn():
    problem = Prospect().problem(TABLE)
    start = solvers.tables(problem)
    expected = problem.prox(-0.1 * (problem.at(start["W"]).gradient), 0.1)
    for i in (0, 7, 24):
        after = solvers.prospect(problem, start, np.array([i]), 0.1, 0)
        np.testing.assert_allclose(after["W"], expected, atol=1e-14)


def test_the_only_bias_is_that_of_the_table_of_losses():
    """E v = Σ q_i ∇ℓ_i(w) for the q of the table, from any state of the other tables."""
    problem = Prospect(l2=0.0).problem(TABLE)
    state, step = walked(problem, 1, 0.02), 1e-3
    moves = [solvers.prospect(problem, state, np.array([i]), step, 0)["W"] - state["W"] for i in range(25)]
    q = weigh(problem.ambiguity, state["losses"]).q
    _, slopes = problem.some(state["W"])
    np.testing.assert_allclose(np.mean(moves, 0), -step * problem.X.T @ (q[:, None] * slopes), atol=1e-14)


def test_what_a_step_writes_into_the_tables():
    problem = Prospect().problem(TABLE)
    state = walked(problem, 1, 0.02)
    after = solvers.prospect(problem, state, np.array([4]), 0.02, 0)
    value, slope = problem.some(state["W"], np.array([4]))
    old = weigh(problem.ambiguity, state["losses"]).q[4]
    assert after["losses"][4] == value[0] and after["rho"][4] == old and after["slopes"][4] == slope[0]
    for name in ("losses", "rho", "slopes"):
        assert (np.delete(after[name], 4, 0) == np.delete(state[name], 4, 0)).all()


def test_at_the_minimum_with_fresh_tables_no_sample_moves_it():
    problem, solver = Prospect().problem(TABLE), solvers.SOLVERS["lbfgs"]
    state = solver.start(problem)
    for _ in range(60):
        state = solver.epoch(problem, state, np.arange(0), 0.0, 0)
    losses, slopes = problem.some(W := state["W"])
    tables = {"W": W, "losses": losses, "rho": weigh(problem.ambiguity, losses).q, "slopes": slopes}
    for i in range(25):
        after = solvers.prospect(problem, tables, np.array([i]), 0.1, 0)["W"]
        np.testing.assert_allclose(after, W, atol=1e-8)


def test_it_converges_linearly():
    problem = Prospect().problem(TABLE)
    step = 2 * problem.step_size()
    bottom = problem.at(walked(problem, 200, step)["W"]).objective
    gaps = [problem.at(walked(problem, epochs, step)["W"]).objective - bottom for epochs in (10, 20, 40, 80)]
    assert gaps[1] < 0.3 * gaps[0] and gaps[2] < 0.1 * gaps[1] and gaps[3] < 1e-2 * gaps[2] and gaps[3] < 1e-6


def test_the_mean_as_risk_makes_it_saga():
    """With σ = 1/n all weights stay 1/n: v = ∇ℓ_i − g_i + mean g."""
    problem = Prospect(risk="cvar:1").problem(TABLE)
    found = walked(problem, 2, 0.05)
    W, stream = problem.start(), RNG(0)
    table = X_gradients(problem, W)
    for i in stream.integers(25, size=25).tolist() + stream.integers(25, size=25).tolist():
        fresh = X_gradients(problem, W)[i]
        v = fresh - table[i] + table.mean(0)
        W = problem.prox(W - 0.05 * v[:, None], 0.05)
        table[i] = fresh
    np.testing.assert_allclose(found["W"], W, atol=1e-12)


def X_gradients(problem, W: np.ndarray) -> np.ndarray:  # noqa: N802
    return problem.X * problem.some(W)[1]


def test_a_step_of_the_saddle_method_is_the_proximal_point_of_the_weights():
    """q⁺ maximises q·g − (νn/2)‖q − 1/n‖² − ‖q − q_old‖²/(2η_d), whose optimality is checked against nearby q."""
    problem, n, step = Prospect(shift_cost=0.5).problem(TABLE), 25, 0.01
    state = solvers.saddle_tables(problem)
    state = solvers.saddle_saga(problem, state, RNG(0).integers(n, size=n), step, 0)
    after = solvers.saddle_saga(problem, state, np.array([3]), step, 0)
    value, _ = problem.some(state["W"], np.array([3]))
    estimate = state["losses"].copy()
    estimate[3] += n * (value[0] - estimate[3])

    def gained(q: np.ndarray) -> float:
        return q @ estimate - 0.25 * n * np.sum((q - 1 / n) ** 2) - 5 * n / step * np.sum((q - state["q"]) ** 2)

    best = gained(after["q"])
    for _ in range(200):
        other = weigh(Priced(CVaR(0.5), 0.0), RNG(_).normal(size=n)).q  # a vertex of the hull
        assert gained(after["q"] + 1e-3 * (other - after["q"])) <= best + 1e-12


def test_a_shift_cost_of_zero_is_the_risk_itself():
    problem = Prospect(shift_cost=0.0, l2=0.0).problem(TABLE)
    point = problem.at(W := STREAM.normal(size=(4, 1)))
    losses = np.sort(problem.some(W)[0])[::-1]
    assert point.objective == pytest.approx((losses[:12].sum() + 0.5 * losses[12]) / 12.5)


def test_with_kinks_auto_comes_closer_than_the_tables():
    """The minimum of CVaR ½ by a linear program of the tail."""
    least = []
    for solver in ("auto", "prospect"):
        learner = FiniteSumLearner(Prospect(shift_cost=0.0, l2=0.0, solver=solver), TABLE, [0])
        least.append([learner.iterate() for _ in range(40)][-1][0]["objective"])
    w, level = cp.Variable(4), cp.Variable()
    losses = 0.5 * cp.square(TABLE.y - np.hstack([X, np.ones((25, 1))]) @ w)
    program = cp.Problem(cp.Minimize(level + cp.sum(cp.pos(losses - level)) / 12.5))
    program.solve(solver=cp.CLARABEL)
    assert least[0] == pytest.approx(program.value, rel=1e-5) and least[1] > least[0]
    assert Prospect().chosen_solver() == "lbfgs"


def test_a_high_shift_cost_is_the_mean_and_a_lower_one_serves_the_tail():
    def tail(nu: float) -> float:
        learner = FiniteSumLearner(Prospect(risk="cvar:0.2", shift_cost=nu), TABLE, [0])
        for _ in range(40):
            learner.iterate()
        return risk(learner)

    def risk(learner: FiniteSumLearner) -> float:
        return weigh(CVaR(0.2), learner.problem.at(learner.states[0]["W"]).losses).risk

    plain = FiniteSumLearner(Prospect(risk="cvar:1"), TABLE, [0])
    for _ in range(40):
        plain.iterate()
    assert tail(1e6) == pytest.approx(risk(plain), rel=1e-4)
    assert tail(0.01) < tail(1.0) < tail(1e6)


def test_objective_and_steps_say_what_runs():
    page = str(Prospect(shift_cost=2.0, risk="cvar:0.1", loss="logistic").objective())
    assert "(2·n/2)·‖q − 1/n‖²" in page and "CVaR_0.1" in page and "log(1 + exp" in page
    assert "Σ q_i log(n·q_i)" in Prospect(divergence="kl").objective()
    assert Prospect(solver="prospect").steps()[0].startswith("prospect: for each of n samples")
    assert METHOD is Prospect and METHOD.presets["paper"]["fit_intercept"] is False


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"risk": "var:0.1"}, "give a coherent spectral risk"),
        ({"risk": "cvarr:0.1"}, "Did you mean 'cvar'"),
        ({"risk": "kl:0.1"}, "give a coherent spectral risk"),
        ({"shift_cost": -1.0}, "shift_cost=-1.0 is not allowed"),
        ({"divergence": "tv"}, "divergence='tv' is not allowed"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 is not allowed"),
    ],
)
def test_bad_input(values, words):
    with pytest.raises(UsageError, match=words):
        Prospect(**values)


def test_the_saddle_method_needs_its_price():
    with pytest.raises(UsageError, match="solver='saddle-saga' is not allowed here"):
        FiniteSumLearner(Prospect(solver="saddle-saga", divergence="kl"), TABLE, [0])

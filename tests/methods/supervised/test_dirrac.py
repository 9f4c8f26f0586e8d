"""DiRRAc: the paper's numbers, projections against a cone solver, descent, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch.autograd import gradcheck

import surefoot as sf
from surefoot import api
from surefoot.ambiguity.gelbrich import half_space, worst_probability
from surefoot.errors import UsageError
from surefoot.methods.supervised.dirrac import METHOD, DiRRAc
from surefoot.methods.supervised.dirrac.models import Moments
from surefoot.methods.supervised.dirrac.projection import NORMS
from surefoot.models.linear_model import LinearModel

ROW, MEAN = torch.tensor([[1.0, 1.0]]).double(), torch.tensor([[1.0, 2.0]]).double()
COVARIANCE = torch.tensor([[[0.5, 0.0], [0.0, 0.25]]]).double()
STREAM = np.random.default_rng(3)
THETA = np.array([1.0, -2.0, 0.5, -0.3])
MODELS = np.vstack([THETA + 0.2 * STREAM.normal(size=(40, 4)), THETA + 0.3 * STREAM.normal(size=(20, 4))])
GROUPS = ["calm"] * 40 + ["wild"] * 20
X = STREAM.normal(size=(60, 3))
X = X[X @ THETA[:3] + THETA[3] < 0][:8]


def closed(rho: float, normal: bool = False, x: torch.Tensor = ROW, covariance: torch.Tensor = COVARIANCE) -> float:
    return float(half_space(x, MEAN, covariance, rho, normal=normal))


# --- the closed form ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rho", "value", "normal"),
    [(0.0, 0.0769231, 0.000266003), (0.3, 0.164285, 0.0120530), (1.0, 0.465691, 0.142053), (2.0, 0.975724, 0.437333)],
)
def test_the_papers_closed_forms(rho, value, normal):
    assert closed(rho) == pytest.approx(value, rel=1e-5) and closed(rho, normal=True) == pytest.approx(normal, rel=1e-5)
    turn = torch.linspace(0, 2 * torch.pi, 2_000_001, dtype=torch.float64)
    radius = rho * math.sqrt(2)
    m, s = 3 + radius * turn.cos(), (math.sqrt(0.75) + radius * turn.sin()).clamp_min(0)
    assert float((s**2 / (s**2 + m**2)).max()) == pytest.approx(closed(rho), abs=1e-10)
    assert float(torch.special.ndtr(-(m / s)).max()) == pytest.approx(closed(rho, normal=True), abs=1e-10)


def test_where_the_mean_can_be_negative_the_value_is_one_and_before_it_comes_near():
    assert closed(2.13) == closed(2.13, normal=True) == 1
    edge = 3 / math.sqrt(2) * (1 - 1e-9)
    assert closed(edge) == pytest.approx(1, abs=1e-3) and closed(edge, normal=True) == pytest.approx(0.5, abs=1e-3)
    reversed_ = torch.autograd.functional.jacobian(lambda x: half_space(x, MEAN, COVARIANCE, 0.1).sum(), -ROW)
    assert (reversed_ == 0).all() and closed(0.1, x=-ROW) == 1


def test_scale_order_and_the_limit_of_no_variance():
    assert closed(0.3, x=7 * ROW) == pytest.approx(closed(0.3))
    values = [[closed(rho, normal) for rho in np.linspace(0, 2.1, 30)] for normal in (False, True)]
    assert (np.diff(values) >= 0).all() and (np.array(values[0]) >= values[1]).all()
    assert closed(0.5, covariance=0 * COVARIANCE) == pytest.approx((0.5 * math.sqrt(2) / 3) ** 2)
    assert closed(0.0, covariance=0 * COVARIANCE) == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("normal", [False, True])
def test_gradients(normal):
    covariances, means = torch.cat([COVARIANCE, 2 * COVARIANCE]), torch.cat([MEAN, MEAN.flip(-1)])
    x = torch.tensor([[1.0, 1.0], [0.5, 2.0]]).double().requires_grad_()
    assert gradcheck(lambda x: half_space(x, means, covariances, 0.3, normal=normal), (x,))
    still = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s: worst_probability(s + 1, s + 0.5, s + 0.2, normal=normal), (still,))


# --- shares of the groups ----------------------------------------------------------------------------------------


def mixed(monkeypatch, shares: str | None, k: int = 3) -> float:
    """The value of f = (.1, .3, .6) with shares (.5, .3, .2)."""
    f, p = torch.tensor([[0.1, 0.3, 0.6]]).double()[:, :k], torch.tensor([0.5, 0.3, 0.2]).double()[:k]
    monkeypatch.setattr("surefoot.methods.supervised.dirrac.half_space", lambda *_, **__: f)
    known = Moments(MEAN.expand(k, 2), COVARIANCE.expand(k, 2, 2), p / p.sum(), ("a",))
    return float(DiRRAc(shares=shares).probability(torch.ones(1, 1).double(), known))


@pytest.mark.parametrize(
    ("shares", "value"),
    [
        (None, 0.26),
        ("chi-square:0.1", 0.320332),
        ("kl:0.02", 0.299121),
        ("chi-square:0", 0.26),
        ("kl:1000", 0.6),
        ("contamination:1", 0.6),
    ],
)
def test_uncertain_shares(monkeypatch, shares, value):
    assert mixed(monkeypatch, shares) == pytest.approx(value, abs=1e-6)
    assert mixed(monkeypatch, shares, k=1) == pytest.approx(0.1)  # of one group all are the same


# --- projections and descent -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cost", "radius"), [("l1", 0.1), ("l2", 0.1), ("l1", 0.0)])
def test_least_moves_and_projections_are_those_of_a_cone_solver(cost, radius):
    method = DiRRAc(radius=radius, cost=cost, immutable=("x1",), increasing=("x0",), limits=(-3, 3))
    fitted = method.fit(MODELS, GROUPS)
    start = torch.as_tensor(X)
    result, accepted = fitted.recourse(X), fitted.accepted
    low, high = X.copy(), np.full_like(X, 3.0)
    low[:, 2], high[:, 1] = -3, X[:, 1]
    wanted = start + torch.as_tensor(STREAM.normal(size=X.shape))
    least = torch.nan_to_num(torch.as_tensor(result.least_cost), 1.0)
    near = accepted.project(wanted, start, torch.as_tensor(low), torch.as_tensor(high), least + 0.3).numpy()
    assert result.found.any()
    for i in range(3):
        x = cp.Variable(3)
        whole = cp.hstack([x, 1])
        limits = [low[i] <= x, x <= high[i]]
        limits += [m.numpy() @ whole - radius * cp.norm(whole, 2) >= method.margin for m in accepted.means]
        price = cp.norm(x - X[i], NORMS[cost])
        cheapest: Any = cp.Problem(cp.Minimize(price), limits).solve(solver="CLARABEL")
        assert np.isfinite(cheapest) == result.found[i]
        if result.found[i]:
            assert result.least_cost[i] == pytest.approx(cheapest, abs=1e-4)
            far = cp.sum_squares(x - wanted[i].numpy())
            cp.Problem(cp.Minimize(far), [*limits, price <= float(least[i]) + 0.3]).solve(solver="CLARABEL")
            np.testing.assert_allclose(near[i], np.asarray(x.value), atol=1e-3)


def test_a_recourse_keeps_its_promises():
    method = DiRRAc(radius=0.05, budget=0.4, immutable=["x1"], increasing=("x0",))  # type: ignore[arg-type]
    assert method.immutable == ("x1",)
    fitted = method.fit(MODELS, GROUPS)
    rows, probability, cost, least, found = fitted.recourse(X)
    assert found.all() and (cost <= least + 0.4 + 1e-5).all()
    assert (rows[:, 1] == X[:, 1]).all() and (rows[:, 0] >= X[:, 0]).all()
    assert float(fitted.accepted.margins(torch.as_tensor(rows)).min()) >= method.margin - 1e-5
    assert probability == pytest.approx(fitted.probability(rows))
    values = [DiRRAc(**{**vars(method), "iterations": n}).fit(MODELS, GROUPS).recourse(X)[1] for n in (0, 1, 2)]
    assert (np.diff(values, axis=0) <= 1e-9).all() and values[2].mean() < values[0].mean() - 0.05


def test_a_row_does_not_depend_on_those_beside_it_and_more_budget_helps():
    fitted = DiRRAc(budget=0.5).fit(MODELS)
    together, alone = fitted.recourse(X), fitted.recourse(X[3:4])
    np.testing.assert_allclose(together.rows[3:4], alone.rows, atol=1e-4)
    assert (fitted.recourse(X).probability <= DiRRAc(budget=0.1).fit(MODELS).recourse(X).probability + 1e-6).all()


def test_rows_without_recourse_are_told_apart():
    fitted = DiRRAc(immutable=("x0", "x1", "x2")).fit(MODELS)
    rows = np.vstack([X[:2], [[5.0, -5.0, 0.0]]])
    result = fitted.recourse(rows)
    assert result.found.tolist() == [False, False, True] and np.isnan(result.rows[:2]).all()
    assert np.isnan(result.probability[:2]).all() and (result.rows[2] == rows[2]).all() and result.cost[2] == 0
    assert not DiRRAc(radius=50.0).fit(MODELS).recourse(X).found.any()


# --- models, names and mistakes ----------------------------------------------------------------------------------


def test_models_of_scikit_learn_own_ones_and_arrays_are_the_same():
    y = (X[:, 0] > np.median(X[:, 0])).astype(int)
    theirs = [LogisticRegression(C=c).fit(X, y) for c in (0.5, 1.0, 2.0)]
    own = [LinearModel(m.coef_, m.intercept_, "logistic", m.classes_) for m in theirs]
    plain = np.array([np.append(m.coef_[0], m.intercept_) for m in theirs])
    one, two, three = (DiRRAc().fit(models).recourse(X).rows for models in (theirs, own, plain))
    assert (one == two).all() and (one == three).all()
    known = DiRRAc().fit(plain, features=["age", "income", "debt"]).known
    np.testing.assert_allclose(known.covariances[0], np.cov(plain.T))
    assert known.features == ("age", "income", "debt")
    prior = DiRRAc(variance=0.1).fit(theirs[:1]).known
    assert torch.equal(prior.covariances[0], 0.1 * torch.eye(4, dtype=torch.float64)) and sf.supervised.DiRRAc is METHOD


@pytest.mark.parametrize(
    ("options", "models", "rows", "words"),
    [
        ({"immutable": ("x9",)}, MODELS, X, "feature 'x9' is unknown"),
        ({}, MODELS[:1], X, "variance=0 is not allowed with one model"),
        ({}, MODELS[:1], X, "with one model: it has no covariance"),
        ({}, [], X, "models is empty"),
        ({}, MODELS, csr_array(X), r"X is sparse.*X.toarray\(\)"),
        ({}, [object()], X, r"models\[0\] \(object\) has no coefficients"),
        ({}, [LinearModel(np.ones((3, 2)), np.zeros(3))], X, "has 3 scores"),
        (
            {},
            [LinearRegression().fit(X, X[:, 0])],
            X,
            r"models\[0\] \(LinearRegression\) predicts numbers, not classes",
        ),
        ({}, np.full((2, 4), np.nan), X, r"models\[0\] has parameters that are not finite"),
        ({}, MODELS, X[:, :2], "the models have 3 features"),
        ({}, MODELS, X[:0], "X has no rows"),
        ({}, MODELS, np.where(np.arange(24).reshape(8, 3) == 7, np.nan, X), "feature 'x1' is NaN in row 2"),
        ({"limits": (1.0, 0.0)}, MODELS, X, "limits="),
        ({"radius": -1.0}, MODELS, X, "radius=-1.0 is not allowed"),
        ({"shares": "chi-sqare:1"}, MODELS, X, "chi-sqare"),
    ],
)
def test_mistakes(options, models, rows, words):
    with pytest.raises(UsageError, match=words):
        DiRRAc(**options).fit(models).recourse(rows)


def test_a_group_of_one_model_is_named():
    with pytest.raises(UsageError, match="with one model in the group 'wild'"):
        DiRRAc().fit(MODELS[:41], GROUPS[:41])


def test_models_that_are_all_the_same_have_no_variance():
    """Without a radius either, what the model accepts is accepted for sure."""
    same = np.tile(MODELS[:1], (5, 1))
    assert (DiRRAc(radius=0.0).fit(same).recourse(X).probability < 1e-12).all()
    worst = DiRRAc(radius=0.1).fit(same).recourse(X).probability
    assert (worst > 0).all() and (worst < 1).all()


def test_a_run_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(UsageError, match=r"DiRRAc is not trained.*fit\(models\).recourse\(X\)"):
        api.train("dirrac", "sklearn:diabetes", run_dir=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    assert "contamination:1" in sf.explain("dirrac") and "Φ" in sf.explain("dirrac", normal=True)

"""DRRho: the paper's numbers for every set, references of every kind, and the methods that it becomes."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

import surefoot as sf
from surefoot.ambiguity import KL, ChiSquare, CVaR, worst_case
from surefoot.ambiguity.conventions import radius_of_samples
from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.loops.finite_sum.learner import FiniteSumLearner
from surefoot.loops.finite_sum.reference import Predictor, as_reference, reference_losses
from surefoot.methods.supervised.drrho import METHOD, DRRho
from surefoot.methods.supervised.prospect import Prospect
from surefoot.models.linear_model import LinearModel
from surefoot.supervised import DRRho as Estimator

EXCESS = np.array([0.1, -0.2, 0.4, 0.0])
STREAM = np.random.default_rng(1)
X = STREAM.normal(size=(40, 3))
TABLE = Table(X, X @ [1.0, -1.0, 2.0] + STREAM.standard_t(3, size=40))
CLASSES = Table(X, np.where(X[:, 0] + STREAM.normal(size=40) > 0, "yes", "no"))
MODEL = LinearModel(np.array([[1.0, -1.0, 2.0]]), np.zeros(1))


@pytest.mark.parametrize(
    ("rho", "value", "weights"),
    [
        (0.1, 0.123412, (0.256455, 0.178995, 0.333915, 0.230635)),
        (0.5, 0.183253, None),
        (2.0, 0.286852, (0.240883, 0, 0.656908, 0.102208)),
    ],
)
def test_the_ball_of_the_paper(rho, value, weights):
    found = worst_case(EXCESS, None, DRRho(rho=rho).ambiguity_of(4), maximise=True)
    assert found.value == pytest.approx(value, abs=1e-6)
    if weights is not None:
        np.testing.assert_allclose(found.weights, weights, atol=1e-6)
    if rho < 2:  # while no weight is zero
        assert found.value == pytest.approx(EXCESS.mean() + np.sqrt(2 * rho * EXCESS.var() / 4), abs=1e-9)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("kl-penalty:10", 0.0773491),
        ("kl-penalty:1", 0.0988780),
        ("kl-penalty:0.1", 0.268191),
        ("kl-penalty:0.01", 0.386137),
        ("kl:0.2", 0.213702),
        ("cvar:0.5", 0.25),
    ],
)
def test_the_other_sets_of_the_paper(text, value):
    found = worst_case(EXCESS, None, DRRho(ambiguity=text).ambiguity_of(4), maximise=True)
    assert found.value == pytest.approx(value, abs=1e-6)
    if text == "kl-penalty:1":
        np.testing.assert_allclose(found.weights, [0.250281, 0.185412, 0.337844, 0.226463], atol=1e-6)


def test_at_the_reference_the_excess_is_zero_and_its_gradient_the_mean():
    for text in ("kl-penalty:1", None):
        problem = DRRho(reference=MODEL, ambiguity=text, fit_intercept=False, l2=0.0).problem(TABLE)
        point = problem.at(MODEL.coef.T.copy())
        assert point.objective == pytest.approx(0, abs=1e-12) and point.q == pytest.approx(np.full(40, 1 / 40))
        np.testing.assert_allclose(point.gradient[:, 0], X.T @ (X @ MODEL.coef[0] - TABLE.y) / 40, atol=1e-12)


def test_the_gradient_with_a_reference_is_by_the_envelope_theorem():
    for text in ("kl-penalty:0.5", None, "kl:0.3"):
        problem = DRRho(reference=MODEL, ambiguity=text).problem(TABLE)
        W = STREAM.normal(size=(4, 1))
        for place in range(4):
            step = np.zeros((4, 1))
            step[place] = 1e-5
            slope = (problem.at(W + step).objective - problem.at(W - step).objective) / 2e-5
            assert problem.at(W).gradient[place, 0] == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_the_loss_of_every_sample_is_less_that_of_the_reference():
    problem = DRRho(reference=MODEL).problem(TABLE)
    losses, _ = problem.some(problem.start(), np.array([3, 5]))
    plain, _ = DRRho().problem(TABLE).some(problem.start(), np.array([3, 5]))
    np.testing.assert_allclose(plain - losses, MODEL.losses(TABLE)[[3, 5]])


def fitted(method, table: Table = TABLE, epochs: int = 60) -> FiniteSumLearner:
    learner = FiniteSumLearner(method, table, [0])
    for _ in range(epochs):
        learner.iterate()
    return learner


def test_a_constant_reference_is_ordinary_dro():
    """A target and prediction that differ by the same in every row."""
    constant = Predictor(type("Off", (), {"predict": lambda self, X: TABLE.y - 0.8})())
    with_it, without = fitted(DRRho(reference=constant)), fitted(DRRho())
    assert with_it.results()["objective"] == pytest.approx(without.results()["objective"] - 0.32)
    np.testing.assert_allclose(with_it.agent().coef, without.agent().coef, atol=1e-5)


def test_minima_with_a_reference_are_those_of_a_cone_solver():
    """Through the dual problems, in which no weight appears."""
    excess = 0.5 * cp.square(TABLE.y - np.hstack([X, np.ones((40, 1))]) @ (w := cp.Variable(4))) - MODEL.losses(TABLE)
    level, price, tau = cp.Variable(), cp.Variable(nonneg=True), 0.5
    above = cp.sum([cp.quad_over_lin(cp.pos(x - level + price), price) for x in excess]) / 80
    duals = {
        "chi2:0.2": level - price / 2 + 0.1 * price + above,
        f"kl-penalty:{tau}": tau * (cp.log_sum_exp(excess / tau) - np.log(40)),
        "cvar:0.3": level + cp.sum(cp.pos(excess - level)) / (0.3 * 40),
    }
    for text, dual in duals.items():
        least = cp.Problem(cp.Minimize(dual)).solve(solver="CLARABEL")
        learner = fitted(DRRho(reference=MODEL, ambiguity=text, l2=0.0), epochs=150)
        assert learner.results()["objective"] == pytest.approx(least, abs=2e-6), text
        np.testing.assert_allclose(np.append(learner.agent().coef[0], learner.agent().intercept), w.value, atol=2e-3)


def test_a_radius_of_zero_is_the_mean():
    mean = fitted(Prospect(risk="cvar:1")).agent().coef
    for reference in (None, MODEL):
        np.testing.assert_allclose(fitted(DRRho(reference=reference, rho=0.0)).agent().coef, mean, atol=1e-6)


def test_the_objective_is_at_least_the_mean_excess():
    for method in (DRRho(reference=MODEL), DRRho(reference=MODEL, ambiguity="kl-penalty:2", rho=3.0)):
        problem = method.problem(TABLE)
        point = problem.at(STREAM.normal(size=(4, 1)) * (problem.mu > 0))
        penalty = point.objective - float(point.q @ point.losses)
        assert point.q @ point.losses >= point.losses.mean() - 1e-12 and np.isfinite(penalty)


def test_outliers_that_the_reference_does_not_explain_either_count_less():
    y = TABLE.y.copy()
    y[:4] += 30
    noisy = Table(X, y)
    without, with_it = (fitted(DRRho(reference=r, ambiguity="kl-penalty:2"), noisy) for r in (None, MODEL))
    heaviest = [one.results()["weights"][:4].max() for one in (without, with_it)]
    assert heaviest[1] < 0.3 * heaviest[0]
    errors = [np.linalg.norm(one.agent().coef - MODEL.coef) for one in (without, with_it)]
    assert errors[1] < 0.5 * errors[0]


def test_a_run_takes_the_folder_of_another_and_is_resumed(tmp_path):
    first = sf.train("prospect", data=TABLE, steps=3, run_dir=tmp_path / "first", loggers=())
    options = {"data": TABLE, "steps": 4, "loggers": (), "reference": first}
    whole = sf.train("drrho", run_dir=tmp_path / "whole", **options)
    assert whole.config["hyperparameters"]["reference"] == str(first.path)
    cut = sf.train("drrho", run_dir=tmp_path / "cut", callbacks=lambda learner, _: learner.iteration == 2, **options)
    sf.resume(cut, data=TABLE)
    assert (cut.agent().coef == whole.agent().coef).all()
    by_model = sf.train("drrho", run_dir=tmp_path / "model", **{**options, "reference": first.agent()})
    assert (by_model.agent().coef == whole.agent().coef).all()
    again, _ = sf.api.make_method("drrho", **by_model.config["hyperparameters"])
    assert (again.reference.coef == first.agent().coef).all()


def test_references_of_other_libraries():
    forest = RandomForestRegressor(5, random_state=0).fit(X, TABLE.y)
    found = reference_losses(as_reference(forest), TABLE, "squared", None)
    np.testing.assert_allclose(found, 0.5 * (forest.predict(X) - TABLE.y) ** 2)
    labels = np.unique(CLASSES.y)
    for model in (LogisticRegression(), RandomForestClassifier(20, random_state=0)):
        model.fit(X, CLASSES.y)
        chances = model.predict_proba(X)[np.arange(40), (CLASSES.y == "yes").astype(int)]
        losses = reference_losses(as_reference(model), CLASSES, "logistic", labels)
        np.testing.assert_allclose(losses, -np.log(np.maximum(chances, 1e-300)))
    model = Estimator(reference=forest).fit(X, TABLE.y)
    assert model.weights_.sum() == pytest.approx(1)
    assert as_reference(model) is model.model_


def test_in_a_search_a_frozen_reference_keeps_its_fit():
    forest = RandomForestRegressor(5, random_state=0).fit(X, TABLE.y)
    grid = {"rho": [0.1, 1.0]}
    found = GridSearchCV(Estimator(reference=FrozenEstimator(forest), max_iter=5), grid, cv=2).fit(X, TABLE.y)
    assert found.best_params_["rho"] in grid["rho"]
    with pytest.raises(ValueError, match="FrozenEstimator"):
        GridSearchCV(Estimator(reference=forest, max_iter=5), grid, cv=2, error_score="raise").fit(X, TABLE.y)


def test_words_and_conventions():
    assert METHOD is DRRho and DRRho(rho=2.0).ambiguity_of(8) == ChiSquare(radius_of_samples(2.0, 8)) == ChiSquare(0.5)
    assert DRRho(ambiguity=KL(penalty=2.0)).ambiguity_of(8) == KL(penalty=2.0)
    assert "≤ 1/n" in DRRho().objective() and "ℓ_i(reference)" not in DRRho().objective()
    assert "ℓ_i(reference)" in DRRho(reference=MODEL, ambiguity="cvar:0.1").objective()
    assert DRRho(reference=MODEL).steps()[0].startswith("the losses of the reference")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rho": -1.0}, "rho=-1.0 is not allowed"),
        ({"ambiguity": "kll:1"}, "ambiguity set 'kll' is unknown"),
        ({"reference": 3}, "reference=3 is not allowed; give a fitted model"),
        ({"reference": {"coef": [1]}}, "is not a linear model"),
        ({"ambiguity": CVaR(0.1), "reference": "nowhere"}, "nowhere is not the folder of a run"),
        ({"reference": LinearModel(np.zeros((1, 2)), np.zeros(1))}, "trained on 2 features"),
        ({"reference": RandomForestRegressor()}, "Fit it first"),
        (
            {"reference": LinearModel(np.zeros((1, 3)), np.zeros(1), "logistic", np.array(["a", "b"]))},
            "Train it on the same targets",
        ),
    ],
)
def test_bad_input(values, words):
    with pytest.raises(UsageError, match=words):
        FiniteSumLearner(DRRho(**values), TABLE, [0])


@pytest.mark.parametrize(
    ("answer", "words"),
    [(np.full(40, np.nan), "not finite for row 0"), (np.zeros(3), r"predicts \[3\] for 40 rows; it must be \[40\]")],
)
def test_a_reference_that_answers_wrongly_is_refused(answer, words):
    broken = type("Broken", (), {"predict": lambda self, X: answer})()
    with pytest.raises(UsageError, match=words):
        FiniteSumLearner(DRRho(reference=broken), TABLE, [0])


def test_a_run_refuses_a_reference_that_it_cannot_record(tmp_path):
    forest = RandomForestRegressor(2).fit(X, TABLE.y)
    with pytest.raises(UsageError, match="for a run, which records it"):
        sf.train("drrho", data=TABLE, steps=1, reference=forest, run_dir=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_ball_agrees_with_its_definition():
    q = worst_case(torch.tensor(EXCESS), None, DRRho(rho=0.5).ambiguity_of(4), maximise=True).weights
    assert float(((4 * q - 1) ** 2).sum() / 8) == pytest.approx(0.5 / 4)

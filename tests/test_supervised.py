"""Methods on tables as estimators of scikit-learn."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import surefoot.supervised as room
from surefoot.errors import UsageError
from surefoot.models.linear_model import LinearModel

STREAM = np.random.default_rng(0)
X = STREAM.normal(size=(60, 3))
Y = X @ [1.0, -1.0, 0.3] + STREAM.normal(size=60)
CLASSES = np.where(Y > 0, "good", "bad")


def small(name: str, **changes):
    """An estimator that is quick where it trains a network."""
    made = getattr(room, name)
    sizes = {} if made.loop == "finite-sum" else {"max_iter": 10, "batch_size": 64, "ascent_steps": 1}
    return made(**changes, **{k: v for k, v in sizes.items() if k in made().get_params()})


def shrinks(name: str) -> str:
    """The parameter of an estimator that is the price of its weights."""
    return "l2" if "l2" in getattr(room, name)().get_params() else "weight_decay"


def losses(name: str) -> tuple[str, ...]:
    """The losses that an estimator may have."""
    (field,) = (f for f in dataclasses.fields(getattr(room, name).method_class) if f.name == "loss")
    return field.metadata["choices"]


@pytest.mark.parametrize(("name", "loss"), [(name, loss) for name in dir(room) for loss in losses(name)])
def test_scikit_learns_own_checks(name, loss):
    check_estimator(small(name, loss=loss), on_skip=None)


@pytest.mark.parametrize("name", dir(room))
def test_an_estimator_is_found_by_name_pickled_and_cloned(name):
    made = getattr(room, name)
    assert made is getattr(room, name) and made.__module__ == "surefoot.supervised" and made.__name__ == name
    loss = losses(name)[0]
    model = small(name, loss=loss, **{shrinks(name): 0.1}).fit(X, Y if loss == "squared" else CLASSES)
    assert (pickle.loads(pickle.dumps(model)).predict(X) == model.predict(X)).all()
    assert clone(model).get_params() == model.get_params() and shrinks(name) in made.__doc__


@pytest.mark.parametrize("name", dir(room))
def test_in_a_pipeline_and_a_grid_search(name):
    model = make_pipeline(StandardScaler(), getattr(room, name)(loss="logistic", max_iter=5))
    searched = GridSearchCV(model, {f"{name.lower()}__{shrinks(name)}": [0.1, 0.01]}, cv=2).fit(X, CLASSES)
    assert searched.best_score_ > 0.6 and searched.best_estimator_[-1].n_iter_ == 5
    assert set(searched.predict(X)) == {"good", "bad"} and searched.predict_proba(X).sum(1) == pytest.approx(1)


def test_the_loss_says_what_it_estimates():
    numbers, classes = room.Prospect(), room.Prospect(loss="logistic")
    assert is_regressor(numbers) and is_classifier(classes)
    assert not hasattr(numbers, "predict_proba") and hasattr(classes, "predict_proba")
    fitted = numbers.fit(X, Y)
    assert fitted.coef_.shape == (3,) and isinstance(fitted.intercept_, float) and fitted.solver_ == "lbfgs"
    np.testing.assert_allclose(fitted.predict(X), X @ fitted.coef_ + fitted.intercept_)
    three = classes.fit(X, STREAM.integers(3, size=60))
    assert three.coef_.shape == (3, 3) and three.decision_function(X).shape == (60, 3)
    assert classes.fit(X, CLASSES).decision_function(X).shape == (60,) and classes.classes_.tolist() == ["bad", "good"]


def test_the_seed_is_random_state():
    def coef(seed) -> np.ndarray:
        return room.Prospect(solver="prospect", max_iter=2, random_state=seed).fit(X, Y).coef_

    assert (coef(3) == coef(3)).all() and (coef(3) != coef(4)).any()
    assert (coef(np.random.RandomState(1)) == coef(np.random.RandomState(1))).all()
    assert np.isfinite(coef(None)).all()


def test_mistakes_are_told_at_the_fit():
    with pytest.raises(TypeError, match="no parameter 'risc'. Did you mean 'risk'"):
        room.Prospect(risc="cvar:0.1")
    with pytest.raises(UsageError, match="shift_cost=-1"):
        room.Prospect(shift_cost=-1).fit(X, Y)
    with pytest.raises(UsageError, match="feature 'x1' is NaN in row 7"):
        room.Prospect().fit(np.where(np.arange(180).reshape(60, 3) == 22, np.nan, X), Y)
    with pytest.raises(UsageError, match="target 'y' is inf in row 5"):
        room.Prospect().fit(X, np.where(np.arange(60) == 5, np.inf, Y))
    with pytest.raises(UsageError, match=r"feature 'x1' is NaN in row 7 \(2 such entries\)"):
        room.Prospect().fit(X, Y).predict(np.where(np.arange(180).reshape(60, 3) % 100 == 22, np.nan, X))
    for wrong in (0, 2.5, True):
        with pytest.raises(UsageError, match=f"max_iter={wrong} is not allowed"):
            room.Prospect(max_iter=wrong).fit(X, Y)
    with pytest.raises(AttributeError, match="no estimator 'Prospekt'. Did you mean 'Prospect'"):
        room.Prospekt  # noqa: B018


def test_a_model_is_refused_features_that_it_was_not_trained_on():
    with pytest.raises(UsageError, match="trained on 3 features"):
        LinearModel(np.zeros((1, 3)), np.zeros(1)).predict(X[:, :2])


def test_the_estimators_are_made_when_they_are_used():
    code = "import surefoot, sys; assert not {'torch', 'sklearn'} & {*sys.modules}; surefoot.supervised.Prospect"
    code += "; import surefoot.supervised as s; assert 'Prospect' in dir(s)"
    subprocess.run([sys.executable, "-c", code], check=True)

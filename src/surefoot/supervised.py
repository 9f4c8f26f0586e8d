"""Methods on tables as scikit-learn estimators: one class for each, made from the fields of its method.

    from surefoot.supervised import Prospect

    model = make_pipeline(StandardScaler(), Prospect(loss="logistic", risk="cvar:0.1")).fit(X, y)
    model[-1].weights_                                            # who counts, and how much

`fit` runs the loop that `surefoot.train` runs, in memory, and finds the same bits; `random_state` is the seed and
`max_iter` the number of epochs. What is found ends in an underscore. Needs the package scikit-learn.

Methods that answer for single rows, or learn from tables of their own kind, are here as they are:
`DiRRAc().fit(models)`, `Neur2RO().decide(model, problem)`.
"""

from __future__ import annotations

import dataclasses
import inspect
import numbers
from functools import cache
from typing import Any

import numpy as np

from surefoot import catalogue
from surefoot.data.tables import Table, check_finite
from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import build
from surefoot.loops.common.kinds import loop
from surefoot.loops.common.run import make_learner
from surefoot.seeding import MAX_SEED

SETTING = "supervised"
AS_THEY_ARE = "per-instance"  # kind of the methods that need no estimator


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and name in (direct := _direct()):
        return direct[name]
    if name.startswith("_") or name not in (known := _names()):
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        raise AttributeError(f"module {__name__!r} has no estimator {name!r}. {nearest(name, {*known, *direct})}")
    return estimator(catalogue.method_class(known[name]))


def __dir__() -> list[str]:
    return sorted(_names())


@cache
def _names() -> dict[str, str]:
    """The slug of every method that has an estimator, by the name of its class."""
    entries = [one for one in catalogue.papers() if one.setting == SETTING and one.built]
    classes = {one.slug: catalogue.method_class(one.slug) for one in entries}
    return {cls.__name__: slug for slug, cls in classes.items() if _of_tables(cls)}


@cache
def _direct() -> dict[str, type]:
    """The methods that are here as they are, by the name of their class."""
    entries = [one for one in catalogue.papers() if one.setting == SETTING and one.built]
    classes = [catalogue.method_class(one.slug) for one in entries]
    as_they_are = (cls for cls in classes if getattr(cls, "loop") == AS_THEY_ARE or not getattr(cls, "any_table", True))  # noqa: B009
    return {cls.__name__: cls for cls in as_they_are}


def _of_tables(method: Any) -> bool:
    """Whether a method learns from every table of features and targets."""
    return loop(method.loop).env_argument == "data" and getattr(method, "any_table", True)


@cache
def estimator(method: type) -> type:
    """The estimator of a method on tables, whose parameters are the method's fields, `max_iter` and `random_state`."""
    base = _base()
    usual = {field.name: field.default for field in dataclasses.fields(method)}
    usual |= {"max_iter": getattr(method, "default_steps"), "random_state": 0}  # noqa: B009

    def __init__(self: Any, **parameters: Any) -> None:  # noqa: N807
        if unknown := sorted(parameters.keys() - usual.keys()):
            raise TypeError(f"{method.__name__} has no parameter {unknown[0]!r}. {nearest(unknown[0], usual)}")
        for name, default in usual.items():
            setattr(self, name, parameters.get(name, default))

    kind = inspect.Parameter.KEYWORD_ONLY
    told = [inspect.Parameter(name, kind, default=default) for name, default in usual.items()]
    owner = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    __init__.__signature__ = inspect.Signature([owner, *told])  # type: ignore[attr-defined]
    text = {"__doc__": _documented(method), "__module__": __name__, "__qualname__": method.__name__}
    text |= {"loop": getattr(method, "loop")}  # noqa: B009 (which says that it acts in no environment)
    return type(method.__name__, (base,), {**text, "__init__": __init__, "method_class": method})


def _documented(method: type) -> str:
    """The first line of the method and its parameters."""
    lines = [(inspect.getdoc(method) or "").splitlines()[0], "", "Parameters", "----------"]
    for field in dataclasses.fields(method):
        lines += [f"{field.name} : default={field.default!r}", f"    {field.metadata.get('help', '')}"]
    lines += [f"max_iter : default={getattr(method, 'default_steps')!r}", "    Epochs over the rows."]  # noqa: B009
    return "\n".join([*lines, "random_state : default=0", "    Random seed."])


def seed_of(random_state: Any) -> int:
    """The seed that scikit-learn's `random_state` stands for: a number itself, else one drawn from the generator."""
    from sklearn.utils import check_random_state

    if isinstance(random_state, numbers.Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(MAX_SEED))


def _check_target(y: Any) -> None:
    """Raise `UsageError` for the first target that is NaN or infinite; the rest is scikit-learn's to check."""
    given = np.asarray(y)
    if given.dtype.kind == "f" and given.ndim == 1:
        check_finite(given[:, None], "target", ("y",), range(len(given)))


@cache
def _base() -> type:
    """The class of all estimators. It exists where scikit-learn is installed."""
    try:
        from sklearn.base import BaseEstimator
        from sklearn.metrics import accuracy_score, r2_score
        from sklearn.utils import Tags
        from sklearn.utils.metaestimators import available_if
        from sklearn.utils.multiclass import check_classification_targets
        from sklearn.utils.validation import check_is_fitted, validate_data
    except ImportError as error:
        raise UsageError(
            "surefoot.supervised needs the package scikit-learn; install it with: pip install 'surefoot[supervised]'"
        ) from error

    def classifies(self: Any) -> bool:
        return self._method().classifies

    class Estimator(BaseEstimator):
        """A method on tables as an estimator of numbers or of classes, as its loss says."""

        method_class: Any
        max_iter: int
        random_state: Any

        def _method(self) -> Any:
            names = [field.name for field in dataclasses.fields(self.method_class)]
            return build(self.method_class, {name: getattr(self, name) for name in names})

        def __sklearn_tags__(self) -> Tags:
            from sklearn.utils import ClassifierTags, RegressorTags

            tags = super().__sklearn_tags__()
            tags.target_tags.required = True
            try:
                of_classes = classifies(self)
            except UsageError:  # parameters that fit will refuse
                of_classes = False
            tags.estimator_type = "classifier" if of_classes else "regressor"
            tags.classifier_tags = ClassifierTags() if of_classes else None
            tags.regressor_tags = None if of_classes else RegressorTags()
            return tags

        def fit(self, X: Any, y: Any, groups: Any = None, clients: Any = None) -> Any:
            """Learn from features X `[n, d]` and targets y `[n]`; groups and clients `[n]`, where given, say to which
            group and to which client every row belongs."""
            method, steps = self._method(), self.max_iter
            if isinstance(steps, bool) or not isinstance(steps, numbers.Integral) or steps < 1:
                raise UsageError(f"max_iter={steps!r} is not allowed; it must be a whole number >= 1, the epochs.")
            _check_target(y)
            wanted: Any = {"dtype": np.float64, "ensure_min_samples": 2, "y_numeric": not method.classifies}
            X, y = validate_data(self, X, y, ensure_all_finite=False, **wanted)  # the table names what is missing
            if method.classifies:
                check_classification_targets(y)
            names = tuple(getattr(self, "feature_names_in_", ()))
            table = Table(X, y, features=names, groups=groups, clients=clients)
            learner = make_learner(method, table, [seed_of(self.random_state)], steps)
            for _ in range(steps):
                learner.iterate()
            self.model_ = learner.agent()
            if method.classifies:
                self.classes_ = self.model_.classes
            for name, value in learner.results().items():
                setattr(self, f"{name}_", value)
            return self

        def _seen(self, X: Any) -> np.ndarray:
            check_is_fitted(self)
            X = np.asarray(validate_data(self, X, dtype=np.float64, reset=False, ensure_all_finite=False))
            names = getattr(self, "feature_names_in_", [f"x{place}" for place in range(X.shape[1])])
            check_finite(X, "feature", names, range(len(X)))
            return X

        def predict(self, X: Any) -> np.ndarray:
            """A number or a class for every row of X, `[n]`."""
            X = self._seen(X)
            return self.model_.predict(X)

        @available_if(classifies)
        def predict_proba(self, X: Any) -> np.ndarray:
            """The chance of every class, `[n, c]`."""
            X = self._seen(X)
            return self.model_.probabilities(X)

        @available_if(classifies)
        def decision_function(self, X: Any) -> np.ndarray:
            """The score of the second class of two `[n]`, or of every class `[n, c]`."""
            X = self._seen(X)
            scores = self.model_.scores(X)
            return scores[:, 0] if scores.shape[1] == 1 else scores

        def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
            """R² of numbers, accuracy of classes."""
            figure = accuracy_score if classifies(self) else r2_score
            return float(figure(y, self.predict(X), sample_weight=sample_weight))

    return Estimator

"""The losses of a reference model, which are subtracted from those of the model that is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.loops.common.folder import Run
from surefoot.models.linear_losses import loss_of
from surefoot.models.linear_model import LinearModel, encoded
from surefoot.models.saved import holds_agent, load_agent


class Predictor:
    """A fitted model of another library as a reference: `predict` for numbers, `predict_proba` for classes."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __repr__(self) -> str:
        return f"Predictor({type(self.model).__name__})"

    def to_dict(self) -> dict[str, Any]:
        """A run records its reference, and this one has no form that can be."""
        raise UsageError(
            f"reference={type(self.model).__name__} is not allowed for a run, which records it; give a linear model, a "
            "run or the folder of one, or use the estimator's fit."
        )


def as_reference(given: Any) -> Any:
    """A reference as a method holds it: a path, a `LinearModel` or a `Predictor`; None for none.

    given: a path of a run or a model, a run, a model or an estimator of ours, a fitted estimator of scikit-learn.
    """
    if given is None or isinstance(given, (str, LinearModel, Predictor)):
        return given
    if isinstance(given, dict):
        return LinearModel.from_dict(given)
    if isinstance(given, (Path, Run)):
        return str(getattr(given, "path", given))
    if isinstance(model := getattr(given, "model_", None), LinearModel):
        return model
    if not hasattr(given, "predict"):
        raise UsageError(f"reference={given!r} is not allowed; give a fitted model, or the folder of a run.")
    return Predictor(given)


def reference_losses(reference: Any, table: Table, loss: str, classes: np.ndarray | None) -> np.ndarray | float:
    """The losses `[n]` of a reference on a table, 0 without one. It sees the features that the model sees.

    Raises:
        UsageError: it was trained on other features or classes, or is not fitted.
    """
    if reference is None:
        return 0.0
    if isinstance(reference, str):
        folder = Path(reference)
        reference = load_agent(folder) if holds_agent(folder) else Run(folder).agent()
    if isinstance(reference, LinearModel):
        if reference.loss != loss or not _same(reference.classes, classes):
            raise UsageError(
                f"reference has the loss {reference.loss!r} and the classes {_named(reference.classes)}; those of this "
                f"model are {loss!r} and {_named(classes)}. Train it on the same targets."
            )
        return reference.losses(table)
    found = _of_predictor(reference.model, table, loss, classes)
    if not np.isfinite(found).all():
        row = int(table.index[np.flatnonzero(~np.isfinite(found))[0]])
        raise UsageError(
            f"reference predicts something that is not finite for row {row}; give another, or fit it again."
        )
    return found


def _of_predictor(model: Any, table: Table, loss: str, classes: np.ndarray | None) -> np.ndarray:
    try:
        scores = model.predict(table.X) if classes is None else model.predict_proba(table.X)
    except Exception as error:  # another library's model may raise anything
        raise UsageError(
            f"reference={type(model).__name__} cannot predict these rows ({type(error).__name__}: {error}). Fit it "
            "first, on the same features; in a search, sklearn.frozen.FrozenEstimator(model) keeps its fit."
        ) from error
    scores, y = np.asarray(scores, dtype=np.float64), encoded(table, classes)
    wanted = (len(table),) if classes is None else (len(table), len(getattr(model, "classes_", classes)))
    if scores.shape != wanted and scores.shape != (*wanted, 1):
        raise UsageError(
            f"reference={type(model).__name__} predicts {list(scores.shape)} for {len(table)} rows; it must be "
            f"{list(wanted)}."
        )
    if classes is None:
        return loss_of(loss, None).value(scores.reshape(len(table), -1), y)
    if not _same(np.asarray(model.classes_), classes):
        raise UsageError(
            f"reference has the classes {_named(model.classes_)}, this model {_named(classes)}; train it on the same."
        )
    return -np.log(np.maximum(scores[np.arange(len(table)), y.astype(int)], 1e-300))


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return (one is None) == (other is None) and (one is None or np.array_equal(one, np.asarray(other)))


def _named(classes: Any) -> str:
    return "none" if classes is None else ", ".join(map(repr, np.asarray(classes).tolist()))

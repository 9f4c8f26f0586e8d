"""A linear model of the rows of a table, saved as safetensors and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.models.linear_losses import NAMES, loss_of
from surefoot.models.saved import described, read_agent, write_agent

FORMAT = "surefoot-linear-model-1"


class LinearModel:
    """Scores X·coefᵀ + intercept: numbers, or of classes.

    coef: `[k, d]`; intercept: `[k]`; loss: the name of that it was trained for. classes: `[c]`, sorted, or None for
    numbers; two classes have one score, that of the second.
    """

    loop: ClassVar[str] = "finite-sum"  # the kind of what it was trained in

    def __init__(
        self,
        coef: np.ndarray,
        intercept: np.ndarray,
        loss: str = "squared",
        classes: np.ndarray | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.coef, self.intercept, self.loss, self.classes = coef, intercept, loss, classes
        self.facts = facts or {}

    def __repr__(self) -> str:
        kind = "number" if self.classes is None else f"{len(self.classes)} classes"
        return described(self, f"{self.coef.shape[1]} features → {kind}")

    def scores(self, X: np.ndarray) -> np.ndarray:
        """`[n, k]` for features `[n, d]`."""
        X = np.asarray(X, dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != self.coef.shape[1]:
            raise UsageError(
                f"X has the shape {list(X.shape)}; this model was trained on {self.coef.shape[1]} features, so it must "
                f"be [samples, {self.coef.shape[1]}]."
            )
        return X @ self.coef.T + self.intercept

    def predict(self, X: np.ndarray) -> np.ndarray:
        """A number or a class for every row, `[n]`."""
        return predicted_of(self.scores(X), self.classes)

    def probabilities(self, X: np.ndarray) -> np.ndarray:
        """The chance of every class, `[n, c]`."""
        return chances_of(self.scores(X), self.classes)

    def losses(self, table: Table) -> np.ndarray:
        """The loss of every row of a table, `[n]`."""
        scores, classes = self.scores(table.X), self.classes
        return loss_of(self.loss, None if classes is None else len(classes)).value(scores, encoded(table, classes))

    def to_dict(self) -> dict[str, Any]:
        """The model as JSON-ready data, without its facts."""
        classes = None if self.classes is None else self.classes.tolist()
        return {
            "coef": self.coef.tolist(),
            "intercept": self.intercept.tolist(),
            "loss": self.loss,
            "classes": classes,
        }

    @classmethod
    def from_dict(cls, data: Any) -> LinearModel:
        """The model that `to_dict` wrote.

        Raises:
            UsageError: it is not the description of a model.
        """
        try:
            coef, intercept = (np.array(data[name], dtype=np.float64) for name in ("coef", "intercept"))
            return cls._checked(coef, intercept, data["loss"], data["classes"], {})
        except (TypeError, ValueError, KeyError) as error:
            raise UsageError(f"{str(data)[:80]} is not a linear model ({error}); restore the original file.") from error

    def save(self, folder: str | Path) -> Path:
        """Write `agent.safetensors` and `agent.json` into a folder."""
        about = {name: value for name, value in self.to_dict().items() if name in ("loss", "classes")}
        description = {"format": FORMAT, **about, **self.facts}
        tensors = {"coef": torch.as_tensor(self.coef).contiguous(), "intercept": torch.as_tensor(self.intercept)}
        return write_agent(folder, description, tensors)

    @classmethod
    def load(cls, folder: str | Path) -> LinearModel:
        """The model that `save` wrote. Reads tensors and JSON only; no code is run.

        Raises:
            UsageError: the folder has no such model, or a damaged one.
        """
        description, tensors = read_agent(folder, FORMAT)
        loss, classes = description.pop("loss", None), description.pop("classes", None)
        try:
            coef, intercept = (tensors[name].double().numpy() for name in ("coef", "intercept"))
            return cls._checked(coef, intercept, loss, classes, description)
        except (KeyError, ValueError) as error:
            raise UsageError(f"{folder} is damaged: it does not hold the model in agent.json ({error}).") from error

    @classmethod
    def _checked(
        cls, coef: np.ndarray, intercept: np.ndarray, loss: Any, classes: Any, facts: dict[str, Any]
    ) -> LinearModel:
        """The model, if its parts fit together; a `ValueError` otherwise."""
        outputs = 1 if not labels_of(classes) or classes is None or len(classes) == 2 else len(classes)
        shapes = coef.ndim == 2 and len(coef) == outputs and intercept.shape == (outputs,)
        if not (shapes and np.isfinite(coef).all() and np.isfinite(intercept).all()):
            raise ValueError(
                f"coef {list(coef.shape)} and intercept {list(intercept.shape)} of finite numbers do not fit"
            )
        if loss not in NAMES or not labels_of(classes) or (classes is not None) != (loss == "logistic"):
            raise ValueError(f"loss={loss!r} with classes={classes!r} is not allowed")
        return cls(coef, intercept, loss, None if classes is None else np.array(classes), facts)


def labels_of(classes: Any) -> bool:
    """Whether what a file says are classes, or None."""
    if classes is None:
        return True
    return isinstance(classes, list) and len(classes) > 1 and all(isinstance(x, (str, int, float)) for x in classes)


def predicted_of(scores: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    """The number or the class `[n]` that scores `[n, k]` stand for."""
    if classes is None:
        return scores[:, 0]
    return classes[(scores[:, 0] > 0).astype(int) if scores.shape[1] == 1 else scores.argmax(-1)]


def chances_of(scores: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    """The chance of every class `[n, c]` by scores `[n, k]`.

    Raises:
        UsageError: they are of numbers.
    """
    if classes is None:
        raise UsageError("a model of numbers has no probabilities of classes; train it with loss='logistic'.")
    if scores.shape[1] == 1:
        scores = np.hstack([np.zeros_like(scores), scores])
    chances = np.exp(scores - scores.max(-1, keepdims=True))
    return chances / chances.sum(-1, keepdims=True)


def encoded(table: Table, classes: np.ndarray | None) -> np.ndarray:
    """The targets as a loss takes them, `[n]` float64: numbers, or the places of classes.

    Raises:
        UsageError: text where numbers are needed, or a class that is not among them; with its row.
    """
    if classes is None:
        if table.y.dtype.kind not in "fiub":
            raise UsageError(
                f"the target {table.target!r} holds labels such as {table.y.tolist()[0]!r}, which are no numbers; to "
                "learn classes give loss='logistic'."
            )
        return table.y.astype(np.float64)
    places = np.searchsorted(classes, table.y) if _comparable(classes, table.y) else np.zeros(len(table), dtype=int)
    known = classes[np.minimum(places, len(classes) - 1)] == table.y
    if not np.all(known):
        row = int(np.flatnonzero(~np.broadcast_to(known, len(table)))[0])
        seen = ", ".join(map(repr, classes.tolist()[:8])) + ", …" * (len(classes) > 8)
        raise UsageError(
            f"class {table.y.tolist()[row]!r} of row {table.index[row]} was not seen in training, which had {seen}. "
            "Leave its rows out, or train with some of them."
        )
    return places.astype(np.float64)


def _comparable(classes: np.ndarray, y: np.ndarray) -> bool:
    return (classes.dtype.kind in "fiub") == (y.dtype.kind in "fiub")

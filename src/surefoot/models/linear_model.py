"""A linear model of the rows of a table, saved as safetensors and JSON."""

from __future__ import annotations

import json
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
        scores = self.scores(X)
        if self.classes is None:
            return scores[:, 0]
        return self.classes[(scores[:, 0] > 0).astype(int) if len(self.coef) == 1 else scores.argmax(-1)]

    def probabilities(self, X: np.ndarray) -> np.ndarray:
        """The chance of every class, `[n, c]`."""
        scores = self.scores(X)
        if self.classes is None:
            raise UsageError("a model of numbers has no probabilities of classes; train it with loss='logistic'.")
        if len(self.coef) == 1:
            scores = np.hstack([np.zeros_like(scores), scores])
        chances = np.exp(scores - scores.max(-1, keepdims=True))
        return chances / chances.sum(-1, keepdims=True)

    def losses(self, table: Table) -> np.ndarray:
        """The loss of every row of a table, `[n]`."""
        scores, classes = self.scores(table.X), self.classes
        return loss_of(self.loss, None if classes is None else len(classes)).value(scores, encoded(table, classes))

    def save(self, folder: str | Path) -> Path:
        """Write `agent.safetensors` and `agent.json` into a folder."""
        classes = None if self.classes is None else self.classes.tolist()
        description = {"format": FORMAT, "loss": self.loss, "classes": classes, **self.facts}
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
        coef, intercept = tensors.get("coef"), tensors.get("intercept")
        outputs = 1 if not classes or len(classes) == 2 else len(classes)
        fits = coef is not None and intercept is not None and coef.ndim == 2 and len(coef) == outputs
        if not fits or intercept.shape != (outputs,) or loss not in NAMES or not _labels(classes):  # type: ignore[union-attr]
            raise UsageError(f"{folder} is damaged: its tensors are not those of the model in agent.json.")
        labels = None if classes is None else np.array(classes)
        return cls(coef.double().numpy(), intercept.double().numpy(), loss, labels, description)  # type: ignore[union-attr]


def _labels(classes: Any) -> bool:
    """Whether what a file says are classes, or None."""
    if classes is None:
        return True
    return (
        isinstance(classes, list) and len(classes) > 1 and json.dumps(classes) != "" and len({*map(str, classes)}) > 1
    )


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

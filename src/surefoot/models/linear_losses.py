"""The loss of one sample as a function of its scores, with its derivative: NumPy, one row a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Loss:
    """A loss of linear models.

    value: (scores `[m, k]`, targets `[m]`) -> losses `[m]`. slope: the derivative in the scores, `[m, k]`.
    curvature: an upper bound on the second derivative in the scores. formula: for `explain`.
    """

    value: Callable[[Array, Array], Array]
    slope: Callable[[Array, Array], Array]
    curvature: float
    formula: str


def _squared(scores: Array, y: Array) -> Array:
    return 0.5 * (y - scores[:, 0]) ** 2


def _squared_slope(scores: Array, y: Array) -> Array:
    return scores - y[:, None]


def _logistic(scores: Array, y: Array) -> Array:
    return np.logaddexp(0.0, (1 - 2 * y) * scores[:, 0])


def _logistic_slope(scores: Array, y: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * scores)) - y[:, None]


def _softmax(scores: Array, y: Array) -> Array:
    top = scores.max(-1)
    rows = np.arange(len(y))
    return top + np.log(np.exp(scores - top[:, None]).sum(-1)) - scores[rows, y.astype(int)]


def _softmax_slope(scores: Array, y: Array) -> Array:
    chances = np.exp(scores - scores.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)
    chances[np.arange(len(y)), y.astype(int)] -= 1
    return chances


SQUARED = Loss(_squared, _squared_slope, 1.0, "½(y_i − x_iᵀw)²")
LOGISTIC = Loss(_logistic, _logistic_slope, 0.25, "log(1 + exp(−y_i·x_iᵀw))")  # y_i is −1 or 1; as a target 0 or 1
SOFTMAX = Loss(_softmax, _softmax_slope, 0.5, "log Σ_c exp(x_iᵀw_c) − x_iᵀw_{y_i}")
NAMES = {"squared": SQUARED, "logistic": LOGISTIC}


def loss_of(name: str, classes: int | None) -> Loss:
    """The loss of a name; logistic of more than two classes is the softmax's cross-entropy."""
    return SOFTMAX if name == "logistic" and classes is not None and classes > 2 else NAMES[name]

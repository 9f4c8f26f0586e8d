"""Networks of the rows of tables: what they are made of, and the model that is saved and used.

A row is a vector, or an image `[channels, height, width]` where its table says so. Everything that a model is given is
as in its table; it scales rows itself, as it did in training.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.hyperparameters import build, check, hyperparameter
from surefoot.models.functional import Flat
from surefoot.models.linear_losses import NAMES
from surefoot.models.linear_model import chances_of, encoded, labels_of, predicted_of
from surefoot.models.networks import ACTIVATIONS, mlp, orthogonal
from surefoot.models.saved import described, read_agent, write_agent

FORMAT = "surefoot-row-network-1"


def row_losses(scores: Tensor, y: Tensor, classes: int | None) -> Tensor:
    """The loss of every row, `[...]`, for scores `[..., k]` and targets `[...]`: half the squared error of a number;
    for classes, whose places are targets, the log loss of one score of two or of a score each."""
    if classes is None:
        return 0.5 * (y - scores.squeeze(-1)) ** 2
    if classes == 2:
        return F.softplus((1 - 2 * y) * scores.squeeze(-1))
    chosen = scores.gather(-1, y.long().unsqueeze(-1)).squeeze(-1)
    return scores.logsumexp(-1) - chosen


class RowModule(nn.Module):
    """Scores `[batch, outputs]` of rows `[batch, ...]`: a body that makes features of them, and a linear head.

    `forward(x, only="body")` gives the features `[batch, width]`, and `only="head"` the scores of given features.

    Raises:
        UsageError: convolutions of rows that are no images.
    """

    def __init__(self, network: RowNetwork, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if network.channels and len(shape) != 3:
            raise UsageError(
                f"channels={network.channels!r} is not allowed: the rows are vectors of {math.prod(shape)} features, "
                "not images. Leave it out, or give images [n, height, width] or [n, channels, height, width]."
            )
        channels, size = (shape[0], shape[1:]) if network.channels else (math.prod(shape), ())
        for width in network.channels:
            layers += [orthogonal(nn.Conv2d(channels, width, 3, padding=1)), ACTIVATIONS[network.activation]()]
            layers += [nn.MaxPool2d(2)] if min(size) > 1 else []
            channels, size = width, tuple(max(1, n // 2) for n in size) if min(size) > 1 else size
        inputs = math.prod((channels, *size))
        self.body = nn.Sequential(*layers, nn.Flatten(), *mlp(inputs, network.hidden, network.activation))
        self.width = network.hidden[-1] if network.hidden else inputs
        self.head = orthogonal(nn.Linear(self.width, outputs), 0.01)

    def forward(self, x: Tensor, only: str = "") -> Tensor:
        x = x if only == "head" else self.body(x)
        return x if only == "body" else self.head(x)


@dataclass(frozen=True)
class RowNetwork:
    """The architecture of a network of rows."""

    hidden: tuple[int, ...] = hyperparameter((64,), low=1, high=2**16, help="Sizes of the hidden layers.")
    activation: str = hyperparameter("relu", choices=tuple(ACTIVATIONS), help="Activation between layers.")
    channels: tuple[int, ...] = hyperparameter((), low=1, high=2**16, help="Channels of the convolutions.")

    def __post_init__(self) -> None:
        check(self)

    def make(self, shape: tuple[int, ...], outputs: int) -> RowModule:
        """The module for rows of a shape; see `RowModule`."""
        return RowModule(self, shape, outputs)


def outputs_of(classes: np.ndarray | None) -> int:
    """The number of scores: one for numbers and for two classes, else one a class."""
    return 1 if classes is None or len(classes) == 2 else len(classes)


class RowModel:
    """A trained network of rows: numbers, or of classes.

    vector: the weights; shape: of a row; scale: what is subtracted from the features of a row and what they are
    multiplied by, `[d]` each. classes: `[c]`, sorted, or None for numbers; two have one score, that of the second.
    target: mean and deviation of numbers, which the network sees scaled; (0, 1) for classes.
    """

    loop: ClassVar[str] = "supervised"  # the kind of what it was trained in

    def __init__(
        self,
        network: RowNetwork,
        shape: tuple[int, ...],
        vector: Tensor,
        scale: tuple[np.ndarray, np.ndarray],
        loss: str,
        classes: np.ndarray | None = None,
        facts: dict[str, Any] | None = None,
        target: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.target = target
        self.network, self.shape, self.vector, self.scale = network, shape, vector, scale
        self.loss, self.classes, self.facts = loss, classes, facts or {}
        with torch.device("meta"):  # its own parameters are never used
            self._flat = Flat(network.make(shape, outputs_of(classes)))
        self._exact = vector.double()

    def __repr__(self) -> str:
        kind = "number" if self.classes is None else f"{len(self.classes)} classes"
        return described(self, f"{math.prod(self.shape)} features → {kind}")

    @property
    def size(self) -> int:
        """The number of weights."""
        return self._flat.size

    def rows(self, X: Any) -> np.ndarray:
        """Features as `[n, d]`, if they are as many as it was trained on."""
        X = np.asarray(X, dtype=np.float64)
        d = math.prod(self.shape)
        if X.ndim < 2 or math.prod(X.shape[1:]) != d:
            raise UsageError(
                f"X has the shape {list(X.shape)}; this model was trained on {d} features, so it must be [samples, "
                f"{d}]."
            )
        return X.reshape(len(X), d)

    def scaled(self, X: Any) -> Tensor:
        """Features as the network sees them, `[n, ...]` float64."""
        shift, factor = self.scale
        return torch.from_numpy((self.rows(X) - shift) * factor).view(-1, *self.shape)

    def encoded(self, table: Table) -> np.ndarray:
        """The targets of a table as the network sees them, `[n]`: scaled numbers, or places of classes."""
        return (encoded(table, self.classes) - self.target[0]) / self.target[1]

    def scores(self, X: np.ndarray) -> np.ndarray:
        """`[n, k]` for features `[n, d]`."""
        with torch.no_grad():
            return self.target[0] + self.target[1] * self.answer(self.scaled(X)).numpy()

    def predict(self, X: np.ndarray) -> np.ndarray:
        """A number or a class for every row, `[n]`."""
        return predicted_of(self.scores(X), self.classes)

    def probabilities(self, X: np.ndarray) -> np.ndarray:
        """The chance of every class, `[n, c]`."""
        return chances_of(self.scores(X), self.classes)

    def answer(self, X: Tensor) -> Tensor:
        """Scores `[n, k]` of scaled rows `[n, ...]` in float64, with a gradient, as the network gives them."""
        return self._flat(self._exact, X)

    def damage(self, X: Tensor, y: Tensor) -> Tensor:
        """The loss of every row `[n]` of scaled rows `[n, ...]` and encoded targets `[n]`, with a gradient."""
        return row_losses(self.answer(X), y, None if self.classes is None else len(self.classes))

    def losses(self, table: Table) -> np.ndarray:
        """The loss of every row of a table, `[n]`."""
        with torch.no_grad():
            found = self.damage(self.scaled(table.X), torch.from_numpy(self.encoded(table)))
            return self.target[1] ** 2 * found.numpy()

    def save(self, folder: str | Path) -> Path:
        """Write `agent.safetensors` and `agent.json` into a folder."""
        about = {"network": dataclasses.asdict(self.network), "shape": list(self.shape), "loss": self.loss}
        about["classes"] = None if self.classes is None else self.classes.tolist()
        shift, factor = (torch.from_numpy(x).contiguous() for x in self.scale)
        tensors = {"weights": self.vector.contiguous(), "shift": shift, "factor": factor}
        tensors["target"] = torch.tensor(self.target, dtype=torch.float64)
        return write_agent(folder, {"format": FORMAT, **about, **self.facts}, tensors)

    @classmethod
    def load(cls, folder: str | Path) -> RowModel:
        """The model that `save` wrote. Reads tensors and JSON only; no code is run.

        Raises:
            UsageError: the folder has no such model, or a damaged one.
        """
        description, tensors = read_agent(folder, FORMAT)
        try:
            network, shape, loss, classes = (description.pop(name) for name in ("network", "shape", "loss", "classes"))
            return cls._checked(network, shape, loss, classes, tensors, description)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise UsageError(f"{folder} is damaged: it does not hold the model in agent.json ({error}).") from error

    @classmethod
    def _checked(
        cls, network: Any, shape: Any, loss: Any, classes: Any, tensors: dict[str, Tensor], facts: dict[str, Any]
    ) -> RowModel:
        """The model, if its parts fit together; a `ValueError` otherwise."""
        if not isinstance(shape, list) or len(shape) not in (1, 3) or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(f"shape={shape!r} is not allowed")
        if loss not in NAMES or not labels_of(classes) or (classes is not None) != (loss == "logistic"):
            raise ValueError(f"loss={loss!r} with classes={classes!r} is not allowed")
        if not isinstance(network, dict):
            raise ValueError(f"network={network!r} is not allowed")
        named = {k: tuple(x) if isinstance(x, list) else x for k, x in network.items()}
        made = build(RowNetwork, named)
        weights, d = tensors["weights"], math.prod(shape)
        if weights.ndim != 1 or _size(made, tuple(shape), 1 if classes is None else len(classes)) != len(weights):
            raise ValueError(f"{list(weights.shape)} weights do not fit the network")
        scale = tuple(tensors[name].double().numpy() for name in ("shift", "factor"))
        target = tensors["target"].double().numpy()
        numbers = all(np.isfinite(x).all() for x in (*scale, target, weights.numpy()))
        if not numbers or any(x.shape != (d,) for x in scale) or target.shape != (2,) or not target[1] > 0:
            raise ValueError("weights and scales must be finite and fit the network")
        labels = None if classes is None else np.array(classes)
        known = (float(target[0]), float(target[1]))
        return cls(made, tuple(shape), weights, scale, loss, labels, facts, known)  # type: ignore[arg-type]


def _size(network: RowNetwork, shape: tuple[int, ...], classes: int) -> int:
    """The number of weights of a network, computed without making it."""
    with torch.device("meta"):
        made = network.make(shape, 1 if classes <= 2 else classes)
    return sum(math.prod(p.shape) for p in made.parameters())

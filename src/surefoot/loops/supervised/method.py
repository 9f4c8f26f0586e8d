"""The base of methods that train networks on rows of a table: hyperparameters of an epoch, and what it is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.data.tables import Table
from surefoot.hyperparameters import Choices, Range, check, check_effects, hyperparameter
from surefoot.loops.common.schedule import annealing, warming, words
from surefoot.loops.common.tables import check_several, classes_in
from surefoot.loops.networks.nets import Batch, Loss, Net, Weights
from surefoot.models.linear_losses import NAMES
from surefoot.models.linear_model import encoded
from surefoot.models.networks import ACTIVATIONS
from surefoot.models.row_network import RowModel, RowNetwork, outputs_of, row_losses

if TYPE_CHECKING:
    from surefoot.loops.supervised.learner import SupervisedLearner

Beforehand = Callable[[Batch, tuple[str, ...]], dict[str, Any]]
"""From a batch and the names of the networks that are due, more entries of the batch `[seeds, size, ...]`, or others in
place of those that it has: an attacked or augmented x."""
MODEL = "model"  # the network that is deployed
SCALES = ("standard", "unit", "none")


@dataclass(frozen=True)
class Rows:
    """What networks are made for: rows of a shape, their classes (None for numbers), how many there are, the gradient
    steps of an epoch and epochs of the run, by which stages are timed, and the names of the features."""

    shape: tuple[int, ...]
    classes: np.ndarray | None
    count: int
    batches: int
    epochs: int
    features: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Scores of a model: one for numbers and for two classes, else one a class."""
        return outputs_of(self.classes)

    @property
    def kinds(self) -> int | None:
        """The number of classes; None for numbers."""
        return None if self.classes is None else len(self.classes)


@dataclass(frozen=True)
class Supervised:
    """The base of every method that trains networks on rows. One that only has another loss defines `model_loss`; one
    of several networks or stages defines `networks`.

    Losses find in a batch: x (rows, scaled), y (numbers, or places of classes), weight (1), index (of the row among
    those learned from), noise, memory (what is kept of every sample, see `memory`), and what `columns` and `beforehand`
    add.
    """

    loop: ClassVar[str] = "supervised"
    default_steps: ClassVar[int] = 50
    any_table: ClassVar[bool] = True  # whether it learns from every table; one that needs its own has no estimator
    without_effect: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    loss: str = hyperparameter(
        "logistic", choices=tuple(NAMES), help="Loss: logistic for classes, squared for numbers."
    )
    hidden: tuple[int, ...] = hyperparameter(
        (64,), low=1, high=2**16, help="Sizes of the hidden layers; none for a linear model."
    )
    activation: str = hyperparameter("relu", choices=tuple(ACTIVATIONS), help="Activation between layers.")
    channels: tuple[int, ...] = hyperparameter(
        (), low=1, high=2**16, help="Channels of 3×3 convolutions before them, each halving the image."
    )
    scale: str = hyperparameter(
        "standard",
        choices=SCALES,
        help="Scaling of features (and numbers to predict): each to deviation 1, all to [0, 1], or none.",
    )
    batch_size: int = hyperparameter(32, low=1, help="Rows per gradient step.", tune=Choices((16, 32, 64, 128)))
    learning_rate: float = hyperparameter(0.05, above=0, help="Step size.", tune=Range(1e-3, 1.0, log=True))
    momentum: float | None = hyperparameter(
        0.9, low=0, below=1, help="Momentum of stochastic gradient descent; None for Adam."
    )
    weight_decay: float = hyperparameter(0.0, low=0, help="λ of the penalty λ/2·‖weights‖².")
    max_grad_norm: float | None = hyperparameter(None, above=0, help="Maximum gradient norm.")
    anneal: str = annealing()
    warmup: int = warming("epochs")

    def __post_init__(self) -> None:
        check(self)
        check_effects(self)
        self.network()

    # --- what a method is made of ------------------------------------------------------------------------------------

    def network(self) -> RowNetwork:
        """The architecture of the model."""
        return RowNetwork(self.hidden, self.activation, self.channels)

    def networks(self, rows: Rows) -> dict[str, Net]:
        """The networks by name, in the order in which a gradient step updates them; "model" is deployed."""
        return {MODEL: self.net(lambda: self.network().make(rows.shape, rows.outputs), self.loss_of(rows))}

    def model_loss(self, w: Weights, batch: Batch, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """What the model's weights minimise, and metrics."""
        return mean_loss(row_losses(w(MODEL, batch["x"]), batch["y"], rows.kinds), batch), {}

    def deployed(self, vector: Tensor, rows: Rows) -> Tensor:
        """The weights of `network()` within those of "model", where training needs more than remains."""
        return vector

    def model(self, learner: SupervisedLearner, index: int, facts: dict[str, Any]) -> Any:
        """The model of one seed as it is saved and used, a `TableModel` with `save` and `load`."""
        rows, scale, target = learner.rows, learner.scale, learner.target
        vector = self.deployed(learner.weights[MODEL][index].detach().cpu(), rows)
        return RowModel(self.network(), rows.shape, vector, scale, self.loss, rows.classes, facts, target)

    def memory(self, rows: Rows) -> dict[str, Tensor]:
        """What is kept of every sample, `[n, ...]` at the start, by name. A metric of a loss that is called
        memory/NAME, `[rows, ...]`, is what is kept from then on of the rows of the batch."""
        return {}

    def columns(self, table: Table) -> dict[str, np.ndarray]:
        """More columns `[n, ...]` of the rows to learn from that losses need."""
        return {}

    def noise(self, rows: Rows, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The random numbers of a gradient step on `size` rows, by name: `batch["noise"]` of the losses."""
        return {}

    def beforehand(self, learner: SupervisedLearner) -> Beforehand | None:
        """What is found before each gradient step with the networks as they are, such as an attack on its rows. Called
        once a run; None for nothing."""
        return None

    def epoch(self, learner: SupervisedLearner) -> None:
        """One epoch: by default a gradient step on every batch of the rows in random order."""
        for index in learner.shuffled():
            learner.update(index)

    def learns(self, name: str, iteration: int) -> bool:
        """Whether a network moves in an epoch."""
        return True

    def after_iteration(self, learner: SupervisedLearner) -> dict[str, Tensor]:
        """Called after every epoch. Returns more metrics, `[seeds]` each."""
        return {}

    def found(self, learner: SupervisedLearner, index: int) -> dict[str, Any]:
        """What an estimator shows after its fit besides the usual, by name without the final underscore."""
        return {}

    def measured(self, model: RowModel, table: Table) -> dict[str, float]:
        """More figures of a model on the rows of a table, by name."""
        return {}

    # --- shared by methods -------------------------------------------------------------------------------------------

    def loss_of(self, rows: Rows) -> Loss:
        """`model_loss` as a network takes it."""

        def loss(w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            value, metrics = self.model_loss(w, batch, rows)
            return value, {"objective": value.detach(), **metrics}

        return loss

    def net(self, make: Callable[[], nn.Module], loss: Loss | None, **changes: Any) -> Net:
        """A network with the optimiser of these hyperparameters."""
        usual: dict[str, Any] = {"learning_rate": self.learning_rate, "momentum": self.momentum}
        usual |= {"l2": self.weight_decay, "max_grad_norm": self.max_grad_norm}
        return Net(make, loss, **{**usual, **changes})

    @property
    def passes(self) -> float:
        """How often an epoch goes through the rows."""
        return 1.0

    @property
    def classifies(self) -> bool:
        """Whether targets are classes."""
        return self.loss == "logistic"

    def classes_of(self, table: Table) -> np.ndarray | None:
        """The classes `[c]` to learn; None for numbers.

        Raises:
            UsageError: there is one row, one class, or the targets are measurements.
        """
        check_several(table)
        return classes_in(table) if self.classifies else None

    def scaling(self, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """What is subtracted from features and what they are multiplied by, `[d]` each."""
        X, d = table.X, table.X.shape[1]
        if self.scale == "standard":
            spread = X.std(0)
            return X.mean(0), 1 / np.where(spread > 0, spread, 1.0)
        if self.scale == "unit":
            low, width = X.min(), np.ptp(X)
            return np.full(d, low), np.full(d, 1 / width if width > 0 else 1.0)
        return np.zeros(d), np.ones(d)

    def target_scaling(self, table: Table) -> tuple[float, float]:
        """What is subtracted from targets and what they are divided by: mean and deviation of numbers."""
        if self.classifies or self.scale != "standard":
            return 0.0, 1.0
        y = encoded(table, None)
        return float(y.mean()), float(y.std()) or 1.0

    # --- for the outer loop ------------------------------------------------------------------------------------------

    def objective(self) -> str:
        """What is minimised, as a formula."""
        raise NotImplementedError

    def steps(self) -> list[str]:
        """What is done with a batch, in words."""
        raise NotImplementedError

    def in_batches(self) -> str:
        """How an epoch goes through the rows, in words."""
        return f"an epoch: the rows in random order, in batches of {self.batch_size}"

    def algorithm(self) -> list[str]:
        """The lines of `explain`."""
        scaled = {"standard": "scale every feature to mean 0 and deviation 1", "unit": "scale all features to [0, 1]"}
        kind = "Adam" if self.momentum is None else f"descent with momentum {self.momentum:g}" * (self.momentum > 0)
        layers = "a linear model" if not self.hidden and not self.channels else "a network"
        step = f"{layers}, by {kind or 'plain descent'} with the step {self.learning_rate:g}"
        decay = f" and weight decay {self.weight_decay:g}" * (self.weight_decay > 0)
        first = [scaled[self.scale]] if self.scale in scaled else []
        return [*first, self.in_batches(), *self.steps(), step + decay + words(self.anneal, self.warmup)]

    def loss_formula(self) -> str:
        """The loss of a row in terms of the model's scores f."""
        return "−log p(y | f(x))" if self.classifies else "½(y − f(x))²"

    def scheduled(self) -> list[str]:
        """The hyperparameters that follow the length of the run."""
        return ["anneal"] * (self.anneal != "none")

    @property
    def pace(self) -> int:
        """Epochs per iteration."""
        return 1

    def gradient_steps(self, total_steps: int) -> float:
        """Gradient steps that a compiler could fuse: none, since batches differ in size."""
        return 0.0


def mean_loss(losses: Tensor, batch: Batch) -> Tensor:
    """The mean of losses `[rows]` by the weights of their rows; 0 if no row has any."""
    weight = batch["weight"]
    return (losses * weight).sum() / weight.sum().clamp(min=1e-12)


def batches_of(count: int, size: int) -> int:
    """The number of batches in which an epoch goes through the rows."""
    return math.ceil(count / size)

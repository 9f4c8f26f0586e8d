"""WAFL: clients train one model against the worst distribution near the mixture of their data, and average it.

Reach for it where several sources hold the data, none of which is what the model will meet, and small shifts of the
inputs must not matter. Every client moves its rows to where the loss is greatest at a price of the distance, takes
steps of gradient descent there, and the server averages what the clients made of its weights:

    min over w of Σ_i λ_i·mean_j φ(x_ij, y_ij; w)        φ = max over x' of ℓ(x', y; w) − γ/2·‖x' − x‖²

which bounds the loss of every distribution within a Wasserstein distance ρ of the mixture by γρ²/2 + Σ λ_i·mean φ: the
certificate. Distances are in the units in which the model sees features (`scale`). γ = ∞ is FedAvg. Of a linear model
this is much like a smaller norm of its weights, so compare it with weight decay (its claim does).

Tung-Anh Nguyen, Tuan Dung Nguyen, Long Tan Le, Canh T. Dinh, Nguyen H. Tran, *On the Generalization of Wasserstein
Robust Federated Learning* (2022), arXiv:2206.01432.

Differences: the step of the ascent is 1/(γ + L) with an estimate L of the curvature, taken at the start of every round.
The released step of 10 diverges for γ ≥ 0.2. Of all places on the way a row takes the worst, and the ascent does not
stop early. Mixtures λ are given, not chosen by a target's distance, whose linear program puts all weight on one source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.networks.nets import Batch, Weights
from surefoot.loops.supervised.method import MODEL, Rows, Supervised, mean_loss
from surefoot.methods.supervised.wafl.clients import in_clients, round_of
from surefoot.methods.supervised.wafl.worst import Worst, certified
from surefoot.models.row_network import row_losses

if TYPE_CHECKING:
    from surefoot.loops.supervised.learner import SupervisedLearner


@dataclass(frozen=True)
class WAFL(Supervised):
    """Federated training against a Wasserstein ball around the mixture of the clients' data."""

    default_steps: ClassVar[int] = 60
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "released-mnist": {"penalty": 0.05, "learning_rate": 1e-3, "batch_size": 64, "participation": 0.1},
        "released-cifar": {
            "penalty": 0.5,
            "batch_size": 64,
            "participation": 0.5,
            "channels": (16, 32, 64),
            "hidden": (500,),
        },
    }

    penalty: float = hyperparameter(
        2.0,
        above=0,
        help="γ: price of moving a row; smaller is more robust, inf is FedAvg.",
        tune=Range(0.1, 50, log=True),
    )
    ascent_steps: int = hyperparameter(10, low=0, help="Steps of gradient ascent that move a row; 0 is FedAvg.")
    local_epochs: int = hyperparameter(2, low=1, help="Epochs of a client in a round.")
    participation: float = hyperparameter(1.0, above=0, high=1, help="Share of the clients, drawn anew every round.")
    mixture: tuple[float, ...] | None = hyperparameter(
        None, low=0, help="Weights λ of the clients in the order of their names; by default their numbers of rows."
    )
    hidden: tuple[int, ...] = hyperparameter(
        (), low=1, high=2**16, help="Sizes of the hidden layers; none for a linear model."
    )
    learning_rate: float = hyperparameter(0.1, above=0, help="Step size of a client.", tune=Range(1e-3, 1.0, log=True))
    momentum: float | None = hyperparameter(
        0.0, low=0, below=1, help="Momentum of a client, which begins anew every round; None for Adam."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixture is not None and (self.participation < 1 or sum(self.mixture) <= 0):
            raise UsageError(
                f"mixture={self.mixture!r} is not allowed with participation={self.participation:g}: its weights must "
                "have a positive sum, and all clients take part where they are given."
            )

    @property
    def passes(self) -> float:
        return self.local_epochs * self.participation

    @property
    def moves_rows(self) -> bool:
        """Whether there is an inner maximum."""
        return math.isfinite(self.penalty) and self.ascent_steps > 0

    def beforehand(self, learner: SupervisedLearner) -> Worst | None:
        return Worst(learner, self.penalty, self.ascent_steps) if self.moves_rows else None

    def epoch(self, learner: SupervisedLearner) -> None:
        clients = in_clients(learner.table, self.mixture)
        if learner.before is not None:
            learner.before.begin_round()
        round_of(learner, clients, self.participation, self.local_epochs)

    def model_loss(self, w: Weights, batch: Batch, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        losses = row_losses(w(MODEL, batch.get("moved", batch["x"])), batch["y"], rows.kinds)
        if "moved" not in batch:
            return mean_loss(losses, batch), {}
        squared = ((batch["moved"] - batch["x"]).flatten(1) ** 2).sum(1)
        paid = mean_loss(self.penalty / 2 * squared, batch)  # a constant in the weights
        return mean_loss(losses, batch) - paid, {"moved_squared": mean_loss(squared, batch)}

    def after_iteration(self, learner: SupervisedLearner) -> dict[str, Tensor]:
        return {} if learner.before is None else {"curvature": learner.before.curvature}

    def found(self, learner: SupervisedLearner, index: int) -> dict[str, Any]:
        weights = in_clients(learner.table, self.mixture).of_rows()
        return {"certificate": certified(learner.agent(index), learner.table, self.penalty, weights)}

    def objective(self) -> str:
        formula = self.loss_formula()
        if not self.moves_rows:
            return f"minimise Σ_i λ_i·mean_j ℓ,  ℓ = {formula}"
        price = f"{self.penalty / 2:g}·‖x' − x‖²"
        return f"minimise Σ_i λ_i·mean_j φ,  φ = max over x' of ℓ(x', y) − {price},  ℓ = {formula}"

    def in_batches(self) -> str:
        some = "every client" if self.participation == 1 else f"{self.participation:.0%} of the clients, drawn anew,"
        return (
            f"a round: from the server's weights, {some} goes {self.local_epochs}× through its rows in batches of "
            f"{self.batch_size}"
        )

    def steps(self) -> list[str]:
        climb = f"move the rows by {self.ascent_steps} steps of ascent on φ, of size 1/(γ + L)"
        shares = "numbers of rows" if self.mixture is None else "mixture"
        lines = [climb] if self.moves_rows else []
        return [*lines, f"the server averages the clients' weights by their {shares}"]


METHOD = WAFL

"""SPG: retrain a classifier with temporary replicas of its head, which meet ever more dropout until the first error.

Reach for it to go on training a model with a strength of dropout that every sample chooses itself. One forward pass
gives for each sample an episode of 1 + T predictions, from features with more and more dropout. It ends with the first
wrong one, and a prediction is learned from only while its episode lives: easy samples meet strong dropout, hard ones
none. The replicas are taken off at the end, so that the model is as it was built.

    L = Σ_t λ_t·mean over live i of CE(π_t, y_i)        (or, for blocks in place of dropout, Σ_i R_i Σ_t live·CE / n)

It is called a policy gradient, but learns the label's likelihood, with no advantage. Compare it with `stop=False`, all
replicas without stopping, which tells what stopping does.

*SPG: Sequential Policy Gradient for Adaptive Hyperparameter Optimization* (2025), arXiv:2506.15051.

Differences: the released block has a ReLU after weights of zero, through which no gradient ever comes, so that it stays
mere dropout (block="released"); here it has none, as in the formula. The released factor exp(CE − L) of the
hyperparameter version is 1 by a slip, here it works (`normalise`). The model that is retrained is trained in the same
run, plainly, for its first part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.supervised.method import MODEL, Beforehand, Rows, Supervised, mean_loss
from surefoot.methods.supervised.sequential_pg.replicas import (
    BLOCKS,
    Replicas,
    as_large_as,
    average_over_live,
    live,
    weighted_by_return,
    width_of,
)
from surefoot.models.row_network import row_losses

if TYPE_CHECKING:
    from surefoot.loops.supervised.learner import SupervisedLearner


@dataclass(frozen=True)
class SequentialPG(Supervised):
    """A classifier retrained with replicas of its head that meet ever more dropout until they are wrong."""

    default_steps: ClassVar[int] = 100
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "released": {"block": "released", "normalise": False},
        "architecture": {"block": "residual"},
    }

    loss: str = hyperparameter("logistic", choices=("logistic",), help="Loss: the log loss of classes.")
    weights: tuple[float, ...] = hyperparameter(
        (0.4, 0.2, 0.1), low=0, help="Weights λ of the replicas, one each; none is plain training."
    )
    dropout: float = hyperparameter(
        0.2,
        low=0,
        below=1,
        help="Dropout that every replica adds; without effect on residual blocks.",
        tune=Range(0.05, 0.4),
    )
    block: str = hyperparameter(
        "linear", choices=BLOCKS, help="Replicas: linear or released with dropout, or residual blocks without."
    )
    stop: bool = hyperparameter(True, help="End a sample's episode with its first wrong prediction.")
    normalise: bool = hyperparameter(True, help="Keep the loss near the size of the model's own.")
    plain: float = hyperparameter(0.5, low=0, high=1, help="Share of the run that is plain training, before.")

    def replicas_of(self, rows: Rows) -> Replicas:
        """The network with its replicas."""
        return Replicas(self.network(), rows.shape, rows.outputs, len(self.weights), self.block)

    def networks(self, rows: Rows) -> dict[str, Net]:
        return {MODEL: self.net(lambda: self.replicas_of(rows), self.loss_of(rows))}

    def deployed(self, vector: Tensor, rows: Rows) -> Tensor:
        width, layers = width_of(self.network(), rows.shape), 2 if self.block == "residual" else 1
        return vector[: len(vector) - len(self.weights) * layers * (width + 1) * width]

    def memory(self, rows: Rows) -> dict[str, Tensor]:
        return {"tolerated": torch.zeros(rows.count)}

    def noise(self, rows: Rows, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        shape = (len(self.weights), size, width_of(self.network(), rows.shape))
        return {"keep": self.kept(torch.rand(shape, generator=generator))}

    def kept(self, uniform: Tensor) -> Tensor:
        """What dropout multiplies by."""
        p = 0.0 if self.block == "residual" else self.dropout
        return (uniform >= p) / (1 - p)

    def beforehand(self, learner: SupervisedLearner) -> Beforehand:
        def stage(batch: Batch, due: tuple[str, ...]) -> dict[str, Tensor]:
            after = learner.iteration >= self.plain * learner.total_steps
            return {"replicas": torch.full((learner.num_seeds,), float(after), device=learner.device)}

        return stage

    def model_loss(self, w: Weights, batch: Batch, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        scores, y = w(MODEL, batch["x"], "chain", batch["noise"]["keep"]), batch["y"]
        losses = row_losses(scores, y.expand(scores.shape[:-1]), rows.kinds)
        choice = scores.squeeze(-1) > 0 if rows.kinds == 2 else scores.argmax(-1)
        alive = live(choice == y)
        tolerated = torch.cat([alive[1:], (alive[-1:] * (choice[-1:] == y))]).sum(0)
        weights = torch.cat([torch.ones(1), batch["replicas"] * torch.tensor(self.weights)])
        counted = (alive if self.stop else torch.ones_like(alive)) * (weights > 0).unsqueeze(1)
        over = weighted_by_return if self.block == "residual" else average_over_live
        loss, base = over(losses, counted, weights), mean_loss(losses[0], batch)
        chained = as_large_as(loss, base) if self.normalise else loss
        metrics = {"memory/tolerated": tolerated, "episode_length": alive.sum(0).mean()}
        return torch.where(batch["replicas"] > 0, chained, base), metrics

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stop and self.block == "residual":
            raise UsageError(
                "stop=False is not allowed with block='residual', whose returns are the steps until a stop."
            )

    def objective(self) -> str:
        if not self.weights:
            return "minimise mean CE"
        alive, weights = "live " * self.stop, (1.0, *self.weights)
        size = ", times exp(CE_0 − L) held constant" * self.normalise
        if self.block == "residual":
            return f"minimise L = mean_i R_i·Σ_t live·CE_it,  R_i = 1 + Σ_t λ_t·live_it,  λ = {weights[1:]}{size}"
        return f"minimise L = Σ_t λ_t·mean over {alive}i of CE(π_t, y_i),  λ = {weights}{size}"

    def steps(self) -> list[str]:
        if not self.weights:
            return []
        first = [f"plain training in the first {self.plain:.0%} of the run, then:"] if self.plain else []
        more = "a residual block" if self.block == "residual" else f"dropout {self.dropout:g} and a {self.block} block"
        ends = ["a sample's episode ends with its first wrong prediction"] if self.stop else []
        return [*first, f"predict 1 + {len(self.weights)} times, before each but the first {more} more", *ends]

    def scheduled(self) -> list[str]:
        return [*super().scheduled(), "plain"]


METHOD = SequentialPG

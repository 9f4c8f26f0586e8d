"""DRRho for pairs: the two views of a row are matched where a reference model can do it and this one cannot yet.

Reach for it where pairs (an image and its text, two halves of a record) are matched and a trained pair of encoders,
good or weak, exists already. Every view is an anchor with a KL-tilted worst case over the other rows of the batch, in
which a row counts by how much more it is taken for the own one than the reference takes it:

    minimise τ·mean over anchors i of log(ε + G_i),  G_i = mean over j ≠ i of exp((d_ij − d_ij(reference))/τ)
    d_ij = e(x_i)·e(z_j) − e(x_i)·e(z_i), and as much for second views z

The normaliser ε + G of an anchor is a moving average over the run, kept for every row: a batch alone is biased. Without
a reference it is the global contrastive loss (SogCLR).

    first = sf.train("drrho-contrastive", data=(np.hstack([X, Z]), ids), first=X.shape[1])
    run = sf.train("drrho-contrastive", data=(np.hstack([X, Z]), ids), first=X.shape[1], hidden=(128,), reference=first)
    one, other = run.agent().embed(np.hstack([X, Z]))

The targets of the table (`ids`) are not learned from; any column will do. Features are cut in the middle by default.

Xiyuan Wei, Ming Lin, Fanjiang Ye, Fengguang Song, Liangliang Cao, My T. Thai, Tianbao Yang, *Model Steering: Learning
with a Reference Model Improves Generalization Bounds and Scaling Laws* (ICML 2025), arXiv:2505.06699.

Differences: the temperature is constant, as in the released runs of DRRho-CLIP; there is no distillation. The released
normaliser also has a factor exp(−S_ii) and divides by B in place of B − 1, which its objective does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.hyperparameters import Choices, Range, hyperparameter
from surefoot.loops.common.folder import Run
from surefoot.loops.common.tables import check_several
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.supervised.method import MODEL, Beforehand, Rows, Supervised
from surefoot.models.saved import holds_agent, load_agent
from surefoot.models.two_views import PairModel, TwoViews
from surefoot.objectives.contrastive import averaged, log_means, margins, of_others

if TYPE_CHECKING:
    from surefoot.loops.supervised.learner import SupervisedLearner


@dataclass(frozen=True)
class DRRhoContrastive(Supervised):
    """Encoders of two views that learn most from the rows on which a reference model is ahead of them."""

    default_steps: ClassVar[int] = 50
    any_table: ClassVar[bool] = False
    without_effect: ClassVar[tuple[str, ...]] = ("loss", "channels")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "drrho-clip": {
            "temperature": 0.01,
            "inner_rate": 1.0,
            "batch_size": 5120,
            "learning_rate": 3.125e-4,
            "weight_decay": 0.2,
        }
    }

    reference: str | None = hyperparameter(
        None, help="Reference: a run of this method or its folder; none for the global contrastive loss."
    )
    first: int | None = hyperparameter(None, low=1, help="Features of the first view; by default half of a row's.")
    width: int = hyperparameter(32, low=1, high=2**14, help="Numbers in an embedding.")
    temperature: float = hyperparameter(
        0.1, above=0, help="τ: less looks at the most similar others only.", tune=Range(0.01, 0.5, log=True)
    )
    inner_rate: float | None = hyperparameter(
        None,
        above=0,
        high=1,
        help="γ: last rate of the normalisers' averages, which falls from 1; by default 4.177·epochs^−0.7265.",
        tune=Choices((0.2, 0.5, 0.8, 1.0)),
    )
    floor: float = hyperparameter(1e-4, low=0, help="ε, which is added to every mean.")
    batch_size: int = hyperparameter(64, low=2, help="Rows per gradient step.", tune=Choices((32, 64, 128, 256)))
    learning_rate: float = hyperparameter(3e-3, above=0, help="Adam's step size.", tune=Range(1e-4, 1e-1, log=True))
    momentum: float | None = hyperparameter(None, low=0, below=1, help="Momentum of descent in place of Adam.")
    weight_decay: float = hyperparameter(0.0, low=0, help="η: a step also takes off the step size·η·weights.")

    def __post_init__(self) -> None:
        if isinstance(self.reference, (Path, Run)):
            object.__setattr__(self, "reference", str(getattr(self.reference, "path", self.reference)))
        super().__post_init__()

    # --- the pairs ---------------------------------------------------------------------------------------------------

    def classes_of(self, table: Table) -> np.ndarray:
        """The targets, which are not learned from, as they are."""
        check_several(table)
        return np.unique(table.y)

    def sizes(self, features: int) -> tuple[int, int]:
        """The features of the two views."""
        first = features // 2 if self.first is None else self.first
        if not 0 < first < features:
            raise UsageError(
                f"first={self.first!r} is not allowed: rows have {features} features, of which each view needs one. "
                "Give both views side by side, X and Z as np.hstack([X, Z]), with first=X.shape[1]."
            )
        return first, features - first

    def columns(self, table: Table) -> dict[str, np.ndarray]:
        if self.reference is None:
            return {}
        one, other = _encoders(self.reference).embed(table.X)
        return {"reference_one": one.astype(np.float32), "reference_other": other.astype(np.float32)}

    # --- what is learned ---------------------------------------------------------------------------------------------

    def networks(self, rows: Rows) -> dict[str, Net]:
        sizes = self.sizes(math.prod(rows.shape))
        made = partial(TwoViews, self.network(), sizes, self.width)
        return {MODEL: self.net(made, self.loss_of(rows), l2=0.0, decay=self.weight_decay)}

    def memory(self, rows: Rows) -> dict[str, Tensor]:
        return {"log_normaliser": torch.full((rows.count, 2), -math.inf)}

    def rate(self, epoch: int, epochs: int) -> float:
        """The rate of the moving averages in an epoch: half a cosine from 1 to its last value."""
        last = min(1.0, 4.177 * epochs**-0.7265) if self.inner_rate is None else self.inner_rate
        return 0.5 * (1 + math.cos(math.pi * epoch / epochs)) * (1 - last) + last

    def beforehand(self, learner: SupervisedLearner) -> Beforehand:
        def now(batch: Batch, due: tuple[str, ...]) -> dict[str, Tensor]:
            rate = self.rate(learner.iteration, learner.total_steps)
            return {"inner_rate": torch.full((learner.num_seeds,), rate, device=learner.device)}

        return now

    def epoch(self, learner: SupervisedLearner) -> None:
        for index in learner.shuffled():
            if index.shape[1] > 1:  # a last row alone has no others
                learner.update(index)

    def excess(self, one: Tensor, other: Tensor, batch: Batch) -> Tensor:
        """The margins of all anchors `[2, B, B]` beyond the reference's, by the temperature."""
        found = margins(one @ other.mT)
        if "reference_one" in batch:
            found = found - margins(batch["reference_one"] @ batch["reference_other"].mT)
        return found / self.temperature

    def model_loss(self, w: Weights, batch: Batch, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """A loss with the gradient of the objective at the normalisers as they are; the objective of the batch is a
        metric."""
        one, other = w(MODEL, batch["x"])
        excess = self.excess(one, other, batch)
        of_batch = log_means(excess.detach(), self.floor)
        normaliser = averaged(batch["memory"]["log_normaliser"].mT, of_batch, batch["inner_rate"])
        weights = of_others((excess.detach() - normaliser.unsqueeze(-1)).exp(), 0.0) / (excess.shape[-1] - 1)
        loss = self.temperature * (weights * excess).sum(-1).mean()
        return loss, {"objective": self.temperature * of_batch.mean(), "memory/log_normaliser": normaliser.mT}

    def model(self, learner: SupervisedLearner, index: int, facts: dict[str, Any]) -> PairModel:
        sizes, vector = self.sizes(math.prod(learner.rows.shape)), learner.weights[MODEL][index].detach().cpu()
        return PairModel(self.network(), sizes, self.width, vector, learner.scale, self.temperature, facts)

    # --- in words ----------------------------------------------------------------------------------------------------

    def objective(self) -> str:
        excess = "d_ij" if self.reference is None else "(d_ij − d_ij(reference))"
        return (
            f"minimise {self.temperature:g}·mean over anchors i of log({self.floor:g} + mean over j ≠ i of "
            f"exp({excess}/{self.temperature:g})),  d_ij = similarity of i with row j − with its own"
        )

    def steps(self) -> list[str]:
        last = "4.177·epochs^−0.7265" if self.inner_rate is None else f"{self.inner_rate:g}"
        first = "the embeddings of the reference, once" if self.reference is not None else "no reference: plain margins"
        return [
            f"{first}; those of this model, {self.width} numbers of length 1 for each view",
            f"the normaliser of every anchor: a moving average over the epochs, its rate from 1 to {last}",
            "other rows weigh exp(excess/τ) / normaliser, held constant in ∇; both views are anchors",
        ]

    def scheduled(self) -> list[str]:
        return [*super().scheduled(), "inner_rate"]


def _encoders(reference: str) -> PairModel:
    """The encoders in a folder of a run or of its agent."""
    folder = Path(reference)
    found = load_agent(folder) if holds_agent(folder) else Run(folder).agent()
    if not isinstance(found, PairModel):
        raise UsageError(
            f"reference={reference!r} is not allowed: it holds a {type(found).__name__}, which does not embed two "
            "views; give the folder of a run of drrho-contrastive."
        )
    return found


METHOD = DRRhoContrastive

"""The inner maximum of WAFL: where rows move in training, and the certificate of a trained model."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity.surrogate import Certificate, ascent_step, certificate
from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.loops.networks.nets import Batch
from surefoot.models.device import computing_on
from surefoot.models.row_network import RowModel
from surefoot.perturbations.ascent import ascend_priced, greatest_curvature, slopes
from surefoot.seeding import numpy_stream

if TYPE_CHECKING:
    from surefoot.loops.supervised.learner import SupervisedLearner

SAMPLE = 256  # rows by which the curvature is estimated in training
MOST, BLOCK, ENOUGH = 5000, 20, 1e-9  # steps of the ascent for a certificate, which ends when 20 gain no more than this


class Worst:
    """What moves the rows of a batch, with a step found at the start of every round; for numbers, whose worst case is
    infinite once the curvature passes the price, also before every batch."""

    def __init__(self, learner: SupervisedLearner, penalty: float, steps: int) -> None:
        self.learner, self.penalty, self.steps = learner, penalty, steps
        self.curvature, self.warned = torch.zeros(learner.num_seeds, device=learner.device), False

    def begin_round(self) -> None:
        """Estimate the curvature at the server's weights by a sample of rows; see `_estimate`."""
        learner = self.learner
        places = numpy_stream(0, "rows of the curvature", learner.iteration).permutation(len(learner.table))[:SAMPLE]
        index = np.sort(places)[None].repeat(learner.num_seeds, 0)
        with computing_on(learner.device):
            self._estimate(learner.batch(index))

    def _estimate(self, batch: Batch) -> None:
        """The curvature of the loss in the rows of a batch, the greatest of each seed.

        Raises:
            UsageError: it is that of a square and above the price, so that rows would move without end.
        """
        found = greatest_curvature(*self.learner.damage(batch))
        self.curvature = found.view(self.learner.num_seeds, -1).amax(1)
        highest = float(self.curvature.nan_to_num(nan=math.inf).max())
        if highest >= self.penalty:
            self._tell(highest)

    def _tell(self, highest: float) -> None:
        said = f"penalty={self.penalty:g} is below the curvature of the loss in the rows, about {highest:.3g}"
        more = f"penalty={2 * highest:.2g} or more" if math.isfinite(highest) else "a greater penalty"
        if self.learner.rows.classes is None:
            raise UsageError(
                f"{said}: the squared error grows faster than the price of moving, so the worst case is infinite and "
                f"the ascent diverges. Give {more}, weight_decay=… or a smaller learning_rate."
            )
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"{said}: a row may have several worst places, of which the ascent finds one nearby. The certificate "
                f"is sure only above the curvature (certificate.holds). Give {more}.",
                stacklevel=2,
            )

    def __call__(self, batch: Batch, due: tuple[str, ...]) -> dict[str, Tensor]:
        """`moved`: the rows where they do most damage net of the price."""
        if self.learner.rows.classes is None:
            self._estimate(batch)
        size = ascent_step(self.penalty, self.curvature).repeat_interleave(batch["x"].shape[1])
        return {"moved": self.learner.attacked(batch, lambda d, m: ascend_priced(d, m, self.penalty, self.steps, size))}


def certified(model: RowModel, table: Table, penalty: float, weights: np.ndarray | None = None) -> Certificate:
    """The certificate of a model on the rows of a table with the weights `[n]`; by an ascent in float64 that goes on
    until it gains nothing."""
    x, y = model.scaled(table.X), torch.from_numpy(model.encoded(table))
    still = {"x": torch.zeros_like(x)}
    if math.isinf(penalty):
        return certificate(penalty, model.losses(table), np.zeros(len(table)), 0.0, weights)

    def damage(moves: dict[str, Tensor]) -> Tensor:
        return model.damage(x + moves["x"], y)

    curvature, moves = float(greatest_curvature(damage, still).max()), still
    if model.classes is None and curvature >= penalty:
        return Certificate(penalty, math.inf, math.inf, curvature)
    losses, squared = slopes(damage, moves)[0], torch.zeros(len(table), dtype=x.dtype)
    for _ in range(MOST // BLOCK):
        before = losses - penalty / 2 * squared
        moves = ascend_priced(damage, moves, penalty, BLOCK, ascent_step(penalty, curvature))
        losses, squared = slopes(damage, moves)[0], (moves["x"].flatten(1) ** 2).sum(1)
        if float((losses - penalty / 2 * squared - before).max()) < ENOUGH:
            break
    highest = max(curvature, float(greatest_curvature(damage, moves).max()))
    return certificate(penalty, losses.numpy(), squared.numpy(), highest, weights)

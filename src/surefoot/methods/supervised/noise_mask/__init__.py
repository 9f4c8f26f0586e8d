"""Noise mask: a light policy paints a mask of noise on each image to regularise a classifier, and is thrown away.

Reach for it as a stage before ordinary training, on images of several kinds. For every image a policy gives a Beta
distribution for each cell of a grid; a mask drawn from them, spread over the pixels and blurred, multiplies the scaled
image. Classifier f and policy are trained together, then f is tuned on clean images:

    A, B = 0.9·base + 0.1·head(x),   base ← 0.99·base + 0.01·mean head(x),   m ~ Beta(exp A, exp B)
    minimise mean_i log Σ_d p(m_id)·CE(f(x·m), y)                  (no gradient through m)

Both networks descend this product. So the classifier's step is its usual one times a factor, about the log of the
number of cells, and the policy makes masks less likely, the more so the greater their loss: the densities' sum is no
likelihood, and there is no baseline, so that masks move even where all are worth the same.
mask="cooperative" is the policy gradient proper, of the reward −CE over that of the clean image, by the mean
log-density of cells; "adversarial" rewards +CE. mask="fixed" draws from Beta(e^½, e^½) everywhere, with no policy: the
control to beat.

Mehmet Can Yavuz, Yang Yang, *Policy Gradient-Driven Noise Mask* (2024), arXiv:2406.14568.

Differences: plain networks in place of ResNets, with no batch normalisation; the classifier's steps follow `anneal`, in
place of a drop every 30 epochs, and tuning has no warm-up. A factor below 0, possible with few cells, is 0, so that the
classifier never ascends. Cells keep 1e-4 from 0 and 1, and A and B stay in [−3, 5]. A row that is no image has a cell
for every feature and no blur.
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
from surefoot.methods.supervised.noise_mask.masks import cells_of, drawn, painted, random_numbers
from surefoot.methods.supervised.noise_mask.policy import Base, entropy, log_density, log_parameters
from surefoot.models.device import computing_on
from surefoot.models.row_network import RowNetwork, row_losses
from surefoot.objectives.score_function import over_group, score_function_loss

if TYPE_CHECKING:
    from surefoot.loops.supervised.learner import SupervisedLearner

POLICY, BASE, TUNED = "policy", "base", "tuned"
MASKS = ("paper", "cooperative", "adversarial", "fixed")
FOLLOWS, FIXED = 0.01, 0.5  # the step of the base; the log parameters of fixed noise


@dataclass(frozen=True)
class NoiseMask(Supervised):
    """A classifier regularised by multiplicative noise that a policy paints on each image, and then tuned without."""

    default_steps: ClassVar[int] = 100
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "released": {
            "grid": 64,
            "blur": 13,
            "sigma": 6.0,
            "batch_size": 256,
            "learning_rate": 0.1,
            "policy_rate": 0.01,
            "tuning_rate": 0.001,
            "weight_decay": 1e-4,
        }
    }

    mask: str = hyperparameter(
        "paper", choices=MASKS, help="Policy: the paper's product loss, REINFORCE for −CE or +CE, or fixed noise."
    )
    grid: int = hyperparameter(8, low=1, high=4096, help="Cells a side of an image, at most one a pixel.")
    blur: int = hyperparameter(3, low=1, high=255, help="Side of the blur's kernel in pixels, odd; 1 for none.")
    sigma: float = hyperparameter(1.5, above=0, help="Deviation of the blur in pixels.")
    masked: float = hyperparameter(
        0.9, above=0, high=1, help="Share of the run with masks; the rest tunes on clean rows.", tune=Range(0.5, 0.95)
    )
    learning_rate: float = hyperparameter(
        0.02, above=0, help="Step size; the paper's loss multiplies it.", tune=Range(1e-3, 1.0, log=True)
    )
    policy_rate: float = hyperparameter(0.005, above=0, help="Step size of the policy.", tune=Range(1e-3, 1, log=True))
    tuning_rate: float = hyperparameter(0.005, above=0, help="Step size after the masks; momentum begins anew.")
    entropy: float = hyperparameter(0.0, low=0, help="Bonus for the policy's entropy; only with REINFORCE.")
    policy_hidden: tuple[int, ...] = hyperparameter((32,), low=1, high=2**16, help="Hidden layers of the policy.")
    policy_channels: tuple[int, ...] = hyperparameter(
        (), low=1, high=2**16, help="Channels of the policy's convolutions before them."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blur % 2 == 0:
            raise UsageError(f"blur={self.blur} is not allowed: a kernel has a middle; give an odd number of pixels.")
        if self.entropy and self.mask not in ("cooperative", "adversarial"):
            raise UsageError(
                f"entropy={self.entropy:g} is not allowed with mask={self.mask!r}; use mask='cooperative' or "
                "'adversarial'."
            )

    def networks(self, rows: Rows) -> dict[str, Net]:
        size, ends = 2 * self.cells(rows), round(self.masked * rows.epochs) * rows.batches
        policy = RowNetwork(self.policy_hidden, self.activation, self.policy_channels)
        stage: dict[str, Any] = {"learning_rate": self.policy_rate, "ends": ends}
        nets = {
            POLICY: self.net(lambda: policy.make(rows.shape, size), self.policy_loss, **stage),
            BASE: Net(lambda: Base(size), rule=self.follow, ends=ends),
        }
        loss = self.loss_of(rows)
        own = {MODEL: self.net(lambda: self.network().make(rows.shape, rows.outputs), loss, ends=ends)}
        after = self.net(own[MODEL].make, loss, of=MODEL, starts=ends, learning_rate=self.tuning_rate, annealed=False)
        return ({} if self.mask == "fixed" else nets) | own | {TUNED: after}

    def cells(self, rows: Rows) -> int:
        """The number of cells of a mask."""
        return torch.Size(cells_of(rows.shape, self.grid)).numel()

    def noise(self, rows: Rows, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        return random_numbers((size, self.cells(rows)), generator)

    def beforehand(self, learner: SupervisedLearner) -> Beforehand:
        def paint(batch: Batch, due: tuple[str, ...]) -> dict[str, Tensor]:
            with torch.no_grad(), computing_on(learner.device):
                return self.painted(learner, batch) if MODEL in due else {}

        return paint

    def painted(self, learner: SupervisedLearner, batch: Batch) -> dict[str, Tensor]:
        """Masks `[seeds, rows, cells]` of a batch, the masked rows, what the policy is told of each (advantage), and
        the factor `[seeds]` of the classifier's loss."""
        x, rows, noise = batch["x"], learner.rows, batch["noise"]
        if self.mask == "fixed":
            logs = (torch.full((*x.shape[:2], self.cells(rows)), FIXED),) * 2
        else:
            logs = log_parameters(learner.weights[BASE].unsqueeze(1), learner.output(POLICY, x))
        m = drawn(*logs, *(noise[name].permute(1, 2, 0, 3, 4) for name in ("normal", "uniform")))
        masked = x * painted(m, rows.shape, self.grid, self.blur, self.sigma)
        found = {"mask": m, "masked": masked, "factor": torch.ones(learner.num_seeds)}
        if self.mask == "fixed":
            return found
        lost = row_losses(learner.output(MODEL, masked), batch["y"], rows.kinds)
        if self.mask == "paper":
            factor = log_density(m, *logs).logsumexp(-1).mean(1).clamp(min=0)
            return found | {"factor": factor, "advantage": -lost.mean(1, keepdim=True).expand_as(lost)}
        gained = row_losses(learner.output(MODEL, x), batch["y"], rows.kinds) - lost
        sign = 1 if self.mask == "cooperative" else -1
        return found | {"advantage": sign * over_group(gained.T).T}

    def policy_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What the policy's weights minimise, and metrics."""
        logs = log_parameters(w.fixed(BASE), w(POLICY, batch["x"]))
        each = log_density(batch["mask"], *logs)
        of_mask = each.logsumexp(-1) if self.mask == "paper" else each.mean(-1)
        bonus = self.entropy * entropy(*logs).mean() if self.entropy else 0.0
        return score_function_loss(of_mask, batch["advantage"]) - bonus, {"mask_log_density": of_mask.detach().mean()}

    def follow(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The base a step nearer to the mean of the policy's head."""
        return w(BASE) + FOLLOWS * (w.before(POLICY, batch["x"]).mean(0) - w(BASE)), {}

    def model_loss(self, w: Weights, batch: Batch, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        losses = row_losses(w(MODEL, batch.get("masked", batch["x"])), batch["y"], rows.kinds)
        value = mean_loss(losses, batch)
        if "masked" not in batch:
            return value, {}
        return batch["factor"] * value, {"objective": value.detach(), "mask_mean": batch["mask"].mean()}

    def found(self, learner: SupervisedLearner, index: int) -> dict[str, Any]:
        if self.mask == "fixed":
            return {}
        a, b = learner.weights[BASE][index].cpu().exp().chunk(2)
        return {"mean_mask": (a / (a + b)).view(cells_of(learner.rows.shape, self.grid)).numpy()}

    def objective(self) -> str:
        loss = f"mean_i ℓ(f(x_i·m_i), y_i),  ℓ = {self.loss_formula()}"
        if self.mask == "paper":
            return f"minimise mean_i log Σ_d Beta(m_id; e^A_id, e^B_id)·{loss}"
        rewards = {"cooperative": "ℓ(f(x)) − ℓ(f(x·m))", "adversarial": "ℓ(f(x·m)) − ℓ(f(x))"}
        if self.mask == "fixed":
            return f"minimise {loss},  m ~ Beta(e^{FIXED:g}, e^{FIXED:g})"
        bonus = f" + {self.entropy:g}·entropy" if self.entropy else ""
        return f"minimise {loss}; the policy maximises E r{bonus},  r = {rewards[self.mask]}"

    def steps(self) -> list[str]:
        blurred = f", blurred by {self.blur}×{self.blur} pixels" if self.blur > 1 else ""
        policy = "policy: A, B = 0.9·base + 0.1·head(x) in every cell; the base follows the head's mean by 0.01"
        step = f"the policy steps by {self.policy_rate:g} on its log-densities, with no gradient through m"
        learned = self.mask != "fixed"
        after = f"in the last {1 - self.masked:.0%} of the run: clean rows, the step {self.tuning_rate:g}"
        return [
            *[policy] * learned,
            f"draw a mask of at most {self.grid}×{self.grid} cells for each row{blurred}, and multiply the row by it",
            *[step] * learned,
            *[after] * (self.masked < 1),
        ]

    def scheduled(self) -> list[str]:
        return [*super().scheduled(), "masked"]


METHOD = NoiseMask

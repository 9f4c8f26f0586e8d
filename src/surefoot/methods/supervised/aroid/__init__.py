"""AROID: adversarial training on images that a policy augments, each in a way of its own, as the classifier learns.

Reach for it where adversarial training overfits: robust accuracy on new rows peaks and then falls. A policy chooses for
every row an option of each group (shift, rotation, contrast, a patch to erase), and learns by the score function which
options make rows vulnerable to attacks without taking them out of the distribution, as a plainly trained judge h sees:

    r = v·[CE(f(x_adv)) − CE(f(x))] − λ·max(0, CE(h(x)) − CE(h(x_0)))        x = the augmented x_0
    L_policy = −mean (r − mean of r over the T draws for the row)·log p(choices) + β·Div

The model takes its steps on rows that are augmented, then attacked. The policy and the judge are thrown away.

*AROID: Improving Adversarial Robustness through Online Instance-wise Data Augmentation* (2024), arXiv:2306.07197.

Differences: four groups of 18 options in place of 137, and vectors have a contrast and features to drop. The judge
learns in the first epochs of the run, before there are augmentations, in place of a training of its own; the policy
begins with them. The band is the released default: among few options the paper's, from 0.9 to 1.3 times the uniform
chance, holds a policy to uniform choices. Attacks keep the worst place on their way, unclipped to [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.data.tables import Table
from surefoot.errors import UsageError
from surefoot.hyperparameters import Choices, Range, hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.supervised.method import MODEL, SCALES, Rows, Supervised, mean_loss
from surefoot.methods.supervised.aroid.augmentations import draws_of, sizes_of
from surefoot.methods.supervised.aroid.augmenting import FALL, JUDGE, POLICY, Augmenting
from surefoot.methods.supervised.aroid.choices import diversity, entropy_share, log_probability
from surefoot.models.row_network import RowNetwork, row_losses
from surefoot.objectives.score_function import score_function_loss

if TYPE_CHECKING:
    from surefoot.loops.supervised.learner import SupervisedLearner


@dataclass(frozen=True)
class AROID(Supervised):
    """Adversarial training with augmentations that a policy learns to choose for every image."""

    default_steps: ClassVar[int] = 100
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "cifar10-wrn": {"radius": 8 / 255, "batch_size": 128, "policy_learning_rate": 1e-3, "band": (0.1, 0.3)},
        "imagenette-vit": {
            "radius": 8 / 255,
            "batch_size": 128,
            "weight_decay": 1e-4,
            "max_grad_norm": 1.0,
            "affinity": (0.3,),
            "band": (0.2, 0.3),
            "stages": (0.9, 0.95),
        },
    }

    loss: str = hyperparameter("logistic", choices=("logistic",), help="Loss: the log loss of classes.")
    scale: str = hyperparameter(
        "auto",
        choices=("auto", *SCALES),
        help="Scaling of features: each to deviation 1, all to [0, 1], or none; auto: [0, 1] for images.",
    )
    radius: float = hyperparameter(
        0.1, above=0, help="ε: how far an attack moves a feature, in scaled units.", tune=Range(0.01, 0.3, log=True)
    )
    attack_steps: int = hyperparameter(10, low=0, help="Steps of ascent, of ε/4 each, that attack the model's rows.")
    vulnerability: float = hyperparameter(1.0, low=0, help="v: weight of what an attack adds to the loss.")
    vulnerability_steps: int = hyperparameter(2, low=0, help="Steps of ascent that tell how vulnerable a row is.")
    affinity: tuple[float, ...] = hyperparameter(
        (0.4, 0.2, 0.1), low=0, help="λ: price of what an augmentation adds to the judge's loss; one, or one a stage."
    )
    stages: tuple[float, ...] = hyperparameter(
        (0.5, 0.75), low=0, high=1, help="Shares of the run after which the next stage begins and the step falls ×0.1."
    )
    diversity: float = hyperparameter(0.8, low=0, help="β: weight of the diversity of choices.", tune=Range(0.0, 1.0))
    band: tuple[float, float] = hyperparameter(
        (0.5, 2.0), low=0, help="(l, u): chances from 1 − l to 1 + u times the uniform one are diverse enough."
    )
    every: int = hyperparameter(
        5, low=1, help="K: gradient steps from one of the policy's to the next.", tune=Choices((1, 5, 20))
    )
    trajectories: int = hyperparameter(8, low=2, help="T: augmentations drawn for each row of the policy's batch.")
    policy_learning_rate: float = hyperparameter(
        0.1, above=0, help="Step size of the policy.", tune=Range(1e-3, 1.0, log=True)
    )
    policy_hidden: tuple[int, ...] = hyperparameter(
        (64,), low=1, high=2**16, help="Sizes of the policy's hidden layers."
    )
    plain: float = hyperparameter(
        0.1,
        low=0,
        high=1,
        help="Share of the run, an epoch at least, without augmentations; in it the judge learns.",
    )
    learning_rate: float = hyperparameter(0.1, above=0, help="Step size.", tune=Range(1e-3, 1.0, log=True))
    batch_size: int = hyperparameter(64, low=1, help="Rows per gradient step.", tune=Choices((32, 64, 128)))
    weight_decay: float = hyperparameter(5e-4, low=0, help="λ of the penalty λ/2·‖weights‖².")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.affinity) not in (1, len(self.stages) + 1):
            raise UsageError(
                f"affinity={self.affinity!r} is not allowed with stages={self.stages!r}: give one price, or "
                f"{len(self.stages) + 1}, one for each stage."
            )
        if list(self.stages) != sorted(self.stages):
            raise UsageError(f"stages={self.stages!r} is not allowed: the shares of the run must rise.")

    # --- the networks ------------------------------------------------------------------------------------------------

    def networks(self, rows: Rows) -> dict[str, Net]:
        def judged(w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            return mean_loss(row_losses(w(JUDGE, batch["x"]), batch["y"], rows.kinds), batch), {}

        def choosing(w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            tried = batch["tried"]
            return self.policy_loss(w(POLICY, tried["x"]), tried, rows)

        network, first = RowNetwork(self.policy_hidden, self.activation, self.channels), self.plain_steps(rows)
        own = {"learning_rate": self.policy_learning_rate, "max_grad_norm": 1.0, "every": self.every, "l2": 0.0}
        return {
            **super().networks(rows),
            JUDGE: self.net(lambda: self.network().make(rows.shape, rows.outputs), judged, ends=first),
            POLICY: self.net(
                lambda: network.make(rows.shape, sum(sizes_of(rows.shape))),
                choosing,
                starts=first,
                annealed=False,
                **own,
            ),
        }

    def plain_steps(self, rows: Rows) -> int:
        """The gradient steps before the first augmentation."""
        return rows.batches * max(1, round(self.plain * rows.epochs))

    def noise(self, rows: Rows, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        uniform = torch.rand(size, sum(sizes_of(rows.shape)), generator=generator).clamp(1e-9, 1 - 1e-7)
        places = torch.rand(size, draws_of(rows.shape), generator=generator)
        return {"gumbel": -(-uniform.log()).log(), "places": places}

    def scaling(self, table: Table) -> tuple[np.ndarray, np.ndarray]:
        if self.scale != "auto":
            return super().scaling(table)
        return replace(self, scale="unit" if len(table.shape) == 3 else "standard").scaling(table)

    # --- what is learned ---------------------------------------------------------------------------------------------

    def model_loss(self, w: Weights, batch: Batch, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        return mean_loss(row_losses(w(MODEL, batch["attacked"]), batch["y"], rows.kinds), batch), {}

    def policy_loss(self, logits: Tensor, tried: Batch, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """What the policy's logits `[rows, options]` minimise, given the choice `[T, rows, groups]` of every draw that
        was tried and its advantage `[T, rows]`."""
        sizes = sizes_of(rows.shape)
        log_p = log_probability(logits.expand(self.trajectories, *logits.shape), tried["choice"], sizes)
        loss = score_function_loss(log_p, tried["advantage"]) + self.diversity * diversity(logits, sizes, self.band)
        figures = {name: tried[name].mean() for name in ("vulnerability", "affinity")}
        return loss, {"policy_entropy": entropy_share(logits.detach(), sizes), **figures}

    def beforehand(self, learner: SupervisedLearner) -> Augmenting:
        return Augmenting(self, learner)

    def found(self, learner: SupervisedLearner, index: int) -> dict[str, Any]:
        assert isinstance(learner.before, Augmenting)
        return {"augmentations": learner.before.chances(index)}

    # --- in words ----------------------------------------------------------------------------------------------------

    def objective(self) -> str:
        return f"minimise mean CE(f(x_adv), y),  ‖x_adv − x‖∞ ≤ {self.radius:g},  x = x_0 as the policy augments it"

    def steps(self) -> list[str]:
        price = ", then ".join(f"{x:g}" for x in self.affinity)
        falls = [f"the step falls ×{FALL:g} after {', '.join(f'{s:.0%}' for s in self.stages)} of the run"]
        scaled = ["scale pixels to [0, 1], or each feature of vectors to mean 0 and deviation 1"]
        return [
            *scaled * (self.scale == "auto"),
            f"no augmentations in the first {self.plain:.0%} of the run (an epoch at least); in it the judge h learns",
            "then augment every row by an option of each group, drawn from the policy",
            f"attack: {self.attack_steps} steps of ascent of ε/4 from the row",
            f"every {self.every} steps, on a fresh batch, draw {self.trajectories} augmentations of every row:",
            f"  r = {self.vulnerability:g}·V − λ·A,  λ = {price};  V: what {self.vulnerability_steps} steps of ascent "
            "add to f's loss, A: what the augmentation adds to h's",
            f"  policy: descend −mean (r − mean over draws)·log p + {self.diversity:g}·Div, by the step "
            f"{self.policy_learning_rate:g}",
            *falls * bool(self.stages),
        ]

    def scheduled(self) -> list[str]:
        return [*super().scheduled(), "plain", "stages"]


METHOD = AROID

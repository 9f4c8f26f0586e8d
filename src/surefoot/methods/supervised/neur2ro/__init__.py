"""Neur2RO: decide before it is known what goes wrong, by a small network that has learned what that costs.

Reach for it where decisions come in two stages, what goes wrong in between is chosen by an adversary, the second stage
is integer, and instances are many and alike: seconds matter more than proofs. The network predicts the optimal second
stage from a choice x and uncertain ξ, and stands inside constraint generation, so that both of its problems are of one
stage:

    x ← argmin_x  c·x + Q(x, ξ_a(x)),   a(x) = argmax_s NN(x, ξ_s)        the true cost at the scenario ranked worst
    ξ ← argmax_ξ  NN(x, ξ)              a new scenario, until the network fears nothing new

So x is judged by a true cost, which its worst case can only exceed, whatever the network's error.

    model = sf.train("neur2ro", data="knapsack:8").agent()
    x = Neur2RO().decide(model, problem).choice             # a Knapsack of surefoot.envs.recourse
    surefoot.envs.recourse.exact.worst_case(problem, x)     # what it costs at worst, exactly

Capital budgeting (`capital-budgeting:8`, a CapitalBudgeting) is decided in the same way: there the network predicts the
value of both stages, from projects and from what ξ makes of their costs and revenues, and the plan keeps to the budget
of the scenario ranked worst.

Justin Dumouchelle, Esther Julien, Jannis Kurtz, Elias Khalil, *Neur2RO: Neural Two-Stage Robust Optimization* (ICLR
2024), arXiv:2310.04345.

Departures:
- Repairs take losses away (−p̂ξr) in the choice's problem too; the released one adds them there.
- Labels are exact, from lists or dynamic programming, in place of a solver with a gap of 1 %.
- ξ is searched by projected ascent from the scenarios and from random starts, which steps along the normalised
  gradient and stays in the set; the paper uses the solver (preset paper), and its own ascent stops at the set's edge.
- Choices of up to ten items are listed; HiGHS takes the place of Gurobi.
- The last network is used; the paper keeps the best one on held-out rows. A run learns problems of one size.
- In capital budgeting no choice is made that some ξ could make too dear, from the first one on; the paper adds this cut
  when it is broken. The network learns from such choices only, and ξ lies in [0, 1] in place of [−1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from surefoot.data.tables import Table
from surefoot.hyperparameters import Choices, Range, hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.supervised.method import MODEL, Rows, Supervised, mean_loss
from surefoot.methods.supervised.neur2ro.deciding import Search
from surefoot.models.set_model import SetModel, Widths, divided
from surefoot.models.set_value import SetSizes, SetValue

if TYPE_CHECKING:
    from surefoot.loops.supervised.learner import SupervisedLearner


@dataclass(frozen=True)
class Neur2RO(Supervised, Search, SetSizes):
    """A learned second stage inside constraint generation, for two-stage robust decisions in seconds."""

    batch_size: int = hyperparameter(256, low=1, help="Rows per gradient step.", tune=Choices((64, 128, 256, 512)))
    learning_rate: float = hyperparameter(1e-3, above=0, help="Adam's step size.", tune=Range(1e-4, 1e-2, log=True))
    momentum: float | None = hyperparameter(None, low=0, below=1, help="Momentum of descent in place of Adam.")

    scale: str = hyperparameter("none", choices=("none",), help="The method scales by itself.")

    default_steps: ClassVar[int] = 500
    any_table: ClassVar[bool] = False
    without_effect: ClassVar[tuple[str, ...]] = ("loss", "hidden", "activation", "channels", "scale")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"choices_by": "highs", "losses_by": "highs"},
        "small": {"item_hidden": 16, "item_size": 8, "set_size": 2, "value_hidden": 4},
        "max": {"formulation": "max"},
    }

    @property
    def classifies(self) -> bool:
        return False

    # --- what is learned ---------------------------------------------------------------------------------------------

    def sizes(self) -> SetSizes:
        """The sizes of the network's parts."""
        return SetSizes(self.item_hidden, self.item_size, self.set_hidden, self.set_size, self.value_hidden)

    def networks(self, rows: Rows) -> dict[str, Net]:
        widths = Widths.of(rows.features)
        return {MODEL: self.net(lambda: SetValue(widths.features, self.sizes(), widths.entries), self.loss_of(rows))}

    def model_loss(self, w: Weights, batch: Batch, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared error of the scaled value."""
        predicted = w(MODEL, *divided(batch["x"], Widths.of(rows.features)))
        error = predicted - batch["y"]
        return mean_loss(error**2, batch), {"absolute_error": mean_loss(error.detach().abs(), batch)}

    def target_scaling(self, table: Table) -> tuple[float, float]:
        """The values come to [0, 1]."""
        least, spread = _range(table.y)
        return float(least), float(spread)

    def scaling(self, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """What is known of the items comes to [0, 1], each of its kinds by itself; x and ξ are there already."""
        x, xi, items = divided(torch.as_tensor(table.X), Widths.of(table.features))
        n, before = x.shape[-1], x.shape[-1] + xi.shape[-1]
        low, width = _range(items.flatten(0, 1).numpy())
        return np.append(np.zeros(before), np.tile(low, n)), np.append(np.ones(before), np.tile(1 / width, n))

    def model(self, learner: SupervisedLearner, index: int, facts: dict[str, Any]) -> SetModel:
        """The value in the units of the problem."""
        widths, table = Widths.of(learner.rows.features), learner.table
        network = SetValue(widths.features, self.sizes(), widths.entries).double()
        torch.nn.utils.vector_to_parameters(learner.weights[MODEL][index].detach().cpu().double(), network.parameters())
        network.fit_scales(divided(torch.as_tensor(table.X), widths)[2], torch.as_tensor(table.y))
        return SetModel(network, facts)

    # --- in words ----------------------------------------------------------------------------------------------------

    def objective(self) -> str:
        parts = "V(Ψ(Σ_k Φ(x_k, f_k)), Ψ'(Σ_k Φ'(ξ_k, f_k)))"
        return f"minimise the mean of (NN(x, ξ) − Q(x, ξ))²,  NN = {parts}, values scaled to [0, 1]"

    def steps(self) -> list[str]:
        return [
            "what is known of the items and the values are scaled to [0, 1], each kind by itself",
            "Φ and Ψ have no biases, so that items of zeros add nothing",
        ]

    def algorithm(self) -> list[str]:
        cost = {
            "argmax": "c·x + Q(x, ξ_a) at the scenario a of the greatest NN(x, ξ_s)",
            "max": "c·x + the greatest NN(x, ξ_s)",
        }
        return [
            *super().algorithm(),
            f"to decide: x ← the choice of least {cost[self.formulation]} ({self.choices_by})",
            f"    ξ ← that of greatest NN(x, ξ) ({self.losses_by}), a new scenario",
            f"    until it gains no more than {self.tolerance:g} of the prediction, or for {self.scenarios} scenarios",
        ]


def _range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least entries and the widths, over the first axis."""
    return values.min(0), np.ptp(values, axis=0).clip(min=1e-12)


METHOD = Neur2RO

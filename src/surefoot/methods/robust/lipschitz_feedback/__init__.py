"""Lipschitz feedback: behaviour cloning whose policy moves by at most α times an error of what it sees, for certain.

    minimise  mean ‖π(s) − a‖²   subject to  ‖π(s) − π(s')‖ ≤ α·‖s − s'‖ for all s, s'

Use it to clone demonstrations where the measured state may be wrong, or attacked, and a bound is wanted rather than the
damage of one attack. α is the one number that trades imitation against sensitivity: less is further from the expert,
and less moved. Where the expert's own loop contracts, `closed_loop` bounds how far the state can drift and what it can
cost; on a plant that is unstable by itself a small α stabilises less, and nothing is gained. The constant is that of
the whole map, from the observation as it is to the action in its units: layers are scaled back after each step, the
normaliser and the action box counted in. `surefoot certify RUN --what action` proves it of the agent.

Two other solvers of the same problem are functions: `graph.policy` fits the best of all Lipschitz functions to up to
1,000 states, and extends it to every place; `spectral.linear` fits a gain u = −K·x.

Abed AlRahman Al Makdah, Vishaal Krishnan, Fabio Pasqualetti, *Learning Lipschitz Feedback Policies from Expert
Demonstrations: Closed-Loop Guarantees, Generalization and Robustness* (2021), arXiv:2103.16629.

Differences: only the abstract was at hand. The problem and its kind of guarantees are the paper's; solvers, networks,
bounds and defaults are a reconstruction, and multipliers of the graph are found by L-BFGS, not by a flow. Actions end
in a tanh, whose slope only lowers the constant. Activations are those of slope 1 at most; sorting ones are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError
from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.offline.learner import OfflineLearner
from surefoot.loops.offline.method import Beforehand
from surefoot.methods.offline.baselines import BC
from surefoot.methods.robust.lipschitz_feedback.closed_loop import distances
from surefoot.methods.robust.lipschitz_feedback.spectral import norm_above
from surefoot.models.bounds import end_to_end, in_units, whole
from surefoot.models.networks import is_image

PAIRED = 1000  # rows whose pairs tell how steep the data are
NEAR = 1e-3  # of the diameter: nearer pairs tell of noise
PERCENTILE = 95
ROUNDING = 1e-5  # of single precision, by which layers stay below their limits


def slope_of(data: Transitions) -> float:
    """The 95th percentile of ‖a − a'‖/‖s − s'‖ over pairs of up to 1,000 rows, without the nearest pairs."""
    rows = np.linspace(0, len(data) - 1, min(len(data), PAIRED)).astype(int)
    state, action = (x[rows].reshape(len(rows), -1) for x in (data.observation, data.action))
    apart = distances(state, state)
    far = np.triu(apart > NEAR * apart.max(), 1)
    if not far.any() or not (found := float(np.percentile(distances(action, action)[far] / apart[far], PERCENTILE))):
        raise UsageError(
            f"{data.name} does not say how steep its policy is: all its states or all its actions are the same. Give "
            "lipschitz=…, or other data."
        )
    return found


@dataclass(frozen=True)
class LipschitzFeedback(BC):
    """Behaviour cloning under a certified bound on how much an action changes with the observation."""

    default_steps = 100_000
    without_effect = (*BC.without_effect, "cnn")

    lipschitz: float | None = hyperparameter(
        None,
        above=0,
        help="Bound α, actions per observation in their own units; the data's 95th percentile slope if none is given.",
        tune=Range(0.1, 10, log=True),
    )
    learning_rate: float = hyperparameter(1e-3, above=0, help="Adam's learning rate.", tune=Range(1e-5, 1e-2, log=True))
    hidden: tuple[int, ...] = hyperparameter(
        (64, 64), low=1, high=2**16, help="Sizes of the hidden layers; none for a linear policy before tanh."
    )
    activation: str = hyperparameter(
        "relu", choices=("relu", "tanh", "elu"), help="Activation between linear layers, of slope 1 at most."
    )

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        if is_image(observation_space):
            raise UsageError(f"observations of {observation_space} are images; a Lipschitz policy sees one vector.")
        box: Any = self.actor_network().distribution(action_space)
        outward = [(high - low) / 2 for low, high in zip(box.low, box.high, strict=True)]
        (actor,) = super().networks(observation_space, action_space).values()

        def project(w: Weights, batch: Batch) -> Tensor:
            flat, vector = w.functions["actor"].flat, w.now["actor"]
            params = flat.unflatten(vector)
            names = [name for name in params if name.endswith("weight")]
            allowed = limited(
                [params[n] for n in names], batch["inward"], vector.new_tensor(outward), batch["lipschitz"]
            )
            return flat.flatten({**params, **dict(zip(names, allowed, strict=True))})

        return {"actor": replace(actor, project=project)}

    def beforehand(self, learner: OfflineLearner) -> Beforehand:
        bound = slope_of(learner.data) if self.lipschitz is None else self.lipschitz
        ones = torch.ones(learner.num_seeds, learner.columns["observation"][0].numel(), device=learner.device)

        def known(batch: Batch, due: tuple[str, ...]) -> dict[str, Tensor]:
            inward = learner.scales()[""][1].reshape(ones.shape) if learner.moments else ones  # each seed's own
            return {"inward": inward, "lipschitz": bound * ones[:, 0]}

        return known

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().actor_loss(w, batch)
        return loss, {**metrics, "lipschitz_bound": batch["lipschitz"]}

    def after_iteration(self, learner: Any) -> dict[str, Tensor]:
        """The Lipschitz constant that is proved of each seed's policy as it is."""
        found = [float(whole(end_to_end(learner.agent(index)))) for index in range(learner.num_seeds)]
        return {"lipschitz": torch.tensor(found)}

    def objective(self) -> str:
        bound = "α" if self.lipschitz is None else f"{self.lipschitz:g}"
        return f"{super().objective()}  subject to  ‖π(s) − π(s')‖ ≤ {bound}·‖s − s'‖"

    def steps(self) -> list[str]:
        bound = "α" if self.lipschitz is None else f"{self.lipschitz:g}"
        found = [f"α is the slope that {PERCENTILE} % of pairs of the data do not exceed"] * (self.lipschitz is None)
        depth = len(self.hidden) + 1
        return [
            *found,
            *super().steps(),
            f"layers of spectral norm above {bound}^(1/{depth}) are scaled back to it, units of both ends counted in",
        ]


def limited(weights: list[Tensor], inward: Tensor, outward: Tensor, bound: Tensor) -> list[Tensor]:
    """The weights of layers, scaled down where they have to be for the product of their spectral norms to be at most
    `bound`, with the factors `inward [in]` of what the first one gets and `outward [out]` of what the last one says.
    In the units of the network every layer has the same share."""
    depth, ends = len(weights), (inward.abs().amax(), outward.abs().amax())
    share = (bound / (ends[0] * ends[1])) ** (1 / depth) * (1 - ROUNDING)
    limits = [share] * depth
    limits[0], limits[-1] = limits[0] * ends[0], (limits[-1] if depth > 1 else limits[0] * ends[0]) * ends[1]
    norms = [norm_above(x) for x in in_units(weights, inward, outward)]
    return [x * (most / norm).clamp(max=1) for x, most, norm in zip(weights, limits, norms, strict=True)]


METHOD = LipschitzFeedback

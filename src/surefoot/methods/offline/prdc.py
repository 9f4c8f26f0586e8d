"""PRDC: TD3 on data whose actor stays near the nearest state and action of all the data, not near its own row's.

    critics: as in TD3
    actor: minimise  −α·mean Q_1(s, π(s)) / mean |Q_1|  +  mean (π(s) − a_j)²
        j = argmin_i ‖(β·s, π(s)) − (β·s_i, a_i)‖        over all rows i of the data, without a gradient

Use it where behaviour was poor but varied, and states have few dimensions. TD3+BC pulls the actor towards what was done
in s, good or bad. Here it may take an action that was done in a similar state: its distance to the data is never more
than that to any action done in s itself, and the pull vanishes wherever the data have such a pair. β says how similar a
state must be: with β = 0 any row's action will do, and in the limit of large β it is TD3+BC. The actor cannot cross a
gap in the data where the pull is stronger than the value's slope; a larger α then helps.

Yuhang Ran et al., *Policy Regularization with Dataset Constraint for Offline Reinforcement Learning* (2023),
arXiv:2306.06569. Defaults are the settings of the authors' code for hopper and walker2d, presets those for other
tasks; in AntMaze they expect rewards of 10⁴·r − 1.

Differences: the paper writes the distance itself, of which the actor moves the action's part alone; this is the square
of that part, a mean over dimensions, as in the authors' code. Actions are scaled to [−1, 1], and networks are
initialised as torch does. The search is exact, by a k-d tree on the CPU: it is slow beyond about 20 dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.networks.nets import Batch, Weights
from surefoot.loops.offline.learner import OfflineLearner
from surefoot.loops.offline.method import Beforehand
from surefoot.methods.offline.baselines import TD3BC
from surefoot.models.distributions import from_box
from surefoot.models.observations import normalize_observation

Pairs = NDArray[np.float64]


def nearest(state: Pairs, action: Pairs, beta: float) -> Callable[[Pairs, Pairs], tuple[Pairs, NDArray[np.int64]]]:
    """A search among pairs `[rows, ...]`: from states and actions `[..., dim]` to the distance
    `min_i ‖(β·s, a) − (β·s_i, a_i)‖` and the row i that has it, `[...]` each (PRDC, arXiv:2306.06569, definition 1)."""
    tree = KDTree(np.concatenate([beta * state, action], -1))
    return lambda s, a: tree.query(np.concatenate([beta * s, a], -1))  # type: ignore[return-value]


@dataclass(frozen=True)
class PRDC(TD3BC):
    """TD3 whose actor stays near the nearest state and action of all the data."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "halfcheetah": {"alpha": 40.0},
        "antmaze": {"alpha": 7.5, "state_weight": 7.5},
    }

    state_weight: float = hyperparameter(
        2.0,
        low=0,
        high=1e6,
        help="Weight β of states in the distance; 0 ignores them.",
        tune=Range(0.1, 20, log=True),
    )

    def beforehand(self, learner: OfflineLearner) -> Beforehand:
        box, device = learner.distribution, learner.device
        scales = {key: (mean[0], inverse[0]) for key, (mean, inverse) in learner.scales().items()}
        state: Any = normalize_observation(learner.columns["observation"], scales)
        action = from_box(learner.columns["action"].flatten(1), box.low, box.high)  # type: ignore[attr-defined]
        search = nearest(_keys(state.flatten(1)), _keys(action), self.state_weight)

        def look_up(batch: Batch, due: tuple[str, ...]) -> dict[str, Tensor]:
            if "actor" not in due:
                return {}
            state = batch["observation"]
            _, rows = search(_keys(state.flatten(2)), _keys(learner.output("actor", state)))
            return {"nearest": action[torch.from_numpy(rows).to(device)]}

        return look_up

    def target_action(self, w: Weights, batch: Batch, action: Tensor) -> Tensor:
        """The action to stay near: that of the nearest pair in the data."""
        return batch["nearest"]

    def objective(self) -> str:
        cloned = super().objective().replace("(π(s) − a)²", "(π(s) − a_j)²")
        return f"{cloned},  j = argmin_i ‖({self.state_weight:g}·s, π(s)) − ({self.state_weight:g}·s_i, a_i)‖"

    def steps(self) -> list[str]:
        every = "" if self.policy_delay == 1 else f"every {self.policy_delay} steps, "
        return [f"{every}search the data for the pair nearest to (s, π(s))", *super().steps()]


def _keys(x: Tensor) -> Pairs:
    return x.detach().cpu().numpy().astype(np.float64)


METHOD = PRDC

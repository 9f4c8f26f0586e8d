"""CFGRL for goals: a flow policy of trajectories without rewards, guided to a goal as far as one wants when it acts.

    g = what a later state of the same trajectory, drawn uniformly, has reached
    flow: minimise  mean ‖v(x_t, t | s, g) − (a − x_0)‖² + c·mean ‖v(x_t, t | s) − (a − x_0)‖²
    act:  follow  v(· | s) + w·(v(· | s, g) − v(· | s))  from noise x_0

Use it where logs show what can be reached but not what was wanted. w = 1 is goal-conditioned cloning; by Bayes' rule a
larger w prefers actions after which the goal is more likely reached than after the others, without a value function.
Observations need room for a goal: entries `goal`, whose recorded values are not used, and `achieved`, those that say
what is reached. A goal-conditioned environment has both (`wrappers=["flatten"]` makes one vector of them).

Kevin Frans, Seohong Park, Pieter Abbeel, Sergey Levine, *Diffusion Guidance Is a Controllable Policy Improvement
Operator* (2025), arXiv:2505.23458.

Differences: the flow without a goal is fitted on every row with the weight c, not on a random share of the rows; it
sees zeros and another label in place of the goal. A cloned policy of one action is trained beside it (`agent.ruled()`).
The hierarchy of two flows is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from surefoot.data.transitions import Transitions
from surefoot.errors import UsageError
from surefoot.hyperparameters import Choices, hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.offline.learner import OfflineLearner
from surefoot.loops.offline.method import Beforehand
from surefoot.methods.offline.baselines import BC
from surefoot.methods.offline.cfgrl import flow_noise, off_path
from surefoot.models.flow import FlowNetwork, Guided, without
from surefoot.models.normalizers import normalize


@dataclass(frozen=True)
class GoalCFGRL(BC):
    """A flow policy towards what later states have reached, guided to a goal as far as one wants when it acts."""

    goal: tuple[int, ...] = hyperparameter((), low=0, help="Entries of the observation that say the goal; () for none.")
    achieved: tuple[int, ...] = hyperparameter((), low=0, help="Entries that say what is reached, in the same order.")
    guidance: float = hyperparameter(
        3.0, low=0, high=1000, help="Weight w of guidance when the agent acts; training knows nothing of it.",
        tune=Choices((1.0, 1.5, 3.0, 5.0, 10.0)),
    )  # fmt: skip
    flow_steps: int = hyperparameter(16, low=1, high=1000, help="Steps from noise to an action.")
    unconditional: float = hyperparameter(0.1, above=0, help="Weight c of the flow that sees no goal.")
    flow_hidden: tuple[int, ...] = hyperparameter((256, 256), low=1, high=2**16, help="Hidden layers of the flow.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.goal) != len(self.achieved) or {*self.goal} & {*self.achieved}:
            raise UsageError(
                f"goal={self.goal} is not allowed with achieved={self.achieved}: name as many entries of what is "
                "reached as of the goal, none of them twice."
            )

    @property
    def acting_rules(self) -> tuple[Guided, ...]:  # type: ignore[override]
        return (Guided(self.guidance, self.flow_steps, self.goal),)

    def fitted(self, data: Transitions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As that of the data; a goal is normalised as what is reached."""
        mean, deviation = super().fitted(data)
        width = mean.size
        if wrong := [i for i in (*self.goal, *self.achieved) if i >= width or mean.ndim != 1]:
            raise UsageError(f"the entry {wrong[0]} is not there: observations of {data.name} are {mean.shape}.")
        for part in (mean, deviation):
            part[[*self.goal]] = part[[*self.achieved]]
        return mean, deviation

    def noise(self, size: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        return {**flow_noise(size, action_space, generator), "later": torch.rand(size, generator=generator)}

    def beforehand(self, learner: OfflineLearner) -> Beforehand | None:
        if not self.goal:
            return None
        bounds, seen = learner.data.bounds, learner.columns["next_observation"]
        past = torch.from_numpy(np.repeat(bounds[:, 1], bounds[:, 1] - bounds[:, 0])).to(learner.device)
        reached = seen[:, [*self.achieved]]
        if learner.moments:
            mean, inverse = (x[0, 0, [*self.achieved]] for x in learner.scales()[""])
            reached = normalize(reached, mean, inverse)

        def relabelled(batch: Batch, due: tuple[str, ...]) -> dict[str, Tensor]:
            index = batch["index"]
            row = index + (batch["noise"]["later"] * (past[index] - index)).long()
            observation = batch["observation"].clone()
            observation[..., [*self.goal]] = reached[row]
            return {"observation": observation}

        return relabelled

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        network = FlowNetwork(self.flow_hidden, cnn=self.cnn)
        step: dict[str, Any] = {"learning_rate": self.learning_rate, "max_grad_norm": self.max_grad_norm}
        flow = Net(lambda: network.make(observation_space, action_space), self.flow_loss, kept=network, **step)
        return {**super().networks(observation_space, action_space), "flow": flow}

    def flow_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The errors of the velocities with and without the goal, on the same paths."""
        seen = batch["observation"]
        given, clone = off_path(w, batch, seen, 1).mean(), off_path(w, batch, without(seen, self.goal), 0).mean()
        found = {"flow_loss": given.detach(), "cloning_loss": clone.detach()}
        return given + self.unconditional * clone, found

    def objective(self) -> str:
        given, clone = (f"(v(x_t, t | {told}) − a + x_0)²" for told in ("s, g", "s"))
        return (
            f"{super().objective()}\nflow: mean {given} + {self.unconditional:g}·mean {clone},  x_t = (1 − t)·x_0 + t·a"
        )

    def steps(self) -> list[str]:
        goal = "put what a later state of the same episode has reached in the place of the goal"
        return [
            *([goal] if self.goal else []),
            *super().steps(),
            f"flow: one step of Adam({self.learning_rate:g})",
            f"the agent: {self.flow_steps} steps from noise along v(s) + {self.guidance:g}·(v(s, g) − v(s)); "
            "agent.acting(guidance=…) changes it",
        ]


METHOD = GoalCFGRL

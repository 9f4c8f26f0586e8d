"""CFGRL: a flow policy that is improved when it acts, by guidance towards better actions, not when it is trained.

    critics, V: as in IQL        o = 1[A ≥ 0],  A = min_i Q_i⁻(s, a) − V(s)
    flow: minimise  mean o·‖v(x_t, t | s, 1) − (a − x_0)‖² + c·mean ‖v(x_t, t | s, 0) − (a − x_0)‖²
    act:  follow  v(· | s, 0) + w·(v(· | s, 1) − v(· | s, 0))  from noise x_0 ~ N(0, I)

Use it where a policy is extracted from data by a critic, and how far it may leave the data is to be chosen afterwards.
By Bayes' rule the field followed is nearly that of π̂(a|s)·p(o|s, a)^w, which improves on the data's π̂ for every w ≥ 0:
w = 0 clones the data, 1 their better half, 3 goes beyond it, and a very large w leaves them. All are one training run:
`agent.acting(guidance=5.0)`, also of a loaded agent. AWR, which this replaces, needs a run for each temperature; the
policy that IQL extracts that way is trained beside the flow, and `agent.ruled()` acts by it. `cfgrl-goals` is guided to
goals, and needs neither rewards nor a critic.

Kevin Frans, Seohong Park, Pieter Abbeel, Sergey Levine, *Diffusion Guidance Is a Controllable Policy Improvement
Operator* (2025), arXiv:2505.23458.

Differences: no layer norm, a swish activation, and two layers of 256 by default; times are uniform, as in the code for
OGBench. The most likely action is that to which noise of 0 is carried; sampled ones begin at noise, as in the paper. A
guided field is exactly that of the weighted product only where both parts have the same spread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.hyperparameters import Choices, Range, hyperparameter
from surefoot.loops.common.schedule import annealing
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.methods.offline.baselines import IQL
from surefoot.models.actors import action_size
from surefoot.models.flow import FlowNetwork, Guided, on_path
from surefoot.models.networks import Observation

PAPER: dict[str, Any] = {"batch_size": 1024, "hidden": (512, 512, 512), "flow_hidden": (512, 512, 512)}


@dataclass(frozen=True)
class CFGRL(IQL):
    """A flow policy of a data set, guided towards actions of positive advantage as far as one wants when it acts."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": PAPER}

    expectile: float = hyperparameter(
        0.9,
        above=0,
        below=1,
        help="Expectile τ of V: near 1, few actions have a positive advantage.",
        tune=Range(0.5, 0.95),
    )
    guidance: float = hyperparameter(
        3.0, low=0, high=1000, help="Weight w of guidance when the agent acts; training knows nothing of it.",
        tune=Choices((1.0, 1.5, 3.0, 5.0, 10.0)),
    )  # fmt: skip
    flow_steps: int = hyperparameter(32, low=1, high=1000, help="Steps from noise to an action.")
    unconditional: float = hyperparameter(0.1, above=0, help="Weight c of the flow that clones all actions.")
    flow_hidden: tuple[int, ...] = hyperparameter((256, 256), low=1, high=2**16, help="Hidden layers of the flow.")
    anneal: str = annealing("none")

    @property
    def acting_rules(self) -> tuple[Guided, ...]:  # type: ignore[override]
        return (Guided(self.guidance, self.flow_steps),)

    def noise(self, size: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        return flow_noise(size, action_space, generator)

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        network = FlowNetwork(self.flow_hidden, cnn=self.cnn)
        step: dict[str, Any] = {"learning_rate": self.learning_rate, "max_grad_norm": self.max_grad_norm}
        nets = super().networks(observation_space, action_space)
        return {
            **nets,
            "flow": Net(lambda: network.make(observation_space, action_space), self.flow_loss, kept=network, **step),
        }

    def weights(self, advantage: Tensor) -> Tensor:
        """How much an action of this advantage `[batch]` counts for the guided label: 1 if it is not negative."""
        return (advantage >= 0).to(advantage.dtype)

    def flow_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The errors of both labels' velocities on the same paths, a mean over all rows, also where none is good."""
        advantage = self.paid(w, batch) - w.before("value", batch["observation"])
        good = self.weights(advantage)
        missed = [off_path(w, batch, batch["observation"], label) for label in (1, 0)]
        given, without = (good * missed[0]).mean(), missed[1].mean()
        found = {"flow_loss": given.detach(), "cloning_loss": without.detach(), "positive": good.mean()}
        return given + self.unconditional * without, found

    def objective(self) -> str:
        given, without = (f"(v(x_t, t | s, {label}) − a + x_0)²" for label in (1, 0))
        flow = f"flow: mean 1[u ≥ 0]·{given} + {self.unconditional:g}·mean {without}"
        return f"{super().objective()}\n{flow},  x_t = (1 − t)·x_0 + t·a"

    def steps(self) -> list[str]:
        *most, targets = super().steps()
        return [
            *most,
            f"flow: one step of Adam({self.learning_rate:g})",
            targets,
            f"the agent: {self.flow_steps} steps from noise along v(0) + {self.guidance:g}·(v(1) − v(0)); "
            "agent.acting(guidance=…) changes it",
        ]


def flow_noise(size: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
    """The beginnings of paths and the times on them."""
    start = torch.randn(size, action_size(action_space), generator=generator)
    return {"start": start, "time": torch.rand(size, generator=generator)}


def off_path(w: Weights, batch: Batch, observation: Observation, label: int) -> Tensor:
    """The squared error `[batch]` of the flow's velocity under a label, a mean over dimensions."""
    start, time, action = batch["noise"]["start"], batch["noise"]["time"], batch["action"]
    velocity = w("flow", observation, on_path(start, action, time), time, label)
    return ((velocity - (action - start)) ** 2).mean(-1)


METHOD = CFGRL

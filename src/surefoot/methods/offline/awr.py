"""AWR: values of the policy that made the data, and a policy that clones the actions which did better than those.

    V: minimise  mean (G − V(s))²        G_t = r_t + γ·((1 − λ)·V(s_t+1) + λ·G_t+1),  the TD(λ) return
    π: minimise  mean min(exp(A/β), c)·(−log π(a|s))        A = G − V(s)

Use it where episodes are whole and mostly of one policy: returns are measured along the recorded paths, no critic of
actions is learned, and nothing is asked about actions that are not in the data. That makes it steady, and timid: it
improves on the data by one step, as far as the temperature β lets it, and cannot join good parts of bad episodes beyond
the reach of λ. β is in units of return: a small one clones only what did better than expected. With β → ∞ it is plain
cloning.

Xue Bin Peng, Aviral Kumar, Grace Zhang, Sergey Levine, *Advantage-Weighted Regression: Simple and Scalable Off-Policy
Reinforcement Learning* (2019), arXiv:1910.00177. Defaults are the paper's; the preset `released` is what the authors'
code does, which standardises advantages over all data and has β = 1.

Differences: on a data set nothing is collected between iterations. V and the policy learn at once, from the same
batches and the returns of the last `refresh`; the paper fits V first. Adam in place of momentum, batches of 256 and two
layers of 256, and a Gaussian with a mean within the box and a learned deviation that no state changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.offline.learner import OfflineLearner
from surefoot.loops.offline.method import Beforehand, Offline
from surefoot.models.actors import ActorNetwork, StateValue
from surefoot.objectives.bootstrap import advantage_weights

SMALLEST = 1e-5  # added to the deviation by which advantages are divided


def lambda_returns(
    reward: Float[Tensor, "rows"],
    discount: Float[Tensor, "rows"],
    following: Float[Tensor, "*seeds rows"],
    last: Tensor,
    lam: float,
) -> Float[Tensor, "*seeds rows"]:
    """`G_t = r_t + γ_t·((1 − λ)·V(s'_t) + λ·G_{t+1})` of episodes one after another, with `G_{t+1}` replaced by V(s'_t)
    in the `last` row of each, `[rows]` bool. `following` is V(s'), `discount` γ, or 0 after a termination.

    A recursion of n rows takes log2(n) passes over all: each doubles how far a row looks ahead.
    """
    ahead = torch.where(last, 0.0, lam * discount)
    found, step, rows = reward + (discount - ahead) * following, 1, len(reward)
    while step < rows and bool((ahead != 0).any()):
        found = torch.cat([found[..., :-step] + ahead[:-step] * found[..., step:], found[..., -step:]], -1)
        ahead = torch.cat([ahead[:-step] * ahead[step:], ahead[-step:] * 0])
        step *= 2
    return found


@dataclass(frozen=True)
class AWR(Offline):
    """Advantage-weighted regression: actions are cloned the more, the better their return was than expected."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"released": {"temperature": 1.0, "standardize": True}}
    without_effect = (*Offline.without_effect, "tau")

    temperature: float = hyperparameter(
        0.05,
        above=0,
        help="β: small clones only actions that did better; in units of return.",
        tune=Range(0.01, 10, log=True),
    )
    lam: float = hyperparameter(0.95, low=0, high=1, help="TD(λ): 0 trusts V after one step, 1 the recorded returns.")
    largest_weight: float = hyperparameter(20.0, above=0, help="Limit c of the weights of actions.")
    standardize: bool = hyperparameter(
        False, help="Standardise advantages over all data; β is then in units of their deviation."
    )
    refresh: int = hyperparameter(1000, low=1, help="Gradient steps from one computation of all returns to the next.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.log_every % self.refresh:
            raise UsageError(
                f"refresh={self.refresh} is not allowed with log_every={self.log_every}: returns are computed anew "
                "where a run is resumed, which is after log_every steps. Give a refresh that divides it."
            )

    def actor_network(self) -> ActorNetwork:
        return ActorNetwork("bounded", self.hidden, self.activation, self.cnn)

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        step: dict[str, Any] = {"learning_rate": self.learning_rate, "max_grad_norm": self.max_grad_norm}

        def value() -> StateValue:
            return StateValue(observation_space, self.hidden, self.activation, self.cnn)

        return {
            "value": Net(value, self.value_loss, **step),
            "actor": Net(self.make_actor(observation_space, action_space), self.actor_loss, **step),
        }

    def beforehand(self, learner: OfflineLearner) -> Beforehand:
        data, found = learner.data, dict[str, Tensor]()
        last = torch.from_numpy(data.ended).to(learner.device)
        apart = torch.from_numpy(data.ended).to(learner.device)  # rows whose s' is not the s of the next row
        apart[:-1] |= ~torch.from_numpy(data.follows).to(learner.device)
        (rows,) = torch.where(apart)

        def look_up(batch: Batch, due: tuple[str, ...]) -> dict[str, Tensor]:
            if learner.updates % self.refresh == 0:
                columns = learner.columns
                value = self.values(learner, columns["observation"])
                following = value.roll(-1, -1)
                following[:, rows] = self.values(learner, columns["next_observation"][rows])
                found["return"] = lambda_returns(columns["reward"], columns["discount"], following, last, self.lam)
                found["advantage"] = self.scaled(found["return"] - value)
            return {name: x.gather(1, batch["index"]) for name, x in found.items()}

        return look_up

    def values(self, learner: OfflineLearner, observation: Tensor) -> Tensor:
        """What each seed's V says of observations of the data, `[seeds, rows]`."""
        return torch.cat([*learner.over_rows("value", observation)], -1)

    def scaled(self, advantage: Tensor) -> Tensor:
        """Advantages `[seeds, rows]` of all data as they are weighed."""
        if not self.standardize:
            return advantage
        apart = advantage - advantage.mean(-1, keepdim=True)
        return apart / (apart.std(-1, correction=0, keepdim=True) + SMALLEST)

    def value_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared distance of V to the TD(λ) return."""
        value = w("value", batch["observation"])
        loss = ((batch["return"] - value) ** 2).mean()
        return loss, {"value_loss": loss.detach(), "v": value.mean().detach()}

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The negated log-density of the data's action, weighted by the exponential of its advantage."""
        weights = advantage_weights(batch["advantage"], 1 / self.temperature, self.largest_weight)
        density = w.module("actor").distribution.log_prob(w("actor", batch["observation"]), batch["action"])
        loss = -(weights * density).mean()
        return loss, {"actor_loss": loss.detach(), "advantage_weight": weights.mean()}

    def objective(self) -> str:
        advantage = "(G − V(s)), standardised" if self.standardize else "G − V(s)"
        weight = f"min(exp(A/{self.temperature:g}), {self.largest_weight:g})"
        return (
            f"value: mean (G − V(s))²,  G = TD({self.lam:g}) return\n"
            f"actor: mean {weight}·(−log π(a|s)),  A = {advantage}"
        )

    def steps(self) -> list[str]:
        each = [f"{name}: one step of Adam({self.learning_rate:g})" for name in ("value", "actor")]
        return [f"every {self.refresh} steps, compute the returns and advantages of all data by V as it is", *each]


METHOD = AWR

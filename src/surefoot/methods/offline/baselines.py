"""Behaviour cloning, TD3+BC and IQL: what an offline method is measured against.

    bc       minimise  mean (π(s) − a)²
    td3-bc   minimise  −α·mean Q(s, π(s)) / mean |Q|  +  mean (π(s) − a)²        critics as in TD3
    iql      V: minimise  mean |τ − 1[u < 0]|·u²        u = min_i Q_i⁻(s, a) − V(s)
             Q: minimise  mean_i mean (Q_i(s, a) − r − γ·V(s'))²
             π: minimise  mean min(exp(β·A), c)·(−log π(a|s))        A = min_i Q_i⁻(s, a) − V(s)

None asks a critic about actions that are not in the data, except td3-bc, which the second term holds near them.
Dean A. Pomerleau, *ALVINN* (1989); Scott Fujimoto, Shixiang Gu, *A Minimalist Approach to Offline Reinforcement
Learning* (2021), arXiv:2106.06860; Ilya Kostrikov et al., *Offline Reinforcement Learning with Implicit Q-Learning*
(2021), arXiv:2110.06169. Defaults are the papers' for MuJoCo tasks; batches of 256 and two layers of 256 for all.

Differences: normalised observations are clipped to ±10. IQL: V and V(s') are those before the step for all losses, and
the dropout of its actor for Adroit tasks is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from torch import Tensor

from surefoot.data.transitions import Transitions
from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.common.schedule import annealing
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.offline.method import Offline
from surefoot.methods.control.td3 import TD3
from surefoot.models.actors import ActorNetwork, StateValue
from surefoot.objectives.bootstrap import advantage_weights, bootstrapped, lowest, scale_free
from surefoot.objectives.values import expectile


@dataclass(frozen=True)
class BC(Offline):
    """Behaviour cloning: the action of the data, by least squares."""

    without_effect = (*Offline.without_effect, "gamma", "tau")

    share: float = hyperparameter(1.0, above=0, high=1, help="Share of the episodes to clone: those of best return.")

    def learned(self, data: Transitions, reward_data: Transitions | None = None) -> Transitions:
        return data if self.share == 1 else data.best(self.share)

    def actor_network(self) -> ActorNetwork:
        return ActorNetwork("deterministic", self.hidden, self.activation, self.cnn)

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        step = {"learning_rate": self.learning_rate, "max_grad_norm": self.max_grad_norm}
        return {"actor": Net(self.make_actor(observation_space, action_space), self.actor_loss, **step)}

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared distance to the action of the data, a mean over the batch and over dimensions."""
        loss = ((w("actor", batch["observation"]) - batch["action"]) ** 2).mean()
        return loss, {"actor_loss": loss.detach()}

    def objective(self) -> str:
        return "actor: mean (π(s) − a)²"

    def steps(self) -> list[str]:
        which = "" if self.share == 1 else f", on the {self.share:.0%} of episodes with the best returns"
        return [f"actor: one step of Adam({self.learning_rate:g}){which}"]


@dataclass(frozen=True)
class TD3BC(Offline, TD3):
    """TD3 whose actor stays near the actions of the data."""

    without_effect = (*Offline.without_effect, "exploration_noise")

    alpha: float = hyperparameter(
        2.5, low=0, help="Weight of the value against the cloning term.", tune=Range(0.5, 50, log=True)
    )

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The scaled value of the actor's action, negated, and its distance to the target action."""
        action = w("actor", batch["observation"])
        values = w.fixed("critic", batch["observation"], action).reshape(-1, len(batch["reward"]))[0]
        distance = self.distance(w, batch, action)
        loss = distance - scale_free(values, self.alpha)
        return loss, {"actor_loss": loss.detach(), "cloning": distance.detach()}

    def distance(self, w: Weights, batch: Batch, action: Tensor) -> Tensor:
        """The regularizer: the squared distance to a target action, a mean over the batch and over dimensions."""
        return ((action - self.target_action(w, batch, action)) ** 2).mean()

    def target_action(self, w: Weights, batch: Batch, action: Tensor) -> Tensor:
        """The action to stay near: that of the data."""
        return batch["action"]

    def objective(self) -> str:
        critic = super().objective().split("\n")[0]
        return f"{critic}\nactor: −{self.alpha:g}·mean Q_1(s, π(s)) / mean |Q_1|  +  mean (π(s) − a)²"

    def steps(self) -> list[str]:
        return super().steps()[:2]


@dataclass(frozen=True)
class IQL(Offline):
    """Implicit Q-learning: an expectile of the values of the data's actions, and a policy that clones the good ones."""

    expectile: float = hyperparameter(
        0.7, above=0, below=1, help="Expectile τ of V: near 1, V is the best of the data.", tune=Range(0.5, 0.95)
    )
    inverse_temperature: float = hyperparameter(
        3.0,
        low=0,
        help="β: how much a better action is cloned more; 0 is plain cloning.",
        tune=Range(0.5, 10, log=True),
    )
    largest_weight: float = hyperparameter(100.0, above=0, help="Limit c of the weights of actions.")
    critics: int = hyperparameter(2, low=1, high=100, help="Number of critics; V learns from their minimum.")
    policy: str = hyperparameter(
        "gaussian", choices=("gaussian", "deterministic"), help="Gaussian with a learned deviation, or a point."
    )
    anneal: str = annealing("cosine")

    def actor_network(self) -> ActorNetwork:
        kind = "bounded" if self.policy == "gaussian" else "deterministic"
        return ActorNetwork(kind, self.hidden, self.activation, self.cnn)

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        spaces = observation_space, action_space
        step: dict[str, Any] = {"learning_rate": self.learning_rate, "max_grad_norm": self.max_grad_norm}
        judge = {"copies": self.critics, "kept": self.critic_network(), "target_rate": self.tau, "annealed": False}

        def value() -> StateValue:
            return StateValue(observation_space, self.hidden, self.activation, self.cnn)

        return {
            "value": Net(value, self.value_loss, annealed=False, **step),
            "critic": Net(self.make_critic(*spaces), self.critic_loss, **judge, **step),
            "actor": Net(self.make_actor(*spaces), self.actor_loss, **step),
        }

    def judged(self, values: Tensor) -> Tensor:
        """One value `[batch]` of the data's actions from those of the target critics `[critics, batch]`: the least."""
        return lowest(values)

    def value_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The expectile loss of V against the value of the data's action."""
        value, target = w("value", batch["observation"]), self.paid(w, batch)
        loss = expectile(self.expectile)(value, target, value).mean()
        return loss, {"value_loss": loss.detach(), "v": value.mean().detach()}

    def paid(self, w: Weights, batch: Batch) -> Tensor:
        """The value of the data's action, of which V learns an expectile."""
        return self.judged(w.target("critic", batch["observation"], batch["action"]))

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The errors of all critics against r + γ·V(s')."""
        following = w.before("value", batch["next_observation"])
        target = self.target(bootstrapped(batch["reward"], batch["discount"], following))
        values = w("critic", batch["observation"], batch["action"])
        loss = self.bellman(values - target).mean()
        return loss, {"critic_loss": loss.detach(), "q": values.mean().detach()}

    def target(self, target: Tensor) -> Tensor:
        """The target of the critics, of r + γ·V(s'): that itself."""
        return target

    def bellman(self, errors: Tensor) -> Tensor:
        """The loss of Bellman errors, one by one: their square."""
        return errors**2

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The distance to the data's action, weighted by the exponential of its advantage."""
        advantage = self.paid(w, batch) - w.before("value", batch["observation"])
        weights = advantage_weights(advantage, self.inverse_temperature, self.largest_weight)
        params, action = w("actor", batch["observation"]), batch["action"]
        if self.policy == "gaussian":
            apart = -w.module("actor").distribution.log_prob(params, action)
        else:
            apart = ((params - action) ** 2).sum(-1)
        loss = (weights * apart).mean()
        return loss, {"actor_loss": loss.detach(), "advantage_weight": weights.mean()}

    def objective(self) -> str:
        least = "Q⁻" if self.critics == 1 else f"min over {self.critics} of Q⁻"
        apart = "(−log π(a|s))" if self.policy == "gaussian" else "‖π(s) − a‖²"
        value = f"value: mean |{self.expectile:g} − 1[u < 0]|·u²,  u = {least}(s, a) − V(s)"
        actor = f"actor: mean min(exp({self.inverse_temperature:g}·u), {self.largest_weight:g})·{apart}"
        return "\n".join([value, "critic: mean (Q(s, a) − y)²,  y = r + γ·V(s')", actor])

    def steps(self) -> list[str]:
        return [f"{name}: one step of Adam({self.learning_rate:g})" for name in ("value", "critics", "actor")] + [
            f"the critics' targets move by τ = {self.tau:g} towards them"
        ]

    def algorithm(self) -> list[str]:
        return [line.replace("learning rates", "the actor's learning rate") for line in super().algorithm()]


METHOD = IQL

"""Discrete SAC: soft actor-critic whose expectations over actions are sums, not samples.

    V(s) = Σ_a π(a|s)·(min_i Q_i⁻(s, a) − α·log π(a|s)),  y = r + γ·V(s')
    critics: minimise  Σ_i mean[ (Q_i(s, a) − y)² ]
    actor: minimise  mean[ Σ_a π(a|s)·(α·log π(a|s) − min_i Q_i(s, a)) ]
    temperature: minimise  −α·mean[ Σ_a π(a|s)·log π(a|s) + H̄ ]        H̄ = 0.89·ln |A|

Petros Christodoulou, *Soft Actor-Critic for Discrete Action Settings* (2019), arXiv:1910.07207. Defaults are those of
CleanRL's Atari version: a step every 4 steps, the targets are copied every 2000 of them, Adam's ε is 1e-4.

Differences: sums over actions where CleanRL takes means, which scales losses by the number of actions; the order of a
step is temperature, critics, actor, all on one batch and with the temperature before the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.off_policy.method import OffPolicy
from surefoot.models.actors import Actor, ActorNetwork, Scalar
from surefoot.objectives.bootstrap import bootstrapped, chosen, entropic_value


@dataclass(frozen=True)
class DiscreteSAC(OffPolicy):
    """Soft actor-critic for one discrete action."""

    batch_size: int = hyperparameter(64, low=1, help="Transitions per gradient step.")
    learning_starts: int = hyperparameter(20_000, low=1, help="Steps of uniformly random actions before learning.")
    train_every: int = hyperparameter(4, low=1, help="Steps of each environment between rounds of training.")
    tau: float = hyperparameter(1.0, above=0, high=1, help="Step of target networks towards the networks.")
    target_every: int = hyperparameter(2000, low=1, help="Gradient steps between steps of the target networks.")
    adam_epsilon: float = hyperparameter(1e-4, above=0, help="Adam's ε for actor and critics.")
    critics: int = hyperparameter(2, low=1, high=100, help="Number of critics; the target is their minimum.")
    temperature: float | None = hyperparameter(
        None, above=0, help="Temperature α of the entropy; learned from 1 if not given."
    )
    target_entropy: float | None = hyperparameter(
        None, help="Entropy H̄ that the learned temperature aims at; 0.89·ln(actions) if not given."
    )

    def actor_network(self) -> ActorNetwork:
        return ActorNetwork("categorical", self.hidden, self.activation, self.cnn, **self.memory)

    def critic_network(self) -> ActorNetwork:
        return ActorNetwork("values", self.hidden, self.activation, self.cnn, **self.memory)

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        spaces = observation_space, action_space
        step: dict[str, Any] = {"learning_rate": self.learning_rate, "max_grad_norm": self.max_grad_norm}
        small = {**step, "epsilon": self.adam_epsilon}
        target = {"target_rate": self.tau, "target_every": self.target_every}
        judge = {"copies": self.critics, "kept": self.kept_critic()}
        start = 0.0 if self.temperature is None else math.log(self.temperature)
        goal = self.target_entropy
        if goal is None:
            goal = 0.89 * math.log(action_space.n)  # type: ignore[attr-defined]

        def temperature_loss(w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            log_prob = w.fixed("actor", batch["observation"]).log_softmax(-1)
            entropy = entropic_value(log_prob, torch.zeros_like(log_prob), 1.0).mean()
            alpha = w("temperature").exp()
            return alpha * (entropy - goal), {"temperature": alpha.detach(), "entropy": entropy}

        return {
            "temperature": Net(lambda: Scalar(start), temperature_loss if self.temperature is None else None, **step),
            "critic": Net(self.make_critic(*spaces), self.critic_loss, **judge, **target, **small),
            "actor": Net(self.make_actor(*spaces), self.actor_loss, **small),
        }

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared errors of all critics against the soft value of the next state."""
        log_prob = w.fixed("actor", batch["next_observation"]).log_softmax(-1)
        following = self.least(w.target("critic", batch["next_observation"]))
        value = entropic_value(log_prob, following, w.before("temperature").exp())
        target = bootstrapped(batch["reward"], batch["discount"], value)
        values = chosen(w("critic", batch["observation"]), batch["action"])
        errors = (values - target).reshape(-1, len(target))
        loss = (batch["weight"] * errors**2).mean(-1).sum()
        return loss, {"critic_loss": loss.detach(), "q": values.mean().detach(), "td_errors": errors[0].detach()}

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The soft value of the policy, negated."""
        log_prob = w("actor", batch["observation"]).log_softmax(-1)
        values = self.least(w.fixed("critic", batch["observation"]).detach())
        loss = -entropic_value(log_prob, values, w.before("temperature").exp()).mean()
        return loss, {"actor_loss": loss.detach()}

    def least(self, values: Tensor) -> Tensor:
        """The smallest value of every action `[batch, actions]` over the critics."""
        return values if self.critics == 1 else values.amin(0)

    def exploration(self, count: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        return {"action": self.actor_network().distribution(action_space).noise((count,), generator)}

    def explore(self, module: Actor, params: Tensor, noise: dict[str, Tensor], progress: Tensor) -> Tensor:
        return module.distribution.sample(params, noise["action"])

    def objective(self) -> str:
        alpha = "α" if self.temperature is None else f"{self.temperature:g}"
        least = "Q" if self.critics == 1 else f"min over {self.critics} of Q"
        lines = [
            f"critic: mean (Q(s, a) − y)²,  y = r + γ·Σ_a' π(a'|s')·({least}⁻(s', a') − {alpha}·log π(a'|s'))",
            f"actor: mean Σ_a π(a|s)·({alpha}·log π(a|s) − {least}(s, a))",
        ]
        goal = "0.89·ln |A|" if self.target_entropy is None else f"{self.target_entropy:g}"
        return "\n".join(lines + ([f"temperature: α·mean (entropy of π(·|s) − {goal})"] if alpha == "α" else []))

    def steps(self) -> list[str]:
        first = ["temperature"] if self.temperature is None else []
        target = "a copy" if self.tau == 1 else f"moved by τ = {self.tau:g}"
        return [f"{name}: one step of Adam({self.learning_rate:g})" for name in (*first, "critics", "actor")] + [
            f"every {self.target_every} steps the critics' targets are {target}",
            "exploration: a sample of π(·|s)",
        ]


METHOD = DiscreteSAC

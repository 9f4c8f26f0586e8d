"""SAC: a stochastic actor that is paid for its entropy, two critics, and a temperature that is learned.

    y = r + γ·(min_i Q_i⁻(s', a') − α·log π(a'|s'))        a' ~ π(·|s')
    critics: minimise  ½ Σ_i mean[ (Q_i(s, a) − y)² ]
    actor: minimise  mean[ α·log π(a|s) − min_i Q_i(s, a) ]        a ~ π(·|s), a tanh of a Gaussian
    temperature: minimise  −log α·mean[ log π(a|s) + H̄ ]        H̄ = −dim A

Tuomas Haarnoja et al., *Soft Actor-Critic Algorithms and Applications* (2018), arXiv:1812.05905.

Differences: the order of a step is temperature, critics, actor, all on one batch and with the temperature before the
step; log π is that of actions in [−1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.off_policy.method import OffPolicy
from surefoot.models.actors import Actor, ActorNetwork, Scalar, action_size
from surefoot.objectives.bootstrap import bootstrapped, lowest


@dataclass(frozen=True)
class SAC(OffPolicy):
    """Soft actor-critic for continuous actions."""

    learning_starts: int = hyperparameter(10_000, low=1, help="Steps of uniformly random actions before learning.")
    critics: int = hyperparameter(2, low=1, high=100, help="Number of critics; the target is their minimum.")
    temperature: float | None = hyperparameter(
        None, above=0, help="Temperature α of the entropy; learned from 1 if not given."
    )
    target_entropy: float | None = hyperparameter(
        None, help="Entropy H̄ that the learned temperature aims at; minus the number of actions if not given."
    )

    def actor_network(self) -> ActorNetwork:
        return ActorNetwork("gaussian", self.hidden, self.activation, self.cnn, **self.memory)

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        spaces = observation_space, action_space
        step = {"learning_rate": self.learning_rate, "max_grad_norm": self.max_grad_norm}
        judge = {"copies": self.critics, "kept": self.kept_critic()}
        start = 0.0 if self.temperature is None else math.log(self.temperature)
        goal = -float(action_size(action_space)) if self.target_entropy is None else self.target_entropy

        def temperature_loss(w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            return self.temperature_loss(w, batch, goal)

        return {
            "temperature": Net(lambda: Scalar(start), temperature_loss if self.temperature is None else None, **step),
            "critic": Net(self.make_critic(*spaces), self.critic_loss, target_rate=self.tau, **judge, **step),
            "actor": Net(self.make_actor(*spaces), self.actor_loss, **step),
        }

    def temperature_loss(self, w: Weights, batch: Batch, goal: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The gap between the actor's entropy and its `goal`, times log α."""
        _, log_prob = self.act(w, batch["observation"], batch["noise"]["now"])
        log_alpha = w("temperature")
        loss = -log_alpha * (log_prob + goal).mean().detach()
        return loss, {"temperature": log_alpha.detach().exp(), "entropy": -log_prob.mean().detach()}

    def act(self, w: Weights, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions in [−1, 1] and their log densities."""
        params, distribution = w("actor", observation), w.module("actor").distribution
        raw = distribution.sample(params, noise)
        return torch.tanh(raw), distribution.log_prob(params, raw)

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Half squared errors of all critics against the smallest soft target."""
        following, log_prob = self.act(w, batch["next_observation"], batch["noise"]["next"])
        value = lowest(w.target("critic", batch["next_observation"], following))
        soft = value - self.price(w, batch) * log_prob
        target = bootstrapped(batch["reward"], batch["discount"], soft)
        values = w("critic", batch["observation"], batch["action"])
        errors = (values - target).reshape(-1, len(target))
        loss = 0.5 * (batch["weight"] * errors**2).mean(-1).sum()
        return loss, {"critic_loss": loss.detach(), "q": values.mean().detach(), "td_errors": errors[0].detach()}

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The entropy's price less the smallest value of the actor's action."""
        action, log_prob = self.act(w, batch["observation"], batch["noise"]["now"])
        value = lowest(w.fixed("critic", batch["observation"], action))
        loss = (self.price(w, batch) * log_prob - value).mean()
        return loss, {"actor_loss": loss.detach()}

    def price(self, w: Weights, batch: Batch) -> Tensor:
        """The temperature α of a gradient step, or of each of its transitions."""
        return w.before("temperature").exp()

    def noise(self, size: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        now, following = torch.randn(2, size, action_size(action_space), generator=generator)
        return {"now": now, "next": following}

    def exploration(self, count: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        return {"action": torch.randn(count, action_size(action_space), generator=generator)}

    def explore(self, module: Actor, params: Tensor, noise: dict[str, Tensor], progress: Tensor) -> Tensor:
        return module.distribution.sample(params, noise["action"])

    def objective(self) -> str:
        alpha = "α" if self.temperature is None else f"{self.temperature:g}"
        least = "Q⁻" if self.critics == 1 else f"min over {self.critics} of Q⁻"
        lines = [
            f"critic: ½ mean (Q(s, a) − y)²,  y = r + γ·({least}(s', a') − {alpha}·log π(a'|s'))",
            f"actor: mean ({alpha}·log π(a|s) − min Q(s, a))",
        ]
        goal = "−dim A" if self.target_entropy is None else f"{self.target_entropy:g}"
        return "\n".join(lines + ([f"temperature: −log α·mean (log π(a|s) + {goal})"] if alpha == "α" else []))

    def steps(self) -> list[str]:
        first = ["temperature"] if self.temperature is None else []
        return [f"{name}: one step of Adam({self.learning_rate:g})" for name in (*first, "critics", "actor")] + [
            f"the critics' targets move by τ = {self.tau:g} towards them",
            "exploration: a sample of π(·|s)",
        ]


METHOD = SAC

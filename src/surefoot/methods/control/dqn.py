"""DQN: the values of all actions, learned from replay against a copy that is refreshed now and then.

    y = r + γ·max_a' Q⁻(s', a')        minimise  mean[ H(Q(s, a) − y) ],  H the Huber loss

`double=True` takes the best action by Q and its value by Q⁻ (arXiv:1509.06461); `dueling=True` splits the network into
state value and advantages (arXiv:1511.06581); `n_step` and `prioritized` are those of the loop.

Volodymyr Mnih et al., *Human-level control through deep reinforcement learning* (Nature, 2015). Defaults are those of
the Atari experiments as commonly run today: Adam with 1e-4, batches of 32, a step every 4 steps, ε from 1 to 0.05
within the first tenth of the run, the target copied every 10,000 steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor
from torch.nn import functional as F

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.off_policy.method import OffPolicy
from surefoot.models.actors import Actor, ActorNetwork, epsilon_greedy, epsilon_greedy_noise
from surefoot.objectives.bootstrap import bootstrapped, chosen, greedy_value


@dataclass(frozen=True)
class DQN(OffPolicy):
    """Deep Q-network."""

    actor: ClassVar[str] = "critic"
    without_effect: ClassVar[tuple[str, ...]] = ("tau",)

    batch_size: int = hyperparameter(32, low=1, help="Transitions per gradient step.")
    learning_starts: int = hyperparameter(10_000, low=1, help="Steps of uniformly random actions before learning.")
    learning_rate: float = hyperparameter(1e-4, above=0, help="Adam's learning rate.")
    train_every: int = hyperparameter(4, low=1, help="Steps of each environment between rounds of training.")
    max_grad_norm: float | None = hyperparameter(10.0, above=0, help="Maximum gradient norm.")
    target_every: int = hyperparameter(2500, low=1, help="Gradient steps between copies to the target network.")
    epsilon_start: float = hyperparameter(1.0, low=0, high=1, help="Initial share of random actions.")
    epsilon_end: float = hyperparameter(0.05, low=0, high=1, help="Final share of random actions.")
    epsilon_fraction: float = hyperparameter(0.1, above=0, high=1, help="Share of the run in which it falls.")
    double: bool = hyperparameter(False, help="Choose the next action by the network, value it by the target.")
    dueling: bool = hyperparameter(False, help="State value and advantages apart.")

    def actor_network(self) -> ActorNetwork:
        return ActorNetwork("values", self.hidden, self.activation, self.cnn, self.dueling, **self.memory)

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        make: Any = self.make_actor(observation_space, action_space)
        step = {"learning_rate": self.learning_rate, "max_grad_norm": self.max_grad_norm}
        return {"critic": Net(make, self.critic_loss, target_rate=1.0, target_every=self.target_every, **step)}

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What the critic minimises, and metrics."""
        return self.fit(w, batch, batch["observation"], self.target(w, batch))

    def target(self, w: Weights, batch: Batch) -> Tensor:
        """y `[batch]`, without a gradient."""
        following = w.target("critic", batch["next_observation"])
        by = w.fixed("critic", batch["next_observation"]) if self.double else following
        return bootstrapped(batch["reward"], batch["discount"], greedy_value(following, by))

    def fit(self, w: Weights, batch: Batch, observation: Any, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Huber loss of the action taken."""
        value = chosen(w("critic", observation), batch["action"])
        loss = (batch["weight"] * F.huber_loss(value, target, reduction="none")).mean()
        return loss, {"critic_loss": loss.detach(), "q": value.mean().detach(), "td_errors": (value - target).detach()}

    def exploration(self, count: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        return epsilon_greedy_noise(count, action_space, generator)

    def scheduled(self) -> list[str]:
        return [*super().scheduled(), "epsilon_fraction"]

    def explore(self, module: Actor, params: Tensor, noise: dict[str, Tensor], progress: Tensor) -> Tensor:
        share = (progress / self.epsilon_fraction).clamp(max=1.0)
        epsilon = self.epsilon_start + share * (self.epsilon_end - self.epsilon_start)
        return epsilon_greedy(module, params, noise, epsilon)

    def objective(self) -> str:
        best = "Q⁻(s', argmax Q(s', ·))" if self.double else "max Q⁻(s', ·)"
        return f"mean Huber(Q(s, a) − y),  y = r + γ·{best}"

    def steps(self) -> list[str]:
        limit = "" if self.max_grad_norm is None else f" on the gradient clipped to norm {self.max_grad_norm:g}"
        return [
            f"one step of Adam({self.learning_rate:g}){limit}; every {self.target_every} steps the target is a copy",
            f"exploration: a random action with probability ε, from {self.epsilon_start:g} to {self.epsilon_end:g} "
            f"over the first {self.epsilon_fraction:.0%} of the run",
        ]


METHOD = DQN

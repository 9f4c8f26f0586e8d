"""QRC-Huber: values of all actions that minimise a robust loss of expected Bellman errors, without a target network.

    δ = r + γ·Σ_a' π_ε(a'|s')·q(s', a') − q(s, a),  π_ε the ε-greedy policy
    u(s, a): minimise  mean[ ½(δ − u)² ], with decoupled decay; its features are those of q
    q, loss p = Huber: where |u| ≤ τ descend  −δ·∇q + γu·∇v(s'),  elsewhere  −h·(∇q − γ∇v(s')),  h = clip(u, ±τ)

A squared Bellman error is dominated by few states with large errors; clipping sampled TD errors instead minimises no
loss and can diverge. Here the loss is of the *expected* error: its estimate u is clipped, so that noise in rewards
averages out.

Andrew Patterson, Victor Liao, Martha White, *Robust Losses for Learning Value Functions* (2022), arXiv:2205.08464.

Differences: the text of the paper could not be read in full, so this is a reconstruction. The losses are those of its
abstract; the base agent (q and u on one trunk, both heads of 0 at first, decay of u alone) is that of the first
author's public template, without its dueling heads; which correction the paper's Huber agent uses is not known to us:
`update="saddle"` is the plain gradient of the saddle point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.off_policy.method import OffPolicy
from surefoot.models.actors import Actor, ActorNetwork, epsilon_greedy, epsilon_greedy_noise, layers
from surefoot.models.distributions import IMPOSSIBLE
from surefoot.objectives import bellman
from surefoot.objectives.bootstrap import chosen

UPDATES = {"correction": bellman.corrected, "saddle": bellman.saddle}


@dataclass(frozen=True)
class QRCHuber(OffPolicy):
    """Q-learning with regularised corrections and a robust Bellman loss."""

    actor: ClassVar[str] = "critic"
    without_effect: ClassVar[tuple[str, ...]] = ("tau",)

    batch_size: int = hyperparameter(32, low=1, help="Transitions per gradient step.")
    buffer_size: int = hyperparameter(10_000, low=2, help="Maximum number of transitions in the replay buffer.")
    learning_starts: int = hyperparameter(1000, low=1, help="Steps of uniformly random actions before learning.")
    learning_rate: float = hyperparameter(1e-3, above=0, help="Adam's learning rate.")
    hidden: tuple[int, ...] = hyperparameter((64, 64), low=1, high=2**16, help="Sizes of the hidden layers.")
    loss: str = hyperparameter("huber", choices=("huber", "absolute", "squared"), help="Loss of Bellman errors.")
    threshold: float = hyperparameter(1.0, above=0, help="Expected error τ at which the Huber loss becomes linear.")
    update: str = hyperparameter("correction", choices=tuple(UPDATES), help="Gradient of the loss.")
    decay: float = hyperparameter(1.0, low=0, high=1, help="Decoupled decay η of the weights of u.")
    epsilon: float = hyperparameter(0.1, low=0, high=1, help="Share of random actions, also of the policy learned of.")

    def bellman_loss(self) -> bellman.BellmanLoss:
        """The loss of expected Bellman errors."""
        return bellman.huber(self.threshold) if self.loss == "huber" else getattr(bellman, self.loss)()

    def actor_network(self) -> ActorNetwork:
        return ActorNetwork("values", self.hidden, self.activation, self.cnn, output_bound=0.0, **self.memory)

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        make: Any = self.make_actor(observation_space, action_space)
        head = make().layers[-1]
        step = {"learning_rate": self.learning_rate, "max_grad_norm": self.max_grad_norm}
        return {
            "critic": Net(make, self.critic_loss, **step),
            "dual": Net(
                lambda: layers(head.in_features, (), self.activation, head.out_features, 0.0),
                self.dual_loss,
                decay=self.decay,
                **step,
            ),
        }

    def target(self, reward: Tensor, discount: Tensor, following: Tensor) -> Tensor:
        """r + γ·v(s'), with the gradient of v."""
        value = bellman.epsilon_greedy_value(following, self.epsilon, following > IMPOSSIBLE / 2)
        return reward + discount * value

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The robust loss of the action taken, by the estimate u of its expected error."""
        value = chosen(w("critic", batch["observation"]), batch["action"])
        target = self.target(batch["reward"], batch["discount"], w("critic", batch["next_observation"]))
        features = w.before("critic", batch["observation"], "features")
        estimate = chosen(w.before("dual", features), batch["action"])
        losses = UPDATES[self.update](self.bellman_loss(), value, target, estimate)
        error = (target - value).detach()
        seen = {"bellman_loss": self.bellman_loss()(estimate).mean(), "q": value.mean().detach(), "td_errors": error}
        return (batch["weight"] * losses).mean(), seen

    def dual_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Regression of the errors before the step on the features before it."""
        features = w.before("critic", batch["observation"], "features")
        value = chosen(w.before("critic", batch["observation"]), batch["action"])
        target = self.target(batch["reward"], batch["discount"], w.before("critic", batch["next_observation"]))
        losses = bellman.regression(chosen(w("dual", features), batch["action"]), target - value)
        loss = (batch["weight"] * losses).mean()
        return loss, {"dual_loss": loss.detach()}

    def exploration(self, count: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        return epsilon_greedy_noise(count, action_space, generator)

    def explore(self, module: Actor, params: Tensor, noise: dict[str, Tensor], progress: Tensor) -> Tensor:
        return epsilon_greedy(module, params, noise, self.epsilon)

    def objective(self) -> str:
        formula = self.bellman_loss().formula
        where = f",  τ = {self.threshold:g}" if self.loss == "huber" else ""
        return (
            f"critic: mean of {formula}{where},  δ̄ = E[r + γ·Σ_a' π(a'|s')·q(s', a') − q(s, a)]\n"
            f"dual: mean ½(δ − u(s, a))²,  π is {self.epsilon:g}-greedy in q"
        )

    def steps(self) -> list[str]:
        return [
            f"critic: one step of Adam({self.learning_rate:g}) by the {self.update} form, δ̄ estimated by u",
            f"dual: one step of Adam({self.learning_rate:g}) on the features of the critic before its step, with a "
            f"decay of {self.learning_rate * self.decay:g} of its weights",
            f"exploration: a random action with probability {self.epsilon:g}",
        ]


METHOD = QRCHuber

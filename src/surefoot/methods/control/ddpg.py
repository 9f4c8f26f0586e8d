"""DDPG: a deterministic actor that moves up the action gradient of a critic learned from replay.

    y = r + γ·Q⁻(s', μ⁻(s'))
    critic: minimise  mean[ (Q(s, a) − y)² ] + λ/2·‖Q‖²        actor: maximise  mean[ Q(s, μ(s)) ]
    exploration: μ(s) + x,  x ← (1 − ϑ)·x + σ·N(0, 1), from 0 at the start of an episode

Timothy Lillicrap et al., *Continuous control with deep reinforcement learning* (2015), arXiv:1509.02971. Defaults are
those of its supplement (§7) for states; the preset `retuned` is that of the TD3 paper (arXiv:1802.09477, table 3). With
ϑ = 1 the noise has no memory.

Differences: no batch normalisation; actions are scaled to [−1, 1] for all networks and noises; a termination does not
bootstrap (the paper has no such mask), a truncated episode does; the paper does not say how many actions are random at
first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.off_policy.method import Noise, OffPolicy
from surefoot.models.actors import Actor, ActorNetwork, CriticNetwork, action_size
from surefoot.objectives.bootstrap import bootstrapped


@dataclass(frozen=True)
class DDPG(OffPolicy):
    """Deep deterministic policy gradient."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "retuned": {
            "hidden": (256, 256),
            "learning_rate": 3e-4,
            "actor_learning_rate": 3e-4,
            "batch_size": 256,
            "tau": 0.005,
            "learning_starts": 25_000,
            "exploration_noise": 0.1,
            "reversion": 1.0,
            "l2": 0.0,
            "action_layer": 1,
            "output_bound": None,
        },
        "pixels": {"hidden": (200, 200), "batch_size": 16, "output_bound": 3e-4},
    }

    batch_size: int = hyperparameter(64, low=1, help="Transitions per gradient step.")
    learning_starts: int = hyperparameter(1000, low=1, help="Steps of uniformly random actions before learning.")
    learning_rate: float = hyperparameter(1e-3, above=0, help="Adam's learning rate for the critic.")
    actor_learning_rate: float = hyperparameter(1e-4, above=0, help="Adam's learning rate for the actor.")
    tau: float = hyperparameter(0.001, above=0, high=1, help="Step of target networks towards the networks.")
    l2: float = hyperparameter(0.01, low=0, help="Weight λ of the critic's L2 penalty, λ/2 of its squared norm.")
    exploration_noise: float = hyperparameter(0.2, low=0, help="Deviation σ of new exploration noise, actions in ±1.")
    reversion: float = hyperparameter(0.15, low=0, high=1, help="Share ϑ of the noise that is forgotten in a step.")
    hidden: tuple[int, ...] = hyperparameter((400, 300), low=1, high=2**16, help="Sizes of the hidden layers.")
    action_layer: int = hyperparameter(2, low=1, help="Hidden layer of the critic at which the action enters.")
    output_bound: float | None = hyperparameter(
        3e-3, low=0, help="Bound of the last layers' uniform initial weights; torch's own if None."
    )

    def actor_network(self) -> ActorNetwork:
        return ActorNetwork(
            "deterministic", self.hidden, self.activation, self.cnn, output_bound=self.output_bound, **self.memory
        )

    def critic_network(self) -> CriticNetwork:
        return CriticNetwork(
            self.hidden, self.activation, self.cnn, self.action_layer, self.output_bound, **self.memory
        )

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        spaces = observation_space, action_space
        common = {"target_rate": self.tau, "max_grad_norm": self.max_grad_norm}
        judge = {**common, "l2": self.l2, "kept": self.kept_critic()}
        return {
            "critic": Net(self.make_critic(*spaces), self.critic_loss, self.learning_rate, **judge),
            "actor": Net(self.make_actor(*spaces), self.actor_loss, self.actor_learning_rate, **common),
        }

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared errors against the target networks."""
        value = w.target("critic", batch["next_observation"], w.target("actor", batch["next_observation"]))
        values = w("critic", batch["observation"], batch["action"])
        errors = values - bootstrapped(batch["reward"], batch["discount"], value)
        loss = (batch["weight"] * errors**2).mean()
        return loss, {"critic_loss": loss.detach(), "q": values.mean().detach(), "td_errors": errors.detach()}

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The critic's value of the actor's action, negated: the deterministic policy gradient."""
        loss = -w.fixed("critic", batch["observation"], w("actor", batch["observation"])).mean()
        return loss, {"actor_loss": loss.detach()}

    def exploration(self, count: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        return {"action": torch.randn(count, action_size(action_space), generator=generator)}

    def remembered(self, noise: Noise, before: Noise, starts: np.ndarray) -> Noise:
        """The Ornstein–Uhlenbeck process with a time step of 1, in units of σ."""
        kept = (1 - self.reversion) * before["action"] * ~starts[..., None]
        return {"action": kept + noise["action"]}

    def explore(self, module: Actor, params: Tensor, noise: dict[str, Tensor], progress: Tensor) -> Tensor:
        return (params + self.exploration_noise * noise["action"]).clamp(-1, 1)

    def objective(self) -> str:
        penalty = f" + {self.l2 / 2:g}·‖Q‖²" if self.l2 else ""
        return f"critic: mean (Q(s, a) − y)²{penalty},  y = r + γ·Q⁻(s', μ⁻(s'))\nactor: −mean Q(s, μ(s))"

    def steps(self) -> list[str]:
        memory = f"{1 - self.reversion:g}·x + " if self.reversion < 1 else ""
        return [
            f"critic: one step of Adam({self.learning_rate:g})",
            f"actor: one step of Adam({self.actor_learning_rate:g})",
            f"both targets move by τ = {self.tau:g} towards the networks",
            f"exploration: μ(s) + x, within ±1;  x ← {memory}{self.exploration_noise:g}·N(0, 1)"
            + (", from 0 at the start of an episode" if memory else ""),
        ]


METHOD = DDPG

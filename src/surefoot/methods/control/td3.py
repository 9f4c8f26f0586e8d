"""TD3: two critics, a smoothed target policy, and an actor that moves less often than they do.

    y = r + γ·min_i Q_i⁻(s', ã')        ã' = clip(μ⁻(s') + clip(σ̃·N(0, 1), ±c), ±1)
    critics: minimise  Σ_i mean[ (Q_i(s, a) − y)² ]        actor, every second step: maximise  mean[ Q_1(s, μ(s)) ]

Scott Fujimoto, Herke van Hoof, David Meger, *Addressing Function Approximation Error in Actor-Critic Methods* (2018),
arXiv:1802.09477. Defaults are those of the authors' later code (learning rates of 3e-4, batches of 256, two layers of
256, 25,000 random steps).

Differences: actions are scaled to [−1, 1] for all networks and noises; a truncated episode bootstraps.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.off_policy.method import OffPolicy
from surefoot.models.actors import Actor, ActorNetwork, action_size
from surefoot.objectives.bootstrap import bootstrapped, lowest, smoothed


@dataclass(frozen=True)
class TD3(OffPolicy):
    """Twin delayed deep deterministic policy gradient."""

    learning_starts: int = hyperparameter(25_000, low=1, help="Steps of uniformly random actions before learning.")
    critics: int = hyperparameter(2, low=1, high=100, help="Number of critics; the target is their minimum.")
    policy_delay: int = hyperparameter(2, low=1, help="Critic steps per actor step; the targets move with the actor.")
    exploration_noise: float = hyperparameter(0.1, low=0, help="Standard deviation of exploration, actions in ±1.")
    target_noise: float = hyperparameter(0.2, low=0, help="Standard deviation of the target policy's noise.")
    target_clip: float = hyperparameter(0.5, low=0, help="Limit of the target policy's noise.")

    def actor_network(self) -> ActorNetwork:
        return ActorNetwork("deterministic", self.hidden, self.activation, self.cnn, **self.memory)

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        spaces = observation_space, action_space
        target = {"target_rate": self.tau, "target_every": self.policy_delay}
        step = {"learning_rate": self.learning_rate, "max_grad_norm": self.max_grad_norm}
        judge = {"copies": self.critics, "kept": self.kept_critic()}
        return {
            "critic": Net(self.make_critic(*spaces), self.critic_loss, **judge, **target, **step),
            "actor": Net(self.make_actor(*spaces), self.actor_loss, every=self.policy_delay, **target, **step),
        }

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared errors of all critics against the smallest target."""
        value = lowest(w.target("critic", batch["next_observation"], self.following(w, batch)))
        target = bootstrapped(batch["reward"], batch["discount"], value)
        values = w("critic", batch["observation"], self.judged(batch["action"], batch))
        errors = (values - target).reshape(-1, len(target))
        loss = (batch["weight"] * errors**2).mean(-1).sum()
        return loss, {"critic_loss": loss.detach(), "q": values.mean().detach(), "td_errors": errors[0].detach()}

    def following(self, w: Weights, batch: Batch) -> Tensor:
        """The smoothed target policy's next action, as the critic sees it."""
        action = w.target("actor", batch["next_observation"])
        smooth = smoothed(action, batch["noise"]["target"], self.target_noise, self.target_clip)
        return self.judged(smooth, batch)

    def judged(self, action: Tensor, batch: Batch) -> Tensor:
        """What the critic sees of an action, and besides it."""
        return action

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The first critic's value of the actor's action, negated."""
        action = self.judged(w("actor", batch["observation"]), batch)
        values = w.fixed("critic", batch["observation"], action)
        loss = -values.reshape(-1, len(batch["reward"]))[0].mean()
        return loss, {"actor_loss": loss.detach()}

    def noise(self, size: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        return {"target": torch.randn(size, action_size(action_space), generator=generator)}

    def exploration(self, count: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        return {"action": torch.randn(count, action_size(action_space), generator=generator)}

    def explore(self, module: Actor, params: Tensor, noise: dict[str, Tensor], progress: Tensor) -> Tensor:
        return (params + self.exploration_noise * noise["action"]).clamp(-1, 1)

    def objective(self) -> str:
        smooth = f"μ⁻(s') + clip({self.target_noise:g}·N(0, 1), ±{self.target_clip:g})"
        least = "Q⁻" if self.critics == 1 else f"min over {self.critics} of Q⁻"
        return f"critic: mean (Q(s, a) − y)²,  y = r + γ·{least}(s', {smooth})\nactor: −mean Q_1(s, μ(s))"

    def steps(self) -> list[str]:
        rate = f"Adam({self.learning_rate:g})"
        every = "" if self.policy_delay == 1 else f"every {self.policy_delay} steps, "
        return [
            f"critics: one step of {rate}",
            f"{every}actor: one step of {rate}; then all targets move by τ = {self.tau:g} towards the networks",
            f"exploration: μ(s) + {self.exploration_noise:g}·N(0, 1), within ±1",
        ]


METHOD = TD3

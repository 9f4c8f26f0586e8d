"""S-PPO: PPO for a policy that is the median over noisy copies of what it sees, in training and ever after.

    π̄(·|s) = N(median_i μ(s + η_i), median_i σ_π(s + η_i)),  η_i ~ N(0, σ²I), i = 1 … m        the critic sees s
    maximise  mean[ min(ρÂ, clip(ρ, 1−ε, 1+ε)Â) ] − κ·mean KL(π̄(·|s) ‖ π̄(·|s + δ)),  ρ = π̄/π̄_old

Smoothing an agent that never saw the noise costs its return; one that is trained for it keeps it. Every pass, in acting
and in every epoch, draws its noise anew, so ρ is only near 1 before the first step. With κ > 0, δ is the change within
±radius that moves π̄ most. `surefoot certify` bounds what an agent's actions and return can become under attack.

Chung-En Sun, Sicun Gao and Tsui-Wei Weng, *Breaking the Barrier: Enhanced Utility and Robustness in Smoothed DRL
Agents* (2024), arXiv:2406.18062. `smoothed-dqn` is its S-DQN.

Differences: noise is in units of normalised observations, as in the authors' code; discrete actions have the median of
their logits; δ is found by sign steps from a random start in place of SGLD, without its warm-up; a core is not allowed,
because it would need a memory a draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.on_policy.method import Batch
from surefoot.methods.control.ppo import PPO
from surefoot.methods.robust.smoothed_agents.median import MedianActorCritic, noise_of
from surefoot.models.agent import Network
from surefoot.models.functional import Model
from surefoot.models.networks import ActorCritic
from surefoot.models.smoothing import Smoothing, boxes

START = "start of the change of {}"


@dataclass(frozen=True)
class SmoothedPPO(PPO):
    """PPO of the median policy."""

    without_effect: ClassVar[tuple[str, ...]] = ("core", "core_size")

    sigma: float = hyperparameter(0.2, above=0, help="Standard deviation of the noise on normalised observations.")
    draws: int = hyperparameter(20, low=1, high=10_000, help="Noisy copies of an observation in training.")
    acting_draws: int = hyperparameter(100, low=1, high=10**6, help="Noisy copies of an observation afterwards.")
    kappa: float = hyperparameter(0.0, low=0, help="Weight κ of the regulariser against changes of observations.")
    radius: float = hyperparameter(0.075, above=0, help="Largest change δ of a normalised observation, in any entry.")
    radius_steps: int = hyperparameter(10, low=1, help="Sign steps in which δ is found.")

    @property
    def rule(self) -> Smoothing:  # type: ignore[override]
        return Smoothing("median", self.sigma, self.acting_draws)

    def module(self, network: Network, observation_space: gym.Space, action_space: gym.Space) -> ActorCritic:
        return network.make(observation_space, action_space, MedianActorCritic)

    def perception(
        self, observation_space: gym.Space, shape: tuple[int, ...], generator: torch.Generator
    ) -> dict[str, Tensor]:
        noise = noise_of(observation_space, shape, self.draws, self.sigma, generator)
        if not self.kappa:
            return noise
        sizes = {key: (*shape, *one.shape) for key, one in boxes(observation_space).items()}
        starts = {START.format(k): 2 * torch.rand(size, generator=generator) - 1 for k, size in sizes.items()}
        return noise | starts

    def loss(
        self, model: Model, vector: Tensor, batch: Batch, extra: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(model, vector, batch, extra)
        if not self.kappa:
            return loss, metrics
        distance = self.objective().aggregation(self.moved(model, vector, batch["observation"]), batch["valid"])
        return loss + self.kappa * distance, {**metrics, "moved": distance.detach()}

    def moved(self, model: Model, vector: Tensor, observation: dict[str, Tensor]) -> Tensor:
        """KL(π̄(·|s) ‖ π̄(·|s + δ)) `[...]` for the worst δ that sign steps find."""
        starts = {key: START.format(key) for key in observation}
        change = {key: self.radius * observation[name] for key, name in starts.items() if name in observation}

        def distance(weights: Tensor, clean: Tensor, change: dict[str, Tensor]) -> Tensor:
            seen = {**observation, **{key: observation[key] + x for key, x in change.items()}}
            return model.distribution.kl(clean, model(weights, seen)[0])

        fixed = vector.detach()
        clean = model(fixed, observation)[0]
        rate = torch.func.grad(lambda change: distance(fixed, clean, change).sum())
        for _ in range(self.radius_steps):
            step = 2.5 * self.radius / self.radius_steps
            change = {
                key: (change[key] + step * slope.sign()).clamp(-self.radius, self.radius).detach()
                for key, slope in rate(change).items()
            }
        return distance(vector, model(vector, observation)[0], change)

    def algorithm(self) -> list[str]:
        return [
            f"wherever the policy sees s, in acting and in every epoch: {self.draws} copies s + η, "
            f"η ~ N(0, {self.sigma:g}²I), and the median of what it makes of them; the critic sees s",
            *super().algorithm(),
            f"afterwards it acts on {self.acting_draws} copies",
        ]

    def steps(self) -> list[str]:
        first, *rest = super().steps()
        penalty = f" + {self.kappa:g}·mean KL(π̄(·|s) ‖ π̄(·|s + δ))" if self.kappa else ""
        found = f"    δ: {self.radius_steps} sign steps within ±{self.radius:g}, from a random start"
        return [first + penalty, *rest, *([found] if self.kappa else [])]


METHOD = SmoothedPPO

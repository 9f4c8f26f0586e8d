"""S-DQN: a denoiser in front of a frozen Q-network, so that the votes of noisy copies still choose good actions.

    ŝ = D(s + η),  η ~ N(0, σ²I)        y = r + γ·max_a' Q(s', a')
    minimise  mean[ H(Q(ŝ, a) − y) ] + λ·‖ŝ − s‖²        in the weights of D alone
    votes(s, a) = share of i = 1 … m with argmax Q(D(s + η_i)) = a

Q is trained by DQN first, in the same run (`base_updates`) or in another (`base`), and never changes afterwards. Shares
of votes lie in [0, 1], so the radius within which the action cannot change needs no range of Q: `surefoot certify`.
With `adversarial` > 0 that share of the batches is attacked along the gradient of Q through D before it is denoised
(S-DQN (S-PGD)).

Chung-En Sun, Sicun Gao and Tsui-Wei Weng, *Breaking the Barrier: Enhanced Utility and Robustness in Smoothed DRL
Agents* (2024), arXiv:2406.18062; settings of the authors' code.

Differences: every sample has its own noise (the released denoiser shares one draw in a batch); no batch normalisation;
the observations on which it acts in training are not attacked; the default of `base_updates` is ours, as is the
denoiser of vectors.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.common.folder import Run
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.off_policy.method import RECURRENCE
from surefoot.methods.control.dqn import DQN
from surefoot.models.actors import ActorNetwork, Scalar, epsilon_greedy
from surefoot.models.denoiser import DenoiserNetwork
from surefoot.models.saved import holds_agent, load_agent
from surefoot.models.smoothing import Smoothing, draw
from surefoot.objectives.bootstrap import bootstrapped, chosen
from surefoot.perturbations.ascent import log_odds


@dataclass(frozen=True)
class SmoothedDQN(DQN):
    """A denoiser for a frozen deep Q-network."""

    without_effect: ClassVar[tuple[str, ...]] = ("tau", "normalize_observations", *RECURRENCE)
    others: ClassVar[tuple[str, ...]] = ("denoiser", "sigma")

    sigma: float = hyperparameter(0.1, above=0, help="Standard deviation of the noise; pixels are divided by 255.")
    acting_draws: int = hyperparameter(100, low=1, high=10**6, help="Noisy copies of an observation that vote.")
    base: str | None = hyperparameter(None, help="Folder of a DQN run or agent whose network is denoised for.")
    base_updates: int = hyperparameter(10_000, low=0, help="Gradient steps of DQN at first, if no base is given.")
    denoiser_hidden: tuple[int, ...] = hyperparameter((64, 64), low=1, high=2**16, help="Its layers, for vectors.")
    denoiser_rate: float = hyperparameter(1e-3, above=0, help="Adam's learning rate for the denoiser.")
    reconstruction: float = hyperparameter(1.0, low=0, help="Weight λ of its squared error, summed over the batch.")
    denoiser_epsilon: float = hyperparameter(0.2, low=0, high=1, help="Share of random actions while it learns.")
    adversarial: float = hyperparameter(0.0, low=0, high=1, help="Share of the batches that are attacked (paper: 0.3).")
    radius: float = hyperparameter(0.05, above=0, help="Largest change of an entry by that attack.")
    radius_steps: int = hyperparameter(5, low=1, help="Sign steps of that attack.")

    @property
    def rule(self) -> Smoothing:  # type: ignore[override]
        return Smoothing("vote", self.sigma, self.acting_draws)

    @property
    def first(self) -> int:
        """Gradient steps before those of the denoiser."""
        return self.base_updates if self.base is None else 0

    def actor_network(self) -> ActorNetwork:
        return super().actor_network() if self.base is None else based(self.base).network

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        critic, start = super().networks(observation_space, action_space)["critic"], self.first
        if (base := self.base) is not None:
            critic = dataclasses.replace(critic, make=lambda: copied(base, observation_space, action_space))
        network = DenoiserNetwork(self.denoiser_hidden)
        deviation = 0.0 if start else self.sigma
        return {
            "critic": dataclasses.replace(critic, ends=start),
            "denoiser": Net(
                lambda: network.make(observation_space, action_space), self.denoiser_loss, self.denoiser_rate,
                starts=start, epsilon=1.5e-4, kept=network,
            ),
            "sigma": Net(lambda: Scalar(deviation), starts=start, rule=self.begin),
        }  # fmt: skip

    def begin(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The deviation of the noise, which is 0 while the base learns."""
        return torch.full_like(w.now["sigma"], self.sigma), {}

    def denoiser_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The Huber loss of the action taken on the denoised observation, and the error of that."""
        clean, noise = batch["observation"], self.sigma * batch["noise"]["observation"]
        seen = self.attacked(w, batch) if self.adversarial else clean
        denoised = w("denoiser", seen + noise)
        target = bootstrapped(
            batch["reward"], batch["discount"], w.fixed("critic", batch["next_observation"]).max(-1).values
        )
        value = chosen(w.fixed("critic", denoised), batch["action"])
        fit = (batch["weight"] * F.huber_loss(value, target, reduction="none")).mean()
        unit = 255.0 if clean.dtype == torch.uint8 else 1.0
        error = ((denoised - clean) / unit).square().sum()
        found = {"denoiser_loss": fit.detach(), "reconstruction": error.detach() / len(value)}
        return fit + self.reconstruction * error, {**found, "td_errors": (value - target).detach()}

    def attacked(self, w: Weights, batch: Batch) -> Tensor:
        """The observations, or in an adversarial batch those that sign steps through noise, D and Q make of them."""
        clean, noise = batch["observation"], self.sigma * batch["noise"]["observation"]
        unit = 255.0 if clean.dtype == torch.uint8 else 1.0
        choice = w.fixed("critic", w.fixed("denoiser", clean)).argmax(-1)

        def damage(change: Tensor) -> Tensor:
            return log_odds(w.fixed("critic", w.fixed("denoiser", clean + change + noise)), choice).sum()

        change = torch.zeros_like(noise)
        for _ in range(self.radius_steps):
            step = self.radius * unit / self.radius_steps
            change = (change + step * torch.func.grad(damage)(change).sign()).detach()
        return clean + (batch["noise"]["attacked"][0] < self.adversarial) * change

    def perception(self, observation_space: gym.Space, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        if not isinstance(observation_space, gym.spaces.Box):
            DenoiserNetwork().make(observation_space, gym.spaces.Discrete(2))  # refuses it
        noise = draw(observation_space, (size,), 1.0, generator)[""]
        return {"observation": noise, "attacked": torch.rand(size, generator=generator)}

    def play(self, w: Weights, observation: Any, noise: dict[str, Tensor], progress: Tensor) -> Tensor:
        """ε-greedy on one noisy copy; on the observation itself while the base learns."""
        sigma = w("sigma")
        values = w("critic", w("denoiser", observation + sigma * noise["observation"]))
        share = (progress / self.epsilon_fraction).clamp(max=1.0)
        falling = self.epsilon_start + share * (self.epsilon_end - self.epsilon_start)
        return epsilon_greedy(w.module("critic"), values, noise, torch.where(sigma > 0, self.denoiser_epsilon, falling))

    def objective(self) -> str:
        return (
            f"denoiser: mean Huber(Q(D(s + η), a) − y) + {self.reconstruction:g}·‖D(s + η) − s‖²,  "
            f"y = r + γ·max Q(s', ·),  η ~ N(0, {self.sigma:g}²I)"
            + (f"\nQ, before: {super().objective()}" if self.first else "")
        )

    def steps(self) -> list[str]:
        base = [f"for the first {self.first} gradient steps, of Q: {super().steps()[0]}"] if self.first else []
        attack = f"; {self.adversarial:.0%} of the batches are attacked within ±{self.radius:g}"
        return [
            *base,
            f"then Q is frozen, and the denoiser takes one step of Adam({self.denoiser_rate:g})"
            + (attack if self.adversarial else ""),
            f"exploration: Q's best action for one noisy copy, or with probability {self.denoiser_epsilon:g} a random "
            "one" + ("; before, the observation itself, with ε as for dqn" if self.first else ""),
            f"afterwards the votes of {self.acting_draws} noisy copies",
        ]


@cache
def based(folder: str) -> Any:
    """The agent in the folder of a run or of an agent, if it has the values of all actions and no normaliser."""
    agent = load_agent(folder) if holds_agent(folder) else Run(Path(folder)).agent()
    if getattr(getattr(agent, "network", None), "kind", "") != "values" or agent.scales:
        raise UsageError(
            f"base={folder!r} is not allowed: a denoiser is learned for the Q-network of a dqn (or qr-dqn, c51) agent "
            "that does not normalise its observations. Train one with surefoot train dqn."
        )
    return agent


def copied(folder: str, observation_space: gym.Space, action_space: gym.Space) -> nn.Module:
    """The network of a base, with its weights."""
    agent = based(folder)
    if (agent.observation_space, agent.action_space) != (observation_space, action_space):
        raise UsageError(
            f"base={folder!r} is not allowed: it was trained for {agent.observation_space} and {agent.action_space}, "
            f"but this environment has {observation_space} and {action_space}."
        )
    made = agent.network.make(observation_space, action_space)
    made.load_state_dict(agent.module.state_dict())
    return made


METHOD = SmoothedDQN

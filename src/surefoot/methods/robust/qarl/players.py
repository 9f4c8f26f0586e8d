"""The two SAC players of QARL, who see a temperature beside the observation: that of the adversary in the episode."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.envs.adversary_game import JointActions
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.common.game import ADVERSARY, AgainstAdversary
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.loops.off_policy.method import Noise
from surefoot.methods.control.sac import SAC
from surefoot.models.actors import ActorNetwork, Scalar, action_size


@dataclass(frozen=True)
class Players(AgainstAdversary, SAC):
    """SAC of r, and SAC of −r whose temperature is given with every transition; they learn in turns."""

    others: ClassVar[tuple[str, ...]] = (ADVERSARY,)
    notes: ClassVar[int] = 1  # the temperature

    unit: ClassVar[float] = 1.0  # of temperatures as the networks see them
    actor_learning_rate: float = hyperparameter(1e-4, above=0, help="Learning rate of both actors.")
    first_log_temperature: float = hyperparameter(-5.3, help="Log of the protagonist's temperature at first.")

    def actor_network(self) -> ActorNetwork:
        return ActorNetwork("gaussian", self.hidden, self.activation, self.cnn, told=1)

    def agent_spaces(self, observation_space: gym.Space, action_space: gym.Space) -> tuple[gym.Space, gym.Space]:
        assert isinstance(action_space, JointActions)
        if not isinstance(observation_space, gym.spaces.Box) or len(observation_space.shape) != 1:
            raise UsageError(
                f"QARL tells its players a temperature beside a vector of observations, not {observation_space}."
            )
        return observation_space, action_space.agent

    def opponents(
        self, observation_space: gym.Space, action_space: gym.Space
    ) -> dict[str, tuple[ActorNetwork, gym.Space, gym.Space]]:
        assert isinstance(action_space, JointActions)
        return {ADVERSARY: (self.actor_network(), observation_space, action_space.adversary)}

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        seen, own = self.agent_spaces(observation_space, action_space)
        assert isinstance(action_space, JointActions)
        told = gym.spaces.Box(-np.inf, np.inf, (action_size(seen) + 1,))
        step: dict[str, Any] = {"learning_rate": self.actor_learning_rate}
        mine, its = super().networks(told, own), super().networks(told, action_space.adversary)
        actors = [self.make_actor(seen, space) for space in (own, action_space.adversary)]
        return {
            "temperature": replace(mine["temperature"], make=lambda: Scalar(self.first_log_temperature)),
            "critic": mine["critic"],
            "actor": replace(mine["actor"], make=actors[0], **step),
            "adversary_critic": replace(its["critic"], loss=self.adversary_critic_loss),
            ADVERSARY: replace(its["actor"], make=actors[1], loss=self.adversary_loss, **step),
        }

    def learns(self, name: str, iteration: int) -> bool:
        """The adversary in even iterations, the protagonist in odd ones."""
        return name.startswith(ADVERSARY) == (iteration % 2 == 0)

    # --- what each player sees ---------------------------------------------------------------------------------------

    def told(self, observation: Tensor, temperature: Tensor) -> Tensor:
        """An observation and the temperature `[..., 1]` beside it."""
        return torch.cat([observation, temperature / self.unit], -1)

    def _part(self, batch: Batch, of: slice) -> Batch:
        """A batch with one player's part of the actions."""
        temperature = batch["action"][..., -1:]
        seen = {name: self.told(batch[name], temperature) for name in ("observation", "next_observation")}
        noise = {name: x[..., of] for name, x in batch["noise"].items()}
        return {**batch, **seen, "action": batch["action"][..., of], "noise": noise}

    def protagonists_part(self, w: Weights, batch: Batch) -> Batch:
        """The game as the protagonist learns it."""
        return self._part(batch, slice(w.module("actor").distribution.dim))

    def adversarys_part(self, w: Weights, batch: Batch) -> tuple[Weights, Batch]:
        """The game as the adversary's own SAC learns it, with the temperatures of the episodes."""
        own = w.module("actor").distribution.dim
        its = self._part(batch, slice(own, -1)) | {"reward": -batch["reward"], "temperature": batch["action"][..., -1]}
        return w.renamed(actor=ADVERSARY, critic="adversary_critic"), its

    def price(self, w: Weights, batch: Batch) -> Tensor:
        return batch["temperature"] if "temperature" in batch else super().price(w, batch)

    # --- losses ------------------------------------------------------------------------------------------------------

    def temperature_loss(self, w: Weights, batch: Batch, goal: float) -> tuple[Tensor, dict[str, Tensor]]:
        return super().temperature_loss(w, self.protagonists_part(w, batch), goal)

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return super().critic_loss(w, self.protagonists_part(w, batch))

    def actor_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return super().actor_loss(w, self.protagonists_part(w, batch))

    def adversary_critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """SAC's loss of critics, of the negated reward."""
        loss, found = super().critic_loss(*self.adversarys_part(w, batch))
        return loss, {"adversary_critic_loss": found["critic_loss"], "adversary_q": found["q"]}

    def adversary_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """SAC's loss of actors."""
        loss, found = super().actor_loss(*self.adversarys_part(w, batch))
        return loss, {"adversary_loss": found["actor_loss"]}

    # --- acting ------------------------------------------------------------------------------------------------------

    def exploration(self, count: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        return super().exploration(count, action_space, generator) | {"temperature": torch.zeros(count, 1)}

    def remembered(self, noise: Noise, before: Noise, starts: np.ndarray) -> Noise:
        """An episode keeps its temperature."""
        kept = np.where(starts[..., None], noise["temperature"], before["temperature"])
        return {**noise, "temperature": kept}

    def play(self, w: Weights, observation: Any, noise: dict[str, Tensor], progress: Tensor) -> Tensor:
        """What both sample, before its tanh, and the temperature, of which a tanh is taken, too."""
        temperature = noise["temperature"]
        seen = self.told(observation, temperature)
        own = w.module("actor").distribution.dim
        parts = ("actor", noise["action"][..., :own]), (ADVERSARY, noise["action"][..., own:-1])
        raw = [w.module(name).distribution.sample(w(name, seen), z) for name, z in parts]
        return torch.cat([*raw, torch.atanh(temperature)], -1)

    def objective(self) -> str:
        return f"{super().objective()}\nadversary: the same of −r, for its moves, with the temperature α of the episode"

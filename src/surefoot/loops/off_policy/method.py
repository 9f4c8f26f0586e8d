"""The base of off-policy methods: hyperparameters, and the parts that a method names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.envs.make import MOST
from surefoot.errors import UsageError
from surefoot.hyperparameters import Choices, hyperparameter
from surefoot.loops.common.schedule import warming, words
from surefoot.loops.networks.method import Networked
from surefoot.models.actors import Actor
from surefoot.models.networks import CORES, WIDEST

if TYPE_CHECKING:
    from surefoot.loops.networks.nets import Weights

Noise = dict[str, np.ndarray]
RECURRENCE = ("core", "core_size", "sequence_length", "burn_in")
"""Hyperparameters of methods whose networks may remember."""


@dataclass(frozen=True)
class OffPolicy(Networked):
    """The base of every off-policy method. A method names its networks, says how it explores, and which random numbers
    its losses need."""

    loop: ClassVar[str] = "off-policy"

    num_envs: int = hyperparameter(1, low=1, high=MOST, help="Number of parallel environments.")
    buffer_size: int = hyperparameter(1_000_000, low=2, help="Maximum number of transitions in the replay buffer.")
    learning_starts: int = hyperparameter(5000, low=1, help="Steps of uniformly random actions before learning.")
    train_every: int = hyperparameter(
        1, low=1, help="Steps of each environment between rounds of training.", tune=Choices((1, 2, 4, 8))
    )
    updates_per_round: int = hyperparameter(1, low=1, help="Gradient steps in a round of training.")
    n_step: int = hyperparameter(1, low=1, high=1000, help="Rewards that are summed before the critic bootstraps.")
    prioritized: bool = hyperparameter(False, help="Sample transitions by their last TD error (prioritised replay).")
    beta: float = hyperparameter(0.4, low=0, high=1, help="Initial exponent of importance weights; rises to 1.")
    warmup: int = warming("steps of the environment after learning_starts")
    core: str | None = hyperparameter(None, choices=tuple(CORES), help="Recurrent core, for partially observed tasks.")
    core_size: int = hyperparameter(64, low=1, high=WIDEST, help="Units of the recurrent core.")
    sequence_length: int = hyperparameter(
        16, low=1, high=2**16, help="With a core: steps of a replayed sequence that are learned from."
    )
    burn_in: int = hyperparameter(16, low=0, high=2**16, help="With a core: steps before these that fill its memory.")
    normalize_observations: bool = hyperparameter(
        False, help="Normalise observations by their running mean and standard deviation."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_starts < self.num_envs:
            raise UsageError(
                f"learning_starts={self.learning_starts} is not allowed with num_envs={self.num_envs}: a step of all "
                f"environments gives {self.num_envs} transitions. Use at least that many."
            )
        if self.core is not None:
            self._check_sequences()

    def _check_sequences(self) -> None:
        """Raise `UsageError` for what sequences of steps cannot be drawn with."""
        whole = (self.burn_in + self.sequence_length) * self.num_envs
        if self.batch_size % self.sequence_length:
            raise UsageError(
                f"batch_size={self.batch_size} is not allowed with core={self.core!r}: it must be a multiple of "
                f"sequence_length={self.sequence_length}, whose sequences make up a batch."
            )
        for name, other in (("n_step", self.n_step > 1), ("prioritized", self.prioritized)):
            if other:
                raise UsageError(
                    f"{name}={getattr(self, name)} is not allowed with core={self.core!r}: sequences are drawn "
                    "uniformly and learned from step by step. Leave it out."
                )
        if min(self.learning_starts, self.buffer_size) < whole:
            name = "learning_starts" if self.learning_starts < whole else "buffer_size"
            raise UsageError(
                f"{name}={getattr(self, name)} is not allowed with core={self.core!r}: a sequence has burn_in + "
                f"sequence_length = {self.burn_in + self.sequence_length} steps of {self.num_envs} environments, so "
                f"that it must be at least {whole}."
            )

    @property
    def memory(self) -> dict[str, Any]:
        """The core of networks that see observations."""
        return {"core": self.core, "core_size": self.core_size}

    def critic_network(self) -> Any:
        return dataclasses.replace(super().critic_network(), **self.memory)

    def kept_critic(self) -> Any:
        """The description of critics that the agent keeps beside it: of those without a memory."""
        return self.critic_network() if self.core is None else None

    # --- how it acts -------------------------------------------------------------------------------------------------

    others: ClassVar[tuple[str, ...]] = ()  # other networks that act in training, such as adversaries

    def training_env(self, env: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
        """The environment in which it trains, and the options with which that is made."""
        return env, options

    def exploration(self, count: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        """The random numbers with which `count` actions are explored, by name."""
        raise NotImplementedError

    def drawn(
        self, weights: Mapping[str, Tensor], count: int, action_space: gym.Space, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The same for an iteration, which may depend on one seed's `weights` of the networks by name at its start."""
        return self.exploration(count, action_space, generator)

    def remembered(self, noise: Noise, before: Noise, starts: np.ndarray) -> Noise:
        """The noise of a step, from what `exploration` drew for it and the noise of the step before, which is 0 at the
        very first. Arrays are `[seeds, envs, ...]`, and `starts` is True where an episode begins. Without a memory it
        is what was drawn."""
        return noise

    def explore(self, module: Actor, params: Tensor, noise: dict[str, Tensor], progress: Tensor) -> Tensor:
        """The actions taken in training, as the actor's distribution has them; `progress` goes from 0 to 1."""
        raise NotImplementedError

    def play(self, w: Weights, observation: Any, noise: dict[str, Tensor], progress: Tensor) -> Tensor:
        """The actions taken in training, of all networks that act."""
        return self.explore(w.module(self.actor), w(self.actor, observation), noise, progress)

    def random_action(self, space: gym.Space, count: int, generator: np.random.Generator) -> np.ndarray:
        """Uniformly random actions of an environment's space."""
        if isinstance(space, gym.spaces.Box):
            return generator.uniform(space.low, space.high, (count, *space.shape)).astype(space.dtype)
        assert isinstance(space, gym.spaces.Discrete)
        return generator.integers(space.start, space.start + space.n, count)

    def scheduled(self) -> list[str]:
        return [*super().scheduled(), *["beta"] * self.prioritized]

    # --- stages ------------------------------------------------------------------------------------------------------

    def begun(self, iteration: int) -> int:
        """The first iteration of whose transitions this one learns, after `learning_starts` steps of them."""
        return 0

    def finished(self, learner: Any) -> bool:
        """Whether nothing is left to learn, so that the run ends before its last step."""
        return False

    # --- for the outer loop ------------------------------------------------------------------------------------------

    @property
    def rounds(self) -> int:
        """Rounds of acting and training in an iteration."""
        return max(1, self.log_every // (self.train_every * self.num_envs))

    @property
    def pace(self) -> int:
        """Environment steps per iteration."""
        return self.rounds * self.train_every * self.num_envs

    def gradient_steps(self, total_steps: int) -> float:
        """The number of gradient steps in a run."""
        return total_steps / (self.train_every * self.num_envs) * self.updates_per_round

    def algorithm(self) -> list[str]:
        """One iteration in words, for `explain`."""
        where = "by priority" if self.prioritized else "uniformly"
        if self.core is not None:
            where = f"in sequences of {self.sequence_length}, after {self.burn_in} that fill a memory ({self.core})"
        rewards = f", {self.n_step}-step returns" if self.n_step > 1 else ""
        return [
            f"act {self.train_every} steps in {self.num_envs} environments; the first {self.learning_starts} actions "
            "are uniformly random",
            f"keep the last {self.buffer_size} transitions; then {self.updates_per_round} times: draw "
            f"{self.batch_size} of them {where}{rewards}",
            *self.steps(),
            *([f"every learning rate{words(self.anneal, self.warmup)}"] if words(self.anneal, self.warmup) else []),
        ]

"""The base of methods that are made of named networks: the hyperparameters of a gradient step, and its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.hyperparameters import Choices, Range, check, check_effects, hyperparameter
from surefoot.loops.common.schedule import annealing, warming
from surefoot.models.acting import Rule
from surefoot.models.actors import ActorNetwork, CriticNetwork
from surefoot.models.networks import ACTIVATIONS
from surefoot.models.smoothing import Smoothing

if TYPE_CHECKING:
    from surefoot.loops.networks.nets import Net


@dataclass(frozen=True)
class Networked:
    """The base of methods whose step updates named networks on one batch. A method names them, and says which random
    numbers their losses need."""

    loop: ClassVar[str]
    default_steps: ClassVar[int] = 100_000
    without_effect: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    gamma: float = hyperparameter(
        0.99, low=0, high=1, help="Discount factor.", tune=Choices((0.95, 0.98, 0.99, 0.995, 0.999))
    )
    batch_size: int = hyperparameter(
        256, low=1, help="Transitions per gradient step.", tune=Choices((32, 64, 128, 256, 512))
    )
    log_every: int = hyperparameter(1000, low=1, help="Steps per row of metrics; checkpoints come between rows.")
    learning_rate: float = hyperparameter(3e-4, above=0, help="Adam's learning rate.", tune=Range(1e-5, 1e-2, log=True))
    anneal: str = annealing()
    warmup: int = warming("steps")
    tau: float = hyperparameter(
        0.005, above=0, high=1, help="Step of target networks towards the networks.", tune=Range(1e-3, 0.05, log=True)
    )
    max_grad_norm: float | None = hyperparameter(None, above=0, help="Maximum gradient norm.")
    normalize_observations: bool = hyperparameter(
        False, help="Normalise observations by their mean and standard deviation."
    )
    hidden: tuple[int, ...] = hyperparameter((256, 256), low=1, high=2**16, help="Sizes of the hidden layers.")
    activation: str = hyperparameter("relu", choices=tuple(ACTIVATIONS), help="Activation between linear layers.")
    cnn: str = hyperparameter("nature", choices=("nature", "impala"), help="Image encoder.")

    def __post_init__(self) -> None:
        check(self)
        check_effects(self)

    # --- what a method is made of ------------------------------------------------------------------------------------

    actor: ClassVar[str] = "actor"  # the network of the agent
    rule: ClassVar[Smoothing | None] = None  # how the agent acts on several noisy copies of an observation, if it does
    acting_rules: ClassVar[tuple[Rule, ...]] = ()  # what the agent makes of what its networks say

    def actor_network(self) -> ActorNetwork:
        """The architecture of the network that acts."""
        raise NotImplementedError

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        """The networks by name, in the order in which a gradient step updates them."""
        raise NotImplementedError

    def agent_spaces(self, observation_space: gym.Space, action_space: gym.Space) -> tuple[gym.Space, gym.Space]:
        """The spaces of the agent, which may be parts of those of the environment in which it trains."""
        return observation_space, action_space

    def noise(self, size: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        """The random numbers of a gradient step on `size` transitions, by name: `batch["noise"]` of the losses."""
        return {}

    def perception(self, observation_space: gym.Space, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Random numbers `[size, ...]` with which networks see observations, by name: more of those that `noise` and
        exploration draw."""
        return {}

    def learns(self, name: str, iteration: int) -> bool:
        """Whether a network and its target move in an iteration; players of a game may take turns."""
        return True

    def opponents(
        self, observation_space: gym.Space, action_space: gym.Space
    ) -> dict[str, tuple[ActorNetwork, gym.Space, gym.Space]]:
        """The other players whose networks are kept as agents, by name: architecture and spaces."""
        return {}

    def objective(self) -> str:
        """What is minimised, as formulas."""
        raise NotImplementedError

    def after_iteration(self, learner: Any) -> dict[str, Tensor]:
        """Called after every iteration. Returns more metrics, `[seeds]` each."""
        return {}

    # --- shared by methods -------------------------------------------------------------------------------------------

    def make_actor(self, observation_space: gym.Space, action_space: gym.Space) -> Any:
        """A function that makes the acting network."""
        network = self.actor_network()
        return lambda: network.make(observation_space, action_space)

    def critic_network(self) -> Any:
        """The architecture of the critics."""
        return CriticNetwork(self.hidden, self.activation, self.cnn)

    def make_critic(self, observation_space: gym.Space, action_space: gym.Space) -> Any:
        """A function that makes a critic."""
        network = self.critic_network()
        return lambda: network.make(observation_space, action_space)

    @property
    def smoothing(self) -> float:
        """Standard deviation of the noise that the agent adds to its observations, in training and ever after."""
        return 0.0

    def scheduled(self) -> list[str]:
        """The hyperparameters that follow the length of the run."""
        return ["anneal"] * (self.anneal != "none")

    def steps(self) -> list[str]:
        """The update in words: one line per network."""
        raise NotImplementedError

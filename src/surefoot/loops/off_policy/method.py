"""The base of off-policy methods: hyperparameters, and the parts that a method names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.envs.make import MOST
from surefoot.errors import UsageError
from surefoot.hyperparameters import Choices, Range, check, hyperparameter
from surefoot.loops.common.schedule import annealing, warming, words
from surefoot.models.actors import Actor, ActorNetwork, CriticNetwork
from surefoot.models.networks import ACTIVATIONS
from surefoot.models.smoothing import Smoothing

if TYPE_CHECKING:
    from surefoot.loops.off_policy.learner import Learner
    from surefoot.loops.off_policy.nets import Net, Weights

Noise = dict[str, np.ndarray]


@dataclass(frozen=True)
class OffPolicy:
    """The base of every off-policy method. A method names its networks, says how it explores, and which random numbers
    its losses need."""

    loop: ClassVar[str] = "off-policy"
    default_steps: ClassVar[int] = 100_000
    without_effect: ClassVar[tuple[str, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    num_envs: int = hyperparameter(1, low=1, high=MOST, help="Number of parallel environments.")
    gamma: float = hyperparameter(
        0.99, low=0, high=1, help="Discount factor.", tune=Choices((0.95, 0.98, 0.99, 0.995, 0.999))
    )
    batch_size: int = hyperparameter(
        256, low=1, help="Transitions per gradient step.", tune=Choices((32, 64, 128, 256, 512))
    )
    buffer_size: int = hyperparameter(1_000_000, low=2, help="Maximum number of transitions in the replay buffer.")
    learning_starts: int = hyperparameter(5000, low=1, help="Steps of uniformly random actions before learning.")
    train_every: int = hyperparameter(
        1, low=1, help="Steps of each environment between rounds of training.", tune=Choices((1, 2, 4, 8))
    )
    updates_per_round: int = hyperparameter(1, low=1, help="Gradient steps in a round of training.")
    log_every: int = hyperparameter(1000, low=1, help="Steps per row of metrics; checkpoints come between rows.")
    n_step: int = hyperparameter(1, low=1, high=1000, help="Rewards that are summed before the critic bootstraps.")
    prioritized: bool = hyperparameter(False, help="Sample transitions by their last TD error (prioritised replay).")
    beta: float = hyperparameter(0.4, low=0, high=1, help="Initial exponent of importance weights; rises to 1.")
    learning_rate: float = hyperparameter(3e-4, above=0, help="Adam's learning rate.", tune=Range(1e-5, 1e-2, log=True))
    anneal: str = annealing()
    warmup: int = warming("steps of the environment after learning_starts")
    tau: float = hyperparameter(
        0.005, above=0, high=1, help="Step of target networks towards the networks.", tune=Range(1e-3, 0.05, log=True)
    )
    max_grad_norm: float | None = hyperparameter(None, above=0, help="Maximum gradient norm.")
    normalize_observations: bool = hyperparameter(
        False, help="Normalise observations by their running mean and standard deviation."
    )
    hidden: tuple[int, ...] = hyperparameter((256, 256), low=1, high=2**16, help="Sizes of the hidden layers.")
    activation: str = hyperparameter("relu", choices=tuple(ACTIVATIONS), help="Activation between linear layers.")
    cnn: str = hyperparameter("nature", choices=("nature", "impala"), help="Image encoder.")

    def __post_init__(self) -> None:
        check(self)
        if self.learning_starts < self.num_envs:
            raise UsageError(
                f"learning_starts={self.learning_starts} is not allowed with num_envs={self.num_envs}: a step of all "
                f"environments gives {self.num_envs} transitions. Use at least that many."
            )

    # --- what a method is made of ------------------------------------------------------------------------------------

    actor: ClassVar[str] = "actor"  # the network of the agent
    others: ClassVar[tuple[str, ...]] = ()  # other networks that act in training, such as adversaries

    def actor_network(self) -> ActorNetwork:
        """The architecture of the network that acts."""
        raise NotImplementedError

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        """The networks by name, in the order in which a gradient step updates them."""
        raise NotImplementedError

    def training_env(self, env: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
        """The environment in which it trains, and the options with which that is made."""
        return env, options

    def agent_spaces(self, observation_space: gym.Space, action_space: gym.Space) -> tuple[gym.Space, gym.Space]:
        """The spaces of the agent, which may be parts of those of the environment in which it trains."""
        return observation_space, action_space

    def noise(self, size: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        """The random numbers of a gradient step on `size` transitions, by name: `batch["noise"]` of the losses."""
        return {}

    rule: ClassVar[Smoothing | None] = None  # how the agent acts on several noisy copies of an observation, if it does

    def perception(self, observation_space: gym.Space, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Random numbers `[size, ...]` with which networks see observations, by name: more of those that `exploration`
        and `noise` draw."""
        return {}

    def exploration(self, count: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        """The random numbers with which `count` actions are explored, by name."""
        raise NotImplementedError

    def drawn(
        self, weights: Mapping[str, Tensor], count: int, action_space: gym.Space, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The same for an iteration, which may depend on one seed's `weights` of the networks by name at its start."""
        return self.exploration(count, action_space, generator)

    def learns(self, name: str, iteration: int) -> bool:
        """Whether a network and its target move in an iteration; players of a game may take turns."""
        return True

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

    def opponents(
        self, observation_space: gym.Space, action_space: gym.Space
    ) -> dict[str, tuple[ActorNetwork, gym.Space, gym.Space]]:
        """The other players whose networks are kept as agents, by name: architecture and spaces."""
        return {}

    def objective(self) -> str:
        """What is minimised, as formulas."""
        raise NotImplementedError

    def after_iteration(self, learner: Learner) -> dict[str, Tensor]:
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

    def random_action(self, space: gym.Space, count: int, generator: np.random.Generator) -> np.ndarray:
        """Uniformly random actions of an environment's space."""
        if isinstance(space, gym.spaces.Box):
            return generator.uniform(space.low, space.high, (count, *space.shape)).astype(space.dtype)
        assert isinstance(space, gym.spaces.Discrete)
        return generator.integers(space.start, space.start + space.n, count)

    @property
    def smoothing(self) -> float:
        """Standard deviation of the noise that the agent adds to its observations, in training and ever after."""
        return 0.0

    def scheduled(self) -> list[str]:
        """The hyperparameters that follow the length of the run."""
        return ["anneal"] * (self.anneal != "none") + ["beta"] * self.prioritized

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
        rewards = f", {self.n_step}-step returns" if self.n_step > 1 else ""
        return [
            f"act {self.train_every} steps in {self.num_envs} environments; the first {self.learning_starts} actions "
            "are uniformly random",
            f"keep the last {self.buffer_size} transitions; then {self.updates_per_round} times: draw "
            f"{self.batch_size} of them {where}{rewards}",
            *self.steps(),
            *([f"every learning rate{words(self.anneal, self.warmup)}"] if words(self.anneal, self.warmup) else []),
        ]

    def steps(self) -> list[str]:
        """The update in words: one line per network."""
        raise NotImplementedError

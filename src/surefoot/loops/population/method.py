"""The base of methods that train populations of agents and adversaries."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.on_policy.method import OnPolicy
from surefoot.loops.population.seats import Threat

if TYPE_CHECKING:
    from surefoot.loops.population.learner import PopulationLearner


@dataclass(frozen=True)
class Population(OnPolicy):
    """An on-policy method as both sides' learner in a game over perturbations; `advance` says who learns when.

    A method inherits from this class first and from the learner's second.
    """

    loop: ClassVar[str] = "population"
    default_steps: ClassVar[int] = 3_000_000
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    without_effect: ClassVar[tuple[str, ...]] = ("anneal", "core", "core_size", "cnn", "shared")

    num_envs: int = hyperparameter(4, low=2, high=2**16, help="Number of parallel environments.")
    num_steps: int = hyperparameter(
        1024, low=1, high=2**24, help="Steps per environment and rollout of fresh episodes."
    )
    channel: str = hyperparameter("observation", choices=("observation", "action"), help="What the adversary perturbs.")
    budget: float = hyperparameter(
        0.075,
        above=0,
        help="ε: size of a perturbation, in standard deviations of the observation or half-ranges of the action.",
    )
    response_steps: int = hyperparameter(200_000, low=1, help="Environment steps of a best response.")
    adversary_learning_rate: float = hyperparameter(3e-4, above=0, help="Adam's learning rate for adversaries.")
    payoff_episodes: int = hyperparameter(20, low=1, help="Episodes in which a pair's payoff is measured.")

    def threat(self) -> Threat:
        """What the adversary may do."""
        return Threat(self.channel, self.budget, 2.0)

    def adversary(self) -> OnPolicy:
        """The method by which adversaries learn: this one, on what they see as it is."""
        rate = self.adversary_learning_rate
        return dataclasses.replace(self, learning_rate=rate, normalize_observations=False, squash=False)

    @property
    def response(self) -> int:
        """Iterations of a best response."""
        return math.ceil(self.response_steps / self.pace)

    def advance(self, game: PopulationLearner) -> list[dict[str, float]]:
        """One iteration of the game; returns one row of metrics per seed."""
        raise NotImplementedError

    def deployed(self, game: PopulationLearner, index: int, facts: dict[str, Any]) -> Any:
        """The agent of one seed as it is deployed."""
        raise NotImplementedError

"""The base of offline methods: the hyperparameters of learning from a data set, and the parts that a method names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from surefoot.data.transitions import Transitions
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.common.schedule import warming, words
from surefoot.loops.networks.method import Networked
from surefoot.loops.off_policy.method import OffPolicy

if TYPE_CHECKING:
    from surefoot.loops.networks.nets import Batch
    from surefoot.loops.offline.learner import OfflineLearner

OF_ACTING = tuple({f.name: 0 for f in fields(OffPolicy)}.keys() - {f.name for f in fields(Networked)})
"""Hyperparameters of off-policy methods that have no effect on a data set."""
Beforehand = Callable[["Batch", tuple[str, ...]], dict[str, Tensor]]
"""From a batch and the names of the networks that are due, more entries of the batch `[seeds, size, ...]`."""


@dataclass(frozen=True)
class Offline(Networked):
    """The base of every offline method. A method names its networks, their losses, and the order of both; a stage of a
    method is a network that starts late or ends early (`Net.starts`, `Net.ends`). One that extends an off-policy method
    inherits from both, `class TD3BC(Offline, TD3)`.

    Losses find in a batch: observation, next_observation, action in [−1, 1], reward, discount (γ, or 0 after a
    termination), weight (1), noise, index (the row of the data), and what `columns` and `beforehand` add.
    """

    loop: ClassVar[str] = "offline"
    default_steps: ClassVar[int] = 1_000_000
    default_env: ClassVar[str] = ""  # none: it learns from data alone
    without_effect: ClassVar[tuple[str, ...]] = OF_ACTING

    log_every: int = hyperparameter(1000, low=1, help="Gradient steps per row of metrics; checkpoints come between.")
    warmup: int = warming("gradient steps")
    normalize_observations: bool = hyperparameter(
        True, help="Normalise observations by the mean and standard deviation of the data, (s − mean)/(std + 0.001)."
    )

    # --- what a method is made of ------------------------------------------------------------------------------------

    reads_reward_data: ClassVar[bool] = False  # whether it learns from a second data set, whose rewards are known

    def learned(self, data: Transitions, reward_data: Transitions | None = None) -> Transitions:
        """The data that it learns from, made of those given: all of them, unless a method selects, joins or relabels.
        Those whose rewards are known are given to methods that read them, `learner.reward_data`."""
        return data

    def columns(self, data: Transitions) -> dict[str, NDArray[Any]]:
        """More columns `[rows, ...]` of the data that its losses need, such as the next action."""
        return {}

    def fitted(self, data: Transitions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of observations, for the frozen normaliser."""
        return data.scale()

    def beforehand(self, learner: OfflineLearner) -> Beforehand | None:
        """What looks up, before each gradient step, what its losses need of the networks as they are and cannot compute
        in the fused step, such as a search in the data. Called once a run; None for nothing."""
        return None

    # --- for the outer loop ------------------------------------------------------------------------------------------

    @property
    def pace(self) -> int:
        """Gradient steps per iteration."""
        return self.log_every

    def gradient_steps(self, total_steps: int) -> float:
        """The number of gradient steps in a run: its steps."""
        return total_steps

    def algorithm(self) -> list[str]:
        """One gradient step in words, for `explain`."""
        normal = ["normalise observations once, by the mean and deviation of the data"] * self.normalize_observations
        schedule = words(self.anneal, self.warmup)
        return [
            *normal,
            f"draw {self.batch_size} transitions of the data uniformly",
            *self.steps(),
            *([f"learning rates{schedule}"] if schedule else []),
        ]

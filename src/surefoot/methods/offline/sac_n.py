"""SAC-N: SAC on data, with so many critics that their minimum is low where the data say little.

    y = r + γ·(min_k Q_k⁻(s', a') − α·log π(a'|s'))        a' ~ π(·|s'),  k = 1 … N
    critics: minimise  ½ Σ_k mean[ (Q_k(s, a) − y)² ]
    actor: minimise  mean[ α·log π(a|s) − min_k Q_k(s, a) ]        a ~ π(·|s)

Critics that learn from the same data disagree about actions that are not in them. The minimum of N of them is a lower
bound there, and the lower the larger N is, so that no other term has to hold the policy near the data.

Gaon An et al., *Uncertainty-Based Offline Reinforcement Learning with Diversified Q-Ensemble* (2021), arXiv:2110.01548.
The order of a step is temperature, actor, critics. Published for 3 million steps and three layers of 256.

Difference: networks are initialised as torch does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import gymnasium as gym

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Net
from surefoot.loops.offline.method import Offline
from surefoot.methods.control.sac import SAC


@dataclass(frozen=True)
class SACN(Offline, SAC):
    """SAC with many critics, whose minimum is a lower bound where the data say little."""

    default_steps: ClassVar[int] = 3_000_000

    critics: int = hyperparameter(
        10, low=1, high=1000, help="Number N of critics; published: halfcheetah 10, walker2d 20, hopper 500."
    )
    hidden: tuple[int, ...] = hyperparameter((256, 256, 256), low=1, high=2**16, help="Sizes of the hidden layers.")
    normalize_observations: bool = hyperparameter(
        False, help="Normalise observations by the mean and standard deviation of the data, (s − mean)/(std + 0.001)."
    )

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        made = super().networks(observation_space, action_space)
        return {name: made[name] for name in ("temperature", "actor", "critic")}

    def steps(self) -> list[str]:
        first = ["temperature"] if self.temperature is None else []
        steps = [f"{name}: one step of Adam({self.learning_rate:g})" for name in (*first, "actor", "critics")]
        return [*steps, f"the critics' targets move by τ = {self.tau:g} towards them"]


METHOD = SACN

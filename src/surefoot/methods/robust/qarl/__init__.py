"""QARL: SAC against an adversary that is almost random at first, and made rational as fast as the protagonist allows.

    protagonist: SAC of r with a learned temperature;  adversary: SAC of −r with the temperature α of the episode
    α ~ Gamma(k, λ);  k: minimise KL(p_k ‖ p_target)  s.t.  KL(p_k ‖ p_old) ≤ ε,  mean[ p_k(α)/p_old(α)·J(α) ] ≥ ξ

Entropy-regularised players meet in a quantal response equilibrium, in which a temperature is a degree of irrationality.
Both players see α, J is the protagonist's discounted return in an episode, and as k falls from 50 to 1 the adversary's
mean temperature falls from 0.05 to 0.001. Use it in place of RARL where a strong adversary stops learning. Set `bound`
to 50 to 70 % of the discounted return without an adversary.

Aryaman Reddi et al., *Robust Adversarial Reinforcement Learning via Bounded Rationality Curricula* (2023),
arXiv:2311.01642; settings of the authors' code.

Differences: players take turns after `log_every` steps in place of 5 episodes, draw a temperature for every episode of
their own, and learn from the transitions of both turns; α is divided by its first mean where networks see it; the
search for k runs along the way to its target in place of a general solver; the best snapshot is not kept. Trained
agents see α = 0, as if the adversary were rational. `curriculum="fixed"` is RARL with SAC players.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Net
from surefoot.loops.off_policy.method import RECURRENCE
from surefoot.methods.robust.qarl.curriculum import advanced
from surefoot.methods.robust.qarl.pairs import ENOUGH, Curriculum, Pairs, ended_episodes
from surefoot.methods.robust.qarl.players import Players

if TYPE_CHECKING:
    from surefoot.loops.off_policy.learner import Learner

HIGHEST = 0.999  # temperature; tanh of it is a note in the joint action


@dataclass(frozen=True)
class QARL(Players):
    """Quantal adversarial reinforcement learning."""

    without_effect: ClassVar[tuple[str, ...]] = ("n_step", "cnn", "temperature", *RECURRENCE)
    default_steps: ClassVar[int] = 1_000_000

    fraction: float = hyperparameter(0.2, low=0, high=1, help="Share of its range that the adversary has in training.")
    curriculum: str = hyperparameter(
        "self-paced",
        choices=("self-paced", "linear", "fixed"),
        help="How k falls: by return, by time, or k is its target.",
    )
    bound: float = hyperparameter(10.0, help="Least discounted return ξ at which the curriculum moves on.")
    concentrations: tuple[float, float] = hyperparameter((50.0, 1.0), above=0, help="k at first and in the end.")
    rate: float = hyperparameter(1000.0, above=0, help="Rate λ of the temperature's law; its mean is k/λ.")
    max_kl: float = hyperparameter(0.5, above=0, help="Largest divergence ε of the laws in an update of k.")
    pairs: int = hyperparameter(30, low=1, high=ENOUGH, help="Episodes per update of k.")
    hidden: tuple[int, ...] = hyperparameter((256, 256, 256), low=1, high=2**16, help="Sizes of the hidden layers.")
    learning_starts: int = hyperparameter(5000, low=1, help="Steps of uniformly random actions before learning.")
    train_every: int = hyperparameter(3, low=1, help="Steps of each environment between rounds of training.")
    log_every: int = hyperparameter(2500, low=1, help="Steps of a turn, in which one player learns.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature is not None:
            raise UsageError(f"QARL: temperature={self.temperature!r} has no effect in this method; leave it out.")

    @property
    def unit(self) -> float:  # type: ignore[override]
        """The mean temperature at first."""
        return self.concentrations[0] / self.rate

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        known = Net(lambda: Curriculum(self.concentrations[self.curriculum == "fixed"]))
        return {**super().networks(observation_space, action_space), "curriculum": known}

    # --- the temperatures --------------------------------------------------------------------------------------------

    def drawn(
        self, weights: Mapping[str, Tensor], count: int, action_space: gym.Space, generator: torch.Generator
    ) -> dict[str, Tensor]:
        found = self.exploration(count, action_space, generator)
        seed = int(torch.randint(2**62, (), generator=generator))
        temperatures = self._temperatures(float(weights["curriculum"][0]), count, np.random.default_rng(seed))
        return found | {"temperature": torch.from_numpy(temperatures).unsqueeze(-1)}

    def _temperatures(self, concentration: float, count: int, generator: np.random.Generator) -> np.ndarray:
        return generator.gamma(concentration, 1 / self.rate, count).clip(max=HIGHEST).astype(np.float32)

    def random_action(self, space: gym.Space, count: int, generator: np.random.Generator) -> np.ndarray:
        found = super().random_action(space, count, generator)
        found[:, -1] = self._temperatures(self.concentrations[0], count, generator)
        return found

    def after_iteration(self, learner: Learner) -> dict[str, Tensor]:
        """After a turn of the protagonist, the curriculum: its concentration k, and the pairs it has gathered."""
        first, last = self.concentrations
        for seed in range(learner.num_seeds):
            weights = learner.weights["curriculum"][seed]
            k, pairs = float(weights[0]), Pairs.read(weights)
            if self.curriculum == "linear":
                k = first + (last - first) * float(learner._progress()[seed])
            elif self.curriculum == "self-paced" and learner.updates and learner.iteration % 2 == 0:
                pairs = pairs.extended(ended_episodes(learner.replay, seed, self.rounds * self.train_every, self.gamma))
                if len(pairs) >= self.pairs:
                    found = pairs.temperatures, pairs.returns
                    k = advanced(k, last, self.rate, self.max_kl, self.bound, *found)
                    pairs = Pairs()
            weights.copy_(pairs.written(k).to(weights.device))
        return {"mean_temperature": learner.weights["curriculum"][:, 0] / self.rate}

    # --- in words ----------------------------------------------------------------------------------------------------

    def steps(self) -> list[str]:
        first, last = (f"{k / self.rate:g}" for k in self.concentrations)
        how = {
            "self-paced": f"after {self.pairs} of its episodes k falls, by at most KL = {self.max_kl:g} and as long "
            "as the "
            f"weighted discounted return is at least {self.bound:g}",
            "linear": "k falls linearly over the run",
            "fixed": "k is its target throughout",
        }[self.curriculum]
        return [
            f"the adversary's moves, scaled by {self.fraction:g}, are the random choices of {self.adversary}; an "
            "episode has "
            f"a temperature, with a mean from {first} to {last}, which both players see",
            f"turns of {self.pace} steps: the adversary's critics and actor learn, then the protagonist's networks",
            *super().steps(),
            how,
        ]


METHOD = QARL

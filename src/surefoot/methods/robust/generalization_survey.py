"""A survey's protocol of generalisation, and two of its interventions as switches of DQN.

For anybody who says that a policy generalises. The survey groups what is done about it by the part of the MDP that is
changed: the algorithm, the reward, the observation, the transition or the policy. `surefoot generalize RUN` measures
it: a trained and frozen policy in contexts like those of its training, between them, in new combinations, and beyond
(`surefoot.evaluate.generalization`). The method is the training side, where all that is compared shares the rest:

    algorithm     double=True            y = r + γ·Q⁻(s', argmax_a Q(s', a))
    algorithm     munchausen=α           y = r + α·[τ log π(a|s)]_l⁰ + γ·τ log Σ_a' exp(Q⁻(s', a')/τ),  π ∝ exp(Q⁻/τ)
    observation   mixreg=b               Q(λs_i + (1−λ)s_j, a_i) to λy_i + (1−λ)y_j,  λ ~ Beta(b, b), its larger half
    algorithm     gamma                  a smaller discount in training than in evaluation, as a regulariser
    transition    --perturb param:…      contexts drawn anew in every episode
    policy        epsilon_end            random actions

Reference: Korkmaz, "A Survey Analyzing Generalization in Deep Reinforcement Learning", 2024 (arXiv:2401.02349), which
reports no experiment: there is no instance. Interventions are those of Vieillard et al. (arXiv:2007.14430) and Wang et
al. (arXiv:2010.10814), the latter with mixed targets in place of mixed returns, since DQN has none.

Not built: random convolutions and random shifts of images. With `n_step` above 1 only the first action has a
Munchausen term.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import torch
from scipy.special import betaincinv
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.methods.control.dqn import DQN
from surefoot.objectives.bootstrap import bootstrapped, munchausen, soft_value


def mixed(values: Tensor, weight: Tensor, partner: Tensor) -> Tensor:
    """`λ·x_i + (1 − λ)·x_j` of `values [batch, ...]`, with λ = `weight [batch]` and j = `partner [batch]`."""
    weight = weight.view(-1, *[1] * (values.dim() - 1))
    return weight * values + (1 - weight) * values[partner]


@dataclass(frozen=True)
class GeneralizationSurvey(DQN):
    """DQN with the interventions that the survey compares, each off or on."""

    munchausen: float | None = hyperparameter(0.9, low=0, high=1, help="α of Munchausen; 0 is soft DQN, None is DQN.")
    temperature: float = hyperparameter(0.03, above=0, help="τ of Munchausen.")
    lowest: float = hyperparameter(-1.0, high=0, help="Least τ log π that is added to the reward.")
    mixreg: float | None = hyperparameter(None, above=0, help="Parameter of mixreg's Beta distribution; 0.2 is usual.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.double and self.munchausen is not None:
            raise UsageError(
                f"double=True is not allowed with munchausen={self.munchausen:g}, whose target has no best action to "
                "be chosen twice; use munchausen=None."
            )

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        if self.mixreg is not None and not isinstance(observation_space, gym.spaces.Box):
            raise UsageError(f"mixreg={self.mixreg:g} mixes arrays, not {observation_space}; use mixreg=None.")
        return super().networks(observation_space, action_space)

    def noise(self, size: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        """The weight of each sample, at least a half, and its partner."""
        if self.mixreg is None:
            return {}
        drawn = torch.rand(size, generator=generator, dtype=torch.float64)
        weight = torch.as_tensor(betaincinv(self.mixreg, self.mixreg, drawn.numpy()))
        partner = torch.randperm(size, generator=generator)
        return {"weight": torch.maximum(weight, 1 - weight).float(), "partner": partner}

    def target(self, w: Weights, batch: Batch) -> Tensor:
        if self.munchausen is None:
            return super().target(w, batch)
        here = w.target("critic", batch["observation"])
        bonus = munchausen(here, batch["action"], self.temperature, self.lowest)
        following = soft_value(w.target("critic", batch["next_observation"]), self.temperature)
        return bootstrapped(batch["reward"] + self.munchausen * bonus, batch["discount"], following)

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        observation, target = batch["observation"], self.target(w, batch)
        if self.mixreg is not None:
            mix = batch["noise"]["weight"], batch["noise"]["partner"]
            observation, target = mixed(observation, *mix), mixed(target, *mix)
        return self.fit(w, batch, observation, target)

    def objective(self) -> str:
        if self.munchausen is None:
            return super().objective()
        bonus = f"{self.munchausen:g}·[τ log π(a|s)] clipped to [{self.lowest:g}, 0]"
        return f"mean Huber(Q(s, a) − y),  y = r + {bonus} + γ·τ log Σ exp(Q⁻(s', ·)/τ),  τ = {self.temperature:g}"

    def steps(self) -> list[str]:
        mix = f"mix each sample and its target with another's, λ ~ Beta({self.mixreg}, {self.mixreg})"
        return [*([] if self.mixreg is None else [mix]), *super().steps()]


METHOD = GeneralizationSurvey

"""A2PR: TD3 on data whose actor stays near good actions only, those of the data or those a generator makes of them.

    critics: as in TD3
    V: minimise  mean (V(s) − min(y, y₂))²        y the critics' target, y₂ the same by the critics themselves
    generator: minimise  ρ·mean m·(D(s, z) − a)²  +  ½·KL(z ‖ N(0, 1))        m = 1[Q_1(s, a) > V(s)]
    actor: minimise  −α·mean Q_1(s, π(s)) / mean |Q_1|  +  ω·mean c·(π(s) − ā)²
        a_v = D(s, z of (s, π(s)))        ā = a_v  if Q_1(s, a_v) ≥ Q_1(s, a), else a
        c = 1  if Q_1(s, a_v) ≥ V(s) or Q_1(s, a) > V(s), else 0

Use it on mixed data of which a small part is good, where TD3+BC clones the rest. The generator is a conditional
variational autoencoder that learns from actions of positive advantage. It is given the actor's own action, so that ā is
what good actions near that look like. Where neither action beats V nothing holds the actor near the data.

Tenglong Liu et al., *Adaptive Advantage-Guided Policy Regularization for Offline Reinforcement Learning* (2024),
arXiv:2405.19909. Presets are the settings of the authors' code; its networks are deeper than TD3+BC's.

Differences: ā is a target without a gradient; in the authors' code one flows through the generator too. Networks are
initialised as torch does. V is that before the step in the gates of all losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.hyperparameters import Range, hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.methods.offline.a2pr.generator import Generator, divergence
from surefoot.methods.offline.baselines import TD3BC
from surefoot.models.actors import ActorNetwork, StateValue, action_size
from surefoot.objectives.bootstrap import bootstrapped, lowest


def guided(data: Tensor, generated: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """From the values Q(s, a), Q(s, a_v) and V(s), `[batch]`: whether a_v is the target, and whether a target holds."""
    return generated >= data, (generated >= value) | (data > value)


@dataclass(frozen=True)
class A2PR(TD3BC):
    """TD3 whose actor stays near actions of high advantage, from the data or from a generator of them."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "halfcheetah-medium": {"alpha": 40.0, "strength": 1.0},
        "hopper-medium": {"strength": 0.4, "gamma": 0.995},
        "walker2d-medium": {"strength": 1.0, "reconstruction": 1.5},
    }

    hidden: tuple[int, ...] = hyperparameter(
        (256, 256, 256, 256), low=1, high=2**16, help="Sizes of the hidden layers of the critics and of V."
    )
    actor_hidden: tuple[int, ...] = hyperparameter(
        (256, 256, 256), low=1, high=2**16, help="Sizes of the hidden layers of the actor."
    )
    strength: float = hyperparameter(0.5, low=0, help="Weight ω of the regularizer.", tune=Range(0.1, 1.0))
    reconstruction: float = hyperparameter(1.0, low=0, help="Weight ρ of the generator's error against the KL.")
    generator_hidden: tuple[int, ...] = hyperparameter(
        (750, 750), low=1, high=2**16, help="Sizes of the hidden layers of the generator's encoder and decoder."
    )
    generator_rate: float = hyperparameter(1e-3, above=0, help="Adam's learning rate for the generator.")

    def actor_network(self) -> ActorNetwork:
        return ActorNetwork("deterministic", self.actor_hidden, self.activation, self.cnn)

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        nets, given = super().networks(observation_space, action_space), (self.activation, self.cnn)
        value = partial(StateValue, observation_space, self.hidden, *given)
        generator = partial(Generator, observation_space, action_size(action_space), self.generator_hidden, *given)
        step: dict[str, Any] = {"max_grad_norm": self.max_grad_norm}
        return {
            "critic": nets["critic"],
            "value": Net(value, self.value_loss, self.learning_rate, **step),
            "generator": Net(generator, self.generator_loss, self.generator_rate, **step),
            "actor": nets["actor"],
        }

    def noise(self, size: int, action_space: gym.Space, generator: torch.Generator) -> dict[str, Tensor]:
        latent = torch.randn(2, size, 2 * action_size(action_space), generator=generator)
        return super().noise(size, action_space, generator) | {"data latent": latent[0], "actor latent": latent[1]}

    def value_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared error of V against the lower of the targets by target critics and by the critics themselves."""
        after, action = batch["next_observation"], self.following(w, batch)
        least = torch.minimum(lowest(w.target("critic", after, action)), lowest(w.fixed("critic", after, action)))
        target = bootstrapped(batch["reward"], batch["discount"], least)
        value = w("value", batch["observation"])
        loss = ((value - target) ** 2).mean()
        return loss, {"value_loss": loss.detach(), "v": value.mean().detach()}

    def generator_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's error on actions of positive advantage, and the divergence of its latent numbers on all."""
        action = batch["action"]
        good = self.valued(w, batch, action) > w.before("value", batch["observation"])
        made, mean, log_std = w("generator", batch["observation"], action, batch["noise"]["data latent"])
        error = (good.unsqueeze(-1) * (made - action) ** 2).mean()
        loss = self.reconstruction * error + 0.5 * divergence(mean, log_std)
        return loss, {"generator_loss": loss.detach(), "good": good.to(loss.dtype).mean()}

    def valued(self, w: Weights, batch: Batch, action: Tensor) -> Tensor:
        """Q_1 of actions `[batch]`, without a gradient."""
        return w.fixed("critic", batch["observation"], action).reshape(-1, len(action))[0].detach()

    def generated(self, w: Weights, batch: Batch, action: Tensor) -> Tensor:
        """The generator's action a_v for the actor's own, without a gradient."""
        made, *_ = w.fixed("generator", batch["observation"], action.detach(), batch["noise"]["actor latent"])
        return made.detach()

    def distance(self, w: Weights, batch: Batch, action: Tensor) -> Tensor:
        """The regularizer: ω times the squared distance to the better action, where one is better than V."""
        made = self.generated(w, batch, action)
        values = self.valued(w, batch, batch["action"]), self.valued(w, batch, made)
        better, held = guided(*values, w.before("value", batch["observation"]))
        target = torch.where(better.unsqueeze(-1), made, batch["action"])
        return self.strength * (held.unsqueeze(-1) * (action - target) ** 2).mean()

    def objective(self) -> str:
        critic, actor = super().objective().split("\n")
        value = "value: mean (V(s) − min(y, y₂))²,  y₂ = y by Q in place of Q⁻"
        good = f"generator: {self.reconstruction:g}·mean 1[Q_1(s, a) > V(s)]·(D(s, z) − a)²  +  0.5·KL(z ‖ N(0, 1))"
        pull = f"{self.strength:g}·mean 1[max(Q_1(s, a), Q_1(s, a_v)) > V(s)]·(π(s) − ā)²"
        which = "ā: the better by Q_1 of a and a_v = D(s, z of π(s))"
        return "\n".join([critic, value, good, actor.replace("mean (π(s) − a)²", pull), which])

    def steps(self) -> list[str]:
        critics, actor = super().steps()
        value = f"value: one step of Adam({self.learning_rate:g})"
        return [critics, value, f"generator: one step of Adam({self.generator_rate:g})", actor]


METHOD = A2PR

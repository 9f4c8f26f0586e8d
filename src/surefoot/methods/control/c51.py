"""C51: a categorical distribution of the return of every action, learned by cross-entropy, in place of its mean.

    z_i = v_min + i·(v_max − v_min)/(N − 1)        Q(s, a) = Σ_i z_i·p_i(s, a),  p = softmax of the outputs
    m = Π[ r + γ·z, p⁻(s', argmax Q(s', ·)) ]      minimise  mean[ −Σ_i m_i·log p_i(s, a) ]

Π clips to [v_min, v_max] and shares every atom out between its two neighbours by nearness. The limits must hold the
discounted returns: by default −10 and 10, which suit rewards clipped to ±1; a CartPole needs 0 to 1/(1 − γ) = 100.

Marc Bellemare, Will Dabney, Rémi Munos, *A Distributional Perspective on Reinforcement Learning* (2017),
arXiv:1707.06887; its settings, but for the start of learning, which is that of `dqn`. `double`, `dueling`, `n_step`
and `prioritized` are those of DQN; the error that sets a priority is that of the mean (Rainbow's: the cross-entropy).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Batch, Net, Weights
from surefoot.methods.control.dqn import DQN
from surefoot.models.actors import ActorNetwork
from surefoot.objectives.bootstrap import chosen, projected


@dataclass(frozen=True)
class C51(DQN):
    """Categorical deep Q-network."""

    learning_rate: float = hyperparameter(2.5e-4, above=0, help="Adam's learning rate.")
    adam_epsilon: float = hyperparameter(0.01 / 32, above=0, help="Adam's ε.")
    max_grad_norm: float | None = hyperparameter(None, above=0, help="Maximum gradient norm.")
    epsilon_end: float = hyperparameter(0.01, low=0, high=1, help="Final share of random actions.")
    atoms: int = hyperparameter(51, low=2, high=2**16, help="Atoms of the return's distribution.")
    v_min: float = hyperparameter(-10.0, help="Lowest discounted return.")
    v_max: float = hyperparameter(10.0, help="Highest discounted return.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.v_min < self.v_max:
            raise UsageError(
                f"v_min={self.v_min:g} is not allowed with v_max={self.v_max:g}; the lowest discounted return must be "
                "below the highest."
            )

    def actor_network(self) -> ActorNetwork:
        return dataclasses.replace(super().actor_network(), atoms=self.atoms, support=(self.v_min, self.v_max))

    def networks(self, observation_space: gym.Space, action_space: gym.Space) -> dict[str, Net]:
        nets = super().networks(observation_space, action_space)
        return {"critic": dataclasses.replace(nets["critic"], epsilon=self.adam_epsilon)}

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the action taken with the projected distribution of the next state's best one."""
        support = torch.linspace(self.v_min, self.v_max, self.atoms, dtype=batch["reward"].dtype)
        following = w.target("critic", batch["next_observation"], "atoms")
        by = w.fixed("critic", batch["next_observation"], "atoms") if self.double else following
        best = w.module("critic").expectation(by, batch["next_observation"]).argmax(-1)
        probability = taken(following, best).softmax(-1)
        target = projected(probability, support, batch["reward"], batch["discount"]).detach()
        log_probability = taken(w("critic", batch["observation"], "atoms"), batch["action"]).log_softmax(-1)
        loss = (batch["weight"] * -(target * log_probability).sum(-1)).mean()
        value = (log_probability.detach().exp() * support).sum(-1)
        errors = value - (target * support).sum(-1)
        return loss, {"critic_loss": loss.detach(), "q": value.mean(), "td_errors": errors}

    def objective(self) -> str:
        by = "Q" if self.double else "Q⁻"
        return (
            f"mean −Σ_i m_i·log p_i(s, a),  m = Π[ r + γ·z, p⁻(s', argmax {by}(s', ·)) ]\n"
            f"Q(s, a) = Σ_i z_i·p_i(s, a),  z: {self.atoms} atoms from {self.v_min:g} to {self.v_max:g}"
        )


def taken(atoms: Tensor, action: Tensor) -> Tensor:
    """The outputs `[batch, atoms]` of the actions `[batch]`, from those of all actions `[batch, actions, atoms]`."""
    return chosen(atoms.movedim(-1, 0), action).mT


METHOD = C51

"""QR-DQN: quantiles of the return of every action, learned by quantile regression, in place of its mean.

    u_ij = r + γ·θ_j⁻(s', a*) − θ_i(s, a)        a* = argmax mean_j θ_j⁻(s', ·),  τ_i = (i − ½)/N
    minimise  mean[ Σ_i mean_j |τ_i − 1[u_ij < 0]|·H_κ(u_ij)/κ ],  H the Huber loss

Will Dabney et al., *Distributional Reinforcement Learning with Quantile Regression* (2017), arXiv:1710.10044. Defaults
are those of Stable-Baselines3's version: 200 quantiles, a learning rate of 5e-5, ε to 0.01, gradients are not clipped.
`double`, `dueling`, `n_step` and `prioritized` are those of DQN; the error that sets a priority is that of the mean.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.networks.nets import Batch, Weights
from surefoot.methods.control.dqn import DQN
from surefoot.models.actors import ActorNetwork
from surefoot.objectives.bootstrap import bootstrapped, chosen, quantile_huber


@dataclass(frozen=True)
class QRDQN(DQN):
    """Quantile-regression deep Q-network."""

    learning_rate: float = hyperparameter(5e-5, above=0, help="Adam's learning rate.")
    max_grad_norm: float | None = hyperparameter(None, above=0, help="Maximum gradient norm.")
    epsilon_end: float = hyperparameter(0.01, low=0, high=1, help="Final share of random actions.")
    epsilon_fraction: float = hyperparameter(0.005, above=0, high=1, help="Share of the run in which it falls.")
    quantiles: int = hyperparameter(200, low=1, high=2**16, help="Quantiles of the return of every action.")
    kappa: float = hyperparameter(1.0, above=0, help="Error κ from which the Huber loss is linear.")

    def actor_network(self) -> ActorNetwork:
        return dataclasses.replace(super().actor_network(), atoms=self.quantiles)

    def critic_loss(self, w: Weights, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Quantile regression of the action taken on the target's quantiles of the best one."""
        following = w.target("critic", batch["next_observation"], "atoms").movedim(-1, 0)
        by = w.fixed("critic", batch["next_observation"], "atoms").movedim(-1, 0) if self.double else following
        best = chosen(following, by.mean(0).argmax(-1))  # [quantiles, batch]
        target = bootstrapped(batch["reward"], batch["discount"], best)
        quantiles = chosen(w("critic", batch["observation"], "atoms").movedim(-1, 0), batch["action"])
        loss = (batch["weight"] * quantile_huber(quantiles.mT, target.mT, self.kappa)).mean()
        value = quantiles.mean(0).detach()
        return loss, {"critic_loss": loss.detach(), "q": value.mean(), "td_errors": value - target.mean(0)}

    def objective(self) -> str:
        by = "Q" if self.double else "Q⁻"
        huber = f"H_{self.kappa:g}(u_ij)" + ("" if self.kappa == 1 else f"/{self.kappa:g}")
        return (
            f"mean Σ_i mean_j |τ_i − 1[u_ij < 0]|·{huber},  u_ij = r + γ·θ_j⁻(s', argmax {by}(s', ·)) − θ_i(s, a)\n"
            f"Q(s, a) is the mean of {self.quantiles} quantiles θ_i, τ_i = (i − ½)/{self.quantiles}"
        )


METHOD = QRDQN

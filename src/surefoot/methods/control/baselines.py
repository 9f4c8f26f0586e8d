"""REINFORCE and A2C: the plain policy gradient, one pass over each batch and no trust region.

    maximise  mean[ log π · Ψ ]        Ψ = G, the return to go (REINFORCE);  Ψ = Â, standardised (A2C)

Use them to measure what a trust region gains. REINFORCE has no critic: its return is cut where the batch ends, without
bootstrapping, and each batch gives one gradient step. A2C adds a critic (GAE), an entropy bonus and eight minibatches.

Ronald J. Williams, *Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning* (1992);
Volodymyr Mnih et al., *Asynchronous Methods for Deep Reinforcement Learning* (2016), arXiv:1602.01783. Settings follow
Matthias Lehmann's guide (2024), arXiv:2401.13662, on this library's common network and batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.common.schedule import annealing
from surefoot.loops.on_policy.method import OnPolicy
from surefoot.objectives import PolicyObjective, ratios, stabilizers
from surefoot.objectives.advantages import gae, monte_carlo


@dataclass(frozen=True)
class PolicyGradient(OnPolicy):
    """The gradient E[∇log π · Ψ] of the current policy, followed once through each batch."""

    epochs: int = hyperparameter(1, low=1, help="Passes over each batch.")
    anneal: str = annealing("linear")

    def objective(self) -> PolicyObjective:
        return self.parts or PolicyObjective(
            advantage=gae(self.gamma, self.lam),
            ratio=ratios.current(),
            stabilizer=stabilizers.none(),
            standardize=self.standardize,
            entropy=self.entropy,
        )


@dataclass(frozen=True)
class REINFORCE(PolicyGradient):
    """Monte-Carlo policy gradient without a critic."""

    minibatch_size: int = hyperparameter(2048, low=1, help="Samples per gradient step; usually the whole batch.")
    standardize: bool = hyperparameter(False, help="Standardise returns within the batch.")
    value_coefficient: float = hyperparameter(0.0, low=0, help="Weight of the critic's loss; the critic is not used.")

    def objective(self) -> PolicyObjective:
        return self.parts or replace(super().objective(), advantage=monte_carlo(self.gamma))


@dataclass(frozen=True)
class A2C(PolicyGradient):
    """Advantage actor-critic."""

    minibatch_size: int = hyperparameter(256, low=1, help="Samples per gradient step; must divide the batch size.")
    entropy: float = hyperparameter(0.1, low=0, help="Weight of the entropy bonus.")

"""V-MPO, one of the guide's learners: policy improvement as weighted maximum likelihood on the better samples.

The half of each minibatch with the highest advantages is selected, D. With ψ = softmax(Â/η) over D, maximise

    Σ_D ψ·log π  −  α·mean KL(π_old ‖ π)

while descent on the duals, in the same Adam step, learns the temperature η and the multipliers α,

    η·ε_η + η·log mean_D exp(Â/η)    and    α·(ε_α − mean KL(π_old ‖ π)),

so that KL(ψ ‖ uniform) settles at ε_η and each KL at or below its ε_α. A Gaussian has two KLs, one for the change of
its mean and one for the change of its covariance, each with its own multiplier. Use it where the size of a policy step
should be stated as a KL, and where bad samples should not push the policy: their probability falls only because that of
the good samples rises.

Matthias Lehmann, *The Definitive Guide to Policy Gradients in Deep Reinforcement Learning: Theory, Algorithms and
Implementations* (2024), arXiv:2401.13662. V-MPO is by H. Francis Song et al. (2019), arXiv:1909.12238. The guide's
other learners are `reinforce`, `a2c`, `trpo` and `ppo`; as there, all share one harness, so that they can be compared.

Differences: the guide's released code measures the KL from the current policy itself, whose gradient is 0, and puts
scales where variances belong; here the KL is exact and from the policy that collected the data. Minibatches are
shuffled samples, not whole unrolls. Network and batch are this library's common ones (2 × 64 tanh, 8 × 256 steps),
which suit small tasks; the preset "mujoco-2024" has the guide's, which serve all its learners, save that its policy's
scale depends on the state and its weights start from LeCun's uniform distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.common.schedule import annealing
from surefoot.loops.on_policy.method import Batch, OnPolicy
from surefoot.models.distributions import Distribution, Gaussian
from surefoot.models.functional import Model
from surefoot.objectives import PolicyObjective, estep
from surefoot.objectives.advantages import gae, standardize
from surefoot.objectives.divergences import decoupled_gaussian_kl


@dataclass(frozen=True)
class VMPO(OnPolicy):
    """On-policy maximum a posteriori policy optimization."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mujoco-2024": {  # the harness of the guide's released code (Matt00n/PolicyGradientsJax)
            "num_steps": 2048,
            "minibatch_size": 2048,
            "hidden": (32, 32, 32, 32),
            "critic_hidden": (256, 256, 256, 256, 256),
            "activation": "swish",
            "squash": True,
        },
    }

    minibatch_size: int = hyperparameter(256, low=1, help="Samples per gradient step; must divide the batch size.")
    anneal: str = annealing("linear")
    standardize: bool = hyperparameter(False, help="Standardise advantages within the minibatch.")
    value_coefficient: float = hyperparameter(1.0, low=0, help="Weight of the critic's loss.")
    eta: float = hyperparameter(1.0, above=0, help="Initial temperature.")
    epsilon_eta: float = hyperparameter(0.01, above=0, help="Target KL between the sample weights and uniform weights.")
    alpha: float = hyperparameter(5.0, above=0, help="Initial weight of the KL of a discrete policy.")
    epsilon_alpha: float = hyperparameter(0.01, above=0, help="Bound on the KL of a discrete policy.")
    alpha_mean: float = hyperparameter(1.0, above=0, help="Initial weight of the KL due to a Gaussian's mean.")
    epsilon_mean: float = hyperparameter(0.01, above=0, help="Bound on the KL due to a Gaussian's mean.")
    alpha_covariance: float = hyperparameter(
        1.0, above=0, help="Initial weight of the KL due to a Gaussian's covariance."
    )
    epsilon_covariance: float = hyperparameter(5e-5, above=0, help="Bound on the KL due to a Gaussian's covariance.")

    def objective(self) -> PolicyObjective:
        return PolicyObjective(
            advantage=gae(self.gamma, self.lam),
            stabilizer=estep.weighted_likelihood(),
            standardize=self.standardize,
            entropy=self.entropy,
        )

    def multipliers(self, distribution: Distribution) -> dict[str, float]:
        if isinstance(distribution, Gaussian):
            return {"eta": self.eta, "alpha_mean": self.alpha_mean, "alpha_covariance": self.alpha_covariance}
        return {"eta": self.eta, "alpha": self.alpha}

    def constraints(self, distribution: Distribution, old: Tensor, new: Tensor) -> dict[str, tuple[Tensor, float]]:
        """The divergences of every state and their bounds, keyed by the name of the multiplier."""
        if not isinstance(distribution, Gaussian):
            return {"alpha": (distribution.kl(old, new), self.epsilon_alpha)}
        mean, covariance = decoupled_gaussian_kl(*distribution.split(old), *distribution.split(new))
        return {"alpha_mean": (mean, self.epsilon_mean), "alpha_covariance": (covariance, self.epsilon_covariance)}

    def loss(
        self, model: Model, vector: Tensor, batch: Batch, extra: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        objective, distribution = self.objective(), model.distribution
        valid, advantage = batch["valid"], batch["advantage"]
        params, value = model.evaluate(vector, batch)
        parts = model.unflatten(vector)
        learned = {name: parts[f"multipliers.{name}"] for name in self.multipliers(distribution)}
        if objective.standardize and self.standardize_over == "minibatch":
            advantage = standardize(advantage, valid)
        kept = estep.top_half(advantage, valid)
        weights = estep.weights(advantage, learned["eta"], kept) * valid.sum()  # which sum to 1; a mean is taken
        loss, metrics = self.policy_loss(model, params, {**batch, "advantage": weights}, extra, standardized=True)
        loss = loss + estep.temperature_loss(advantage, learned["eta"], kept, self.epsilon_eta)
        for name, (divergence, bound) in self.constraints(distribution, batch["old_params"], params).items():
            divergence = objective.aggregation(divergence, valid)
            loss = loss + estep.multiplier_loss(divergence, learned[name], bound)
            metrics[name.replace("alpha", "divergence")] = divergence.detach()
        value_loss = self.critic_loss(value, batch)
        metrics |= {"value_loss": value_loss.detach(), **{name: x.detach() for name, x in learned.items()}}
        return loss + self.value_coefficient * value_loss, metrics

    def steps(self) -> list[str]:
        return [
            "in each minibatch of N: Â ← N·ψ with ψ = softmax(Â/η) over the half with the highest Â, 0 elsewhere; add",
            "    η·ε_η + η·log mean exp(Â/η) over that half, and α·(ε_α − sg[KL]) + sg[α]·KL for each KL(π_old ‖ π)",
            *super().steps(),
        ]


METHOD = VMPO

"""GAE with two trust regions: TRPO's policy step, then a Gauss–Newton step of the critic with its own bound.

    Â[t] = Σ_l (γλ)^l δ[t+l]        δ = r + γV' − V
    minimise  mean[ ½(V − G)² ]  subject to  mean[ (V − V_old)² ] / 2σ² ≤ ε        σ² = mean[ (V_old − G)² ]

The constraint is the mean KL of TRPO for a critic that is the mean of a Gaussian of deviation σ, so both steps are the
same computation with another metric. The critic is fitted after the policy's step: fitted before, its residuals, of
which advantages are made, would shrink towards 0. Use it where a critic that overfits its last batch spoils them.

John Schulman et al., *High-Dimensional Continuous Control Using Generalized Advantage Estimation* (2015),
arXiv:1506.02438.

Differences: G is the discounted return where the episode ends within the batch, and bootstraps from the critic where
the batch or a time limit cuts it; one Gauss–Newton step per batch, with a damped matrix, which the line search
also keeps within the bound; the paper always goes to the bound, and does not state ε, so that 0.01 is ours; networks
and batch are this library's defaults for TRPO (presets `cart-pole-2015` and `quadruped-2015` have the paper's).

The hyperparameters of a critic fitted by minibatch steps do not exist here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.on_policy.method import Batch, in_turn
from surefoot.loops.on_policy.trust_region import backtrack, conjugate_gradient, gauss_newton_product, step_length
from surefoot.methods.control.trpo import TRPO
from surefoot.objectives import aggregation
from surefoot.objectives.advantages import Advantage, gae

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner


@dataclass(frozen=True)
class GAE(TRPO):
    """Generalized advantage estimation with trust regions for policy and critic."""

    without_effect: ClassVar[tuple[str, ...]] = (
        "learning_rate",
        "anneal",
        "warmup",
        "epochs",
        "minibatch_size",
        "max_grad_norm",
        "standardize_over",
        "value_coefficient",
        "value_clip",
    )

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cart-pole-2015": {  # §6.2 and §6.3, but 20,000 steps in place of 20 whole episodes; δ and ε are not stated
            "num_envs": 20,
            "num_steps": 1000,
            "hidden": (),
            "critic_hidden": (20,),
            "normalize_observations": False,
            "normalize_rewards": False,
        },
        "quadruped-2015": {  # §6.2 and §6.3; also of the task of standing up
            "num_envs": 100,
            "num_steps": 2000,
            "gamma": 0.995,
            "hidden": (100, 50, 25),
            "normalize_observations": False,
            "normalize_rewards": False,
        },
    }

    lam: float = hyperparameter(0.96, low=0, high=1, help="GAE's λ; 0 relies on the critic, 1 on the returns.")
    critic_radius: float = hyperparameter(0.01, above=0, help="Maximum mean squared change of V, in units of 2σ².")
    critic_damping: float = hyperparameter(
        0.1, low=0, help="Damping: multiple of the identity added to the critic's matrix."
    )

    def target(self) -> Advantage:
        return gae(self.gamma, 1.0)

    def fit_critic(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        metrics = in_turn(self.critic_step, learner, batch)
        return {**metrics, "explained_variance": learner.explained_variance(batch)}

    def critic_steps(self) -> list[str]:
        return [
            f"critic: solve (JᵀJ/N + {self.critic_damping:g})x = −∇mean[½(V − G)²] by at most {self.cg_iterations} "
            "iterations of conjugate gradient, J the Jacobian of V",
            f"    step x, shortened until mean[(V − V_old)²] ≤ 2·{self.critic_radius:g}·mean[(V_old − G)²] and "
            "mean[(V − G)²] has fallen",
        ]

    def critic_step(
        self, learner: Learner, vector: Tensor, adam: Adam, extra: dict[str, Tensor], batch: Batch, seed_index: int
    ) -> tuple[Tensor, Adam, dict[str, Tensor], dict[str, Tensor]]:
        """One seed's step. Values ignore the policy's weights: gradient, products and step are 0 there."""
        target, weight = batch["target"], aggregation.mean().weights(batch["valid"])

        def values(weights: Tensor) -> Tensor:
            return learner.model.evaluate(weights, batch)[1]

        def mean_square(x: Tensor) -> Tensor:
            return (weight * x**2).sum()

        def acceptable(weights: Tensor) -> bool:
            with torch.no_grad():
                new = values(weights)
            return bool(mean_square(new - old) <= 2 * radius) and bool(mean_square(new - target) < variance)

        start = vector.detach().requires_grad_()
        old = values(start)
        (slope,) = torch.autograd.grad(0.5 * mean_square(old - target), start)
        old = old.detach()
        variance = mean_square(old - target)
        radius = self.critic_radius * variance
        matrix = gauss_newton_product(values, vector, lambda tangent: weight * tangent, self.critic_damping)
        x, residual = conjugate_gradient(matrix, -slope, self.cg_iterations)
        step = step_length(x @ matrix(x), radius).clamp(max=1.0) * x  # a step that ends inside is not stretched
        vector, fraction = backtrack(vector, step, acceptable, self.backtrack_factor, self.backtrack_tries)
        with torch.no_grad():
            new = values(vector)
        metrics = {
            "value_loss": 0.5 * mean_square(new - target),
            "critic_kl": mean_square(new - old) / (2 * variance).clamp(min=torch.finfo(variance.dtype).tiny),
            "critic_step_fraction": torch.tensor(fraction),
            "critic_cg_residual": residual,
        }
        return vector, adam, extra, metrics


METHOD = GAE

"""TRPO: the largest step of the policy that a bound on the mean KL allows, along the natural gradient.

    maximise  mean[ ρÂ ]  subject to  mean[ KL(π_old ‖ π) ] ≤ δ        ρ = π/π_old

Each update solves F x = g by conjugate gradient (F the Fisher matrix, g the policy gradient), scales x to the bound's
edge and shortens the step until the true mean KL is within δ and the surrogate has risen; if it never does, the policy
stays. Reach for it where one bad update is dear; the update costs more than PPO's, the steps are safer.

John Schulman et al., *Trust Region Policy Optimization* (2015), arXiv:1502.05477.

Differences: GAE in place of Monte-Carlo returns, the λ-returns regressed by Adam for a critic of its own; the Fisher
products use all samples of the batch; Fisher matrix damped as in released code, so that the KL ends a little below δ;
conjugate gradient stops at a residual relative to the gradient's norm, so that the scale of the advantages does not
matter. Some released code keeps the last candidate of a failed search, or averages the KL over action dimensions; here
the old policy is kept, and the KL of a state is the sum over its action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.on_policy import Batch, OnPolicy, in_turn
from surefoot.loops.optimizer import Adam
from surefoot.loops.trust_region import (
    backtrack,
    conjugate_gradient,
    gauss_newton_product,
    hessian_product,
    step_length,
)
from surefoot.models.functional import Model
from surefoot.objectives import PolicyObjective, aggregation, stabilizers


@dataclass(frozen=True)
class TRPO(OnPolicy):
    """Trust region policy optimization. `learning_rate`, `epochs`, `minibatch_size` are those of the critic."""

    minibatch_size: int = hyperparameter(256, low=1, help="Samples of one step of the critic; must divide the batch.")
    max_grad_norm: float | None = hyperparameter(None, above=0, help="Longest gradient of a step of the critic.")
    max_kl: float = hyperparameter(0.01, above=0, help="Trust region: largest mean KL of an update.")
    cg_iterations: int = hyperparameter(10, low=1, help="Most iterations of conjugate gradient.")
    cg_damping: float = hyperparameter(0.1, low=0, help="Multiple of the identity added to the Fisher matrix.")
    backtrack_factor: float = hyperparameter(0.8, above=0, below=1, help="What a refused step is multiplied by.")
    backtrack_tries: int = hyperparameter(10, low=1, help="Steps tried before the policy is left as it was.")

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if self.shared:
            raise UsageError(
                f"{name}: shared=True is not allowed, it must be False: the trust region bounds the policy's move, "
                "and an encoder shared with the critic would move outside of it. Leave `shared` away."
            )
        if self.target_kl is not None:
            raise UsageError(
                f"{name}: target_kl={self.target_kl!r} is not allowed, it must be None: there are no epochs of the "
                "policy to end early. Bound the KL of an update with `max_kl`."
            )

    def objective(self) -> PolicyObjective:
        return PolicyObjective(
            advantage=self.advantage(),
            stabilizer=stabilizers.none(),
            standardize=self.standardize,
            entropy=self.entropy,
        )

    def update(self, learner: Any, batch: Batch) -> dict[str, Tensor]:
        """The policy's step, then the critic's: fitted first, it would shrink the residuals it is to judge by."""
        policy = in_turn(self.policy_step, learner, batch)
        return {**policy, **self.fit_critic(learner, batch)}

    def policy_step(
        self, learner: Any, vector: Tensor, adam: Adam, extra: dict[str, Tensor], batch: Batch, seed_index: int
    ) -> tuple[Tensor, Adam, dict[str, Tensor], dict[str, Tensor]]:
        """One seed's step. Objective and KL ignore the critic's weights: gradient, products and step are 0 there."""
        model, distribution = learner.model, learner.model.distribution
        old_params, objective = batch["old_params"], self.objective()

        def mean_kl(params: Tensor) -> Tensor:
            return aggregation.mean()(distribution.kl(old_params, params), batch["valid"])

        def policy(weights: Tensor) -> Tensor:
            return model.evaluate(weights, batch)[0]

        def look(weights: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            """A loss with the policy's gradient, the value of what is maximised, and what is logged."""
            params = policy(weights)
            log_prob, entropy = distribution.log_prob(params, batch["action"]), distribution.entropy(params)
            loss, metrics = objective.loss(
                log_prob, batch["old_log_prob"], batch["advantage"], valid=batch["valid"], entropy=entropy
            )
            logged = {name: metrics[name] for name in ("surrogate", "ratio_deviation", "entropy")}
            value = metrics["surrogate"] + self.entropy * metrics["entropy"]
            return loss, value, {**logged, "kl": mean_kl(params.detach())}

        def acceptable(weights: Tensor) -> bool:
            with torch.no_grad():
                _, value, metrics = look(weights)
            return bool(metrics["kl"] <= self.max_kl) and bool(value > before)

        start = vector.detach().requires_grad_()
        loss, before, _ = look(start)
        (descent,) = torch.autograd.grad(loss, start)
        fisher = gauss_newton_product(policy, vector, hessian_product(mean_kl, old_params), self.cg_damping)
        x, residual = conjugate_gradient(fisher, -descent, self.cg_iterations)
        curvature = x @ fisher(x)
        step = step_length(curvature, self.max_kl) * x
        vector, fraction = backtrack(vector, step, acceptable, self.backtrack_factor, self.backtrack_tries)
        with torch.no_grad():
            _, after, metrics = look(vector)
        metrics |= {
            "accepted": torch.tensor(float(fraction > 0)),
            "step_fraction": torch.tensor(fraction),
            "curvature": curvature,
            "cg_residual": residual,
            "predicted_improvement": -fraction * (descent @ step),
            "improvement": after - before,
        }
        return vector, adam, extra, metrics

    def fit_critic(self, learner: Any, batch: Batch) -> dict[str, Tensor]:
        """Epochs of Adam on the critic alone."""
        return super().update(learner, batch)

    def loss(
        self, model: Model, vector: Tensor, batch: Batch, extra: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The critic's: its gradient is 0 for the policy's weights, and so are Adam's steps."""
        error = self.value_loss()(model.evaluate(vector, batch)[1], batch["target"], batch["old_value"])
        value_loss = aggregation.mean()(error, batch["valid"])
        return self.value_coefficient * value_loss, {"value_loss": value_loss.detach()}


METHOD = TRPO

"""TRPO: the largest policy step along the natural gradient that a bound on the mean KL allows.

    maximise  mean[ ρÂ ]  subject to  mean[ KL(π_old ‖ π) ] ≤ δ        ρ = π/π_old

Each update solves F x = g by conjugate gradient (F the Fisher matrix, g the policy gradient), scales x to the bound's
edge and shortens the step until the true mean KL is within δ and the surrogate has risen; if it never does, the policy
is unchanged. Use it where one bad update is costly; updates cost more than PPO's but are safer.

John Schulman et al., *Trust Region Policy Optimization* (2015), arXiv:1502.05477.

Differences: GAE at λ = 0.95 in place of Monte-Carlo returns, which are λ = 1 (preset `swimmer-2015`), and a separate
critic fitted to the λ-returns by Adam; the Fisher products use all samples of the batch (`fisher_every` takes fewer);
Fisher matrix damped as in released code, so that the KL ends a little below δ; conjugate gradient stops at a residual
relative to the gradient's norm, so that the scale of the advantages does not matter. Some released code returns the
last candidate of a failed search, averages the KL over action dimensions, or accepts a KL of 1.5δ (the code of preset
`mujoco-1m`); here the old policy is kept, the KL of a state is the sum over its action dimensions, and δ is the bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from surefoot.hyperparameters import hyperparameter
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.on_policy.method import Batch, OnPolicy, in_turn, take
from surefoot.loops.on_policy.trust_region import (
    backtrack,
    conjugate_gradient,
    gauss_newton_product,
    hessian_product,
    step_length,
)
from surefoot.models.functional import Model
from surefoot.objectives import PolicyObjective, aggregation, stabilizers
from surefoot.objectives.advantages import gae

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner


@dataclass(frozen=True)
class TRPO(OnPolicy):
    """Trust region policy optimization. `learning_rate`, `epochs`, `minibatch_size` are those of the critic."""

    without_effect: ClassVar[tuple[str, ...]] = ("standardize_over",)  # the policy's step is on the whole batch

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "swimmer-2015": {  # Table 2 and appendix C.1: 50 paths of 1000 steps; the critic and its fit are this library's
            "num_envs": 50,
            "num_steps": 1000,
            "lam": 1.0,
            "hidden": (30,),
            "critic_hidden": (64, 64),
            "minibatch_size": 250,
            "fisher_every": 10,
            "normalize_observations": False,
            "normalize_rewards": False,
        },
        "mujoco-1m": {  # openai/baselines trpo_mpi, its run script for MuJoCo, and its page of 1M-step results
            "num_envs": 1,
            "num_steps": 1024,
            "lam": 0.98,
            "hidden": (32, 32),
            "learning_rate": 1e-3,
            "epochs": 5,
            "minibatch_size": 64,
            "fisher_every": 5,
            "backtrack_factor": 0.5,
        },
    }

    minibatch_size: int = hyperparameter(256, low=1, help="Samples per critic step; must divide the batch size.")
    max_grad_norm: float | None = hyperparameter(None, above=0, help="Maximum gradient norm of a critic step.")
    max_kl: float = hyperparameter(0.01, above=0, help="Trust region: maximum mean KL of an update.")
    cg_iterations: int = hyperparameter(10, low=1, help="Maximum number of conjugate-gradient iterations.")
    cg_damping: float = hyperparameter(0.1, low=0, help="Damping: multiple of the identity added to the Fisher matrix.")
    fisher_every: int = hyperparameter(1, low=1, help="Fisher products use every n-th sample of the batch; 1 for all.")
    backtrack_factor: float = hyperparameter(
        0.8, above=0, below=1, help="Factor by which a rejected step is shortened."
    )
    backtrack_tries: int = hyperparameter(10, low=1, help="Line-search steps before the policy is left unchanged.")
    shared: bool = hyperparameter(
        False, choices=(False,), help="Not supported: critic steps would move a shared encoder out of the trust region."
    )
    target_kl: float | None = hyperparameter(
        None, choices=(None,), help="Not supported: the policy has no epochs to stop early; max_kl bounds an update."
    )

    def objective(self) -> PolicyObjective:
        return self.parts or PolicyObjective(
            advantage=gae(self.gamma, self.lam),
            stabilizer=stabilizers.none(),
            standardize=self.standardize,
            entropy=self.entropy,
        )

    def update(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        """The policy's step, then the critic's: a critic fitted first would shrink the residuals in the advantages."""
        policy = in_turn(self.policy_step, learner, batch)
        return {**policy, **self.fit_critic(learner, batch)}

    def policy_step(
        self, learner: Learner, vector: Tensor, adam: Adam, extra: dict[str, Tensor], batch: Batch, seed_index: int
    ) -> tuple[Tensor, Adam, dict[str, Tensor], dict[str, Tensor]]:
        """One seed's step. Objective and KL ignore the critic's weights: gradient, products and step are 0 there."""
        step, slope, before, facts = self.natural_step(learner.model, vector, batch)

        def acceptable(weights: Tensor) -> bool:
            with torch.no_grad():
                _, value, metrics = self.improvement(learner.model, weights, batch)
            return bool(metrics["kl"] <= self.max_kl) and bool(value > before)

        vector, fraction = backtrack(vector, step, acceptable, self.backtrack_factor, self.backtrack_tries)
        with torch.no_grad():
            _, after, metrics = self.improvement(learner.model, vector, batch)
        metrics |= facts | {
            "accepted": torch.tensor(float(fraction > 0)),
            "step_fraction": torch.tensor(fraction),
            "predicted_improvement": fraction * slope,
            "improvement": after - before,
        }
        return vector, adam, extra, metrics

    def natural_step(
        self, model: Model, vector: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """The step to the edge of the trust region, its predicted improvement, the objective, and metrics."""
        start = vector.detach().requires_grad_()
        loss, before, _ = self.improvement(model, start, batch)
        (descent,) = torch.autograd.grad(loss, start)
        chosen = torch.arange(0, batch["valid"].shape[-1], self.fisher_every)
        few = batch if self.fisher_every == 1 else take(batch, chosen)
        metric = hessian_product(lambda params: self.mean_kl(model, params, few), few["old_params"])
        fisher = gauss_newton_product(lambda v: model.evaluate(v, few)[0], vector, metric, self.cg_damping)
        x, residual = conjugate_gradient(fisher, -descent, self.cg_iterations)
        curvature = x @ fisher(x)
        step = step_length(curvature, self.max_kl) * x
        return step, -descent @ step, before, {"curvature": curvature, "cg_residual": residual}

    def improvement(self, model: Model, vector: Tensor, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """A loss with the policy's gradient, the value of the objective, and metrics."""
        objective, params = self.objective(), model.evaluate(vector, batch)[0]
        loss, metrics = self.policy_loss(model, params, batch, {})
        value = metrics["surrogate"] + objective.entropy * metrics["entropy"]
        if objective.divergence:
            value = value - objective.divergence * metrics["divergence"]
        kept = {name: metrics[name] for name in ("surrogate", "ratio_deviation", "entropy")}
        return loss, value, {**kept, "kl": self.mean_kl(model, params.detach(), batch)}

    def mean_kl(self, model: Model, params: Tensor, batch: Batch) -> Tensor:
        """Mean over states of KL(π_old ‖ π), for π with these distribution parameters."""
        return aggregation.mean()(model.distribution.kl(batch["old_params"], params), batch["valid"])

    def steps(self) -> list[str]:
        objective = self.objective()
        standard = "standardise Â over the batch; " if objective.standardize else ""
        few = "" if self.fisher_every == 1 else f" of every {self.fisher_every}th sample"
        return [
            f"{standard}solve (F + {self.cg_damping:g})x = g by at most {self.cg_iterations} iterations of conjugate "
            f"gradient, F the Fisher matrix{few} and g the objective's gradient on the batch",
            f"step x·√(2·{self.max_kl:g} / xᵀFx), multiplied by {self.backtrack_factor:g} until mean KL(π_old ‖ π) ≤ "
            f"{self.max_kl:g} and the objective has risen; after {self.backtrack_tries} tries θ stays",
            *self.critic_steps(),
        ]

    def critic_steps(self) -> list[str]:
        """The critic's update in words."""
        return self.minibatch_steps(f"{self.value_coefficient:g}·mean {self.value_loss()} in the critic's weights")

    def fit_critic(self, learner: Learner, batch: Batch) -> dict[str, Tensor]:
        """Epochs of Adam on the critic alone."""
        return super().update(learner, batch)

    def loss(
        self, model: Model, vector: Tensor, batch: Batch, extra: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The critic's loss; its gradient is 0 for the policy's weights, and so are Adam's steps."""
        error = self.value_loss()(model.evaluate(vector, batch)[1], batch["target"], batch["old_value"])
        value_loss = aggregation.mean()(error, batch["valid"])
        return self.value_coefficient * value_loss, {"value_loss": value_loss.detach()}


METHOD = TRPO

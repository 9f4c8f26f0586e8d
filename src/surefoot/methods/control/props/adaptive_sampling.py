"""Adaptive sampling: act with a policy that compensates for the sampling error of the data so far.

A finite sample of a policy has sampling error: its action frequencies are not the policy's probabilities. So the next
data are collected by a behaviour policy that starts from the target policy and is pushed away from all actions in the
data: actions that occur too often lose probability, actions that occur too rarely gain it.

    minimise  mean_D[ max(q, clip(q, 1−ε, 1+ε)) ] + λ·mean_D KL(π ‖ π_φ)        q = π_φ/π,  φ from θ,  while k3 ≤ δ

This is PPO's clip with an advantage of −1 for every sample. ROS (arXiv:2111.14552) is one plain gradient step on all
data without clip and without λ, since ∇ mean q = mean ∇log π_φ at φ = θ. After PROPS (arXiv:2311.08290).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.hyperparameters import check, hyperparameter
from surefoot.loops.common.optimizer import Adam, clip_norm
from surefoot.loops.on_policy.method import Batch, take
from surefoot.models.functional import Model, over_seeds
from surefoot.objectives import PolicyObjective, aggregation, stabilizers
from surefoot.objectives.divergences import k3


class Behaviour(NamedTuple):
    """A behaviour policy, its distance from the target policy (k3 on its last minibatch) and its number of steps."""

    vector: Float[Tensor, "seeds size"]
    kl: Float[Tensor, "seeds"]
    steps: Float[Tensor, "seeds"]


@dataclass(frozen=True)
class AdaptiveSampling:
    """The procedure that fits a behaviour policy to a target policy and its data.

    A batch holds `action`, `valid`, and the target's `old_params` and `old_log_prob`, beside what the model reads.
    """

    learning_rate: float = hyperparameter(1e-3, low=0, help="Step size.")
    clip: float | None = hyperparameter(
        0.3, above=0, below=1, help="Clip range: no gradient below the ratio 1 − clip; no clipping if None."
    )
    max_kl: float = hyperparameter(
        0.01, low=0, help="Maximum KL (k3); a step that exceeds it is undone and is the last one."
    )
    regularizer: float = hyperparameter(0.1, low=0, help="Weight of KL(π ‖ π_φ).")
    max_grad_norm: float | None = hyperparameter(0.5, above=0, help="Maximum gradient norm.")
    optimizer: str = hyperparameter("adam", choices=("adam", "sgd"), help="Adam with fresh moments, or plain SGD.")

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def ros(cls, learning_rate: float) -> Self:
        """Robust on-policy sampling (ROS); pass all data as one minibatch."""
        return cls(learning_rate, None, torch.inf, regularizer=0.0, max_grad_norm=None, optimizer="sgd")

    def objective(self) -> PolicyObjective:
        """The clipped objective as a `PolicyObjective`; pass an advantage of −1 for every sample."""
        stabilizer = stabilizers.none() if self.clip is None else stabilizers.clip(self.clip)
        return PolicyObjective(stabilizer=stabilizer, divergence=self.regularizer)

    def loss(self, model: Model, vector: Float[Tensor, "size"], batch: Batch) -> Float[Tensor, ""]:
        """A loss with the gradient of the objective, for one seed."""
        params, log_prob = _policy(model, vector, batch)
        divergence = model.distribution.kl(batch["old_params"], params) if self.regularizer else None
        push = torch.full_like(batch["old_log_prob"], -1.0)
        loss, _ = self.objective().loss(
            log_prob, batch["old_log_prob"], push, valid=batch["valid"], divergence=divergence
        )
        return loss

    def step(self, model: Model) -> Callable[..., tuple[Tensor, Adam, Tensor, Tensor]]:
        """One step of one seed on the samples `index` of its batch, a pure function
        `(vector, adam, active, kl, index, batch) -> (vector, adam, active, kl)`.

        A seed that is not active, or whose step exceeds `max_kl`, stays where it is and becomes inactive.
        """
        gradient_of = torch.func.grad(lambda vector, batch: self.loss(model, vector, batch))

        def step(
            vector: Tensor, adam: Adam, active: Tensor, kl: Tensor, index: Tensor, batch: Batch
        ) -> tuple[Tensor, Adam, Tensor, Tensor]:
            batch = take(batch, index)
            gradient, _ = clip_norm(gradient_of(vector, batch), self.max_grad_norm)
            if self.optimizer == "adam":
                moved, adam = adam.step(vector, gradient, self.learning_rate, epsilon=1e-5)
            else:
                moved = vector - self.learning_rate * gradient
            _, log_prob = _policy(model, moved, batch)
            reached = aggregation.mean()(k3(log_prob - batch["old_log_prob"]), batch["valid"])
            active = active & (reached <= self.max_kl)
            return torch.where(active, moved, vector), adam, active, torch.where(active, reached, kl)

        return step

    def __call__(
        self, model: Model, target: Float[Tensor, "seeds size"], batch: Batch, minibatches: Iterable[Tensor]
    ) -> Behaviour:
        """The behaviour policies of target policies and their data `[seeds, samples, ...]`, after at most one step for
        each of the minibatches, given as the samples' indices `[seeds, minibatch]`."""
        seeds = len(target)
        step = over_seeds(self.step(model), seeds)
        vector, adam, active = target, Adam.start(target), torch.ones(seeds, dtype=torch.bool)
        kl = steps = torch.zeros(seeds)
        with torch.no_grad():
            for index in minibatches:
                vector, adam, active, kl = step(vector, adam, active, kl, index, batch)
                steps = steps + active
                if not active.any():
                    break
        return Behaviour(vector, kl, steps)


def _policy(model: Model, vector: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Distribution parameters, and log-probabilities of the batch's actions."""
    params, _ = model.evaluate(vector, batch)
    return params, model.distribution.log_prob(params, batch["action"])


# --- distance of a sample from its policy ----------------------------------------------------------------------------


def tabular_sampling_error(
    counts: Float[Tensor, "... states actions"], log_prob: Float[Tensor, "... states actions"]
) -> Float[Tensor, "..."]:
    """KL(π_D ‖ π) of the empirical policy, its states weighted by their visits; `log_prob` is log π.

    Independent samples of π have about `states · (actions − 1) / (2 · total)`.
    """
    visits = counts.sum(-1, keepdim=True)
    frequency = counts / visits.clamp(min=1)
    kl = torch.where(counts > 0, frequency * (frequency.log() - log_prob), 0.0).sum(-1, keepdim=True)
    return (kl * visits).sum((-2, -1)) / visits.sum((-2, -1)).clamp(min=1)


def sampling_error(
    model: Any, vector: Float[Tensor, "seeds size"], batch: Batch, steps: int = 2000, learning_rate: float = 1e-3
) -> Float[Tensor, "seeds"]:
    """mean_D[ log π_D − log π ] ≈ KL(π_D ‖ π), with π_D fitted to the batch `[seeds, samples, ...]` by likelihood.

    The fit starts from π and moves the last layer alone (and a Gaussian's deviation), by Adam on the whole batch with a
    step size that decays linearly to 0. The batch is that of `AdaptiveSampling`. An error that no last layer can
    express goes unnoticed, so compare only errors of the same network.
    """
    last = model.mask(lambda name: name.startswith(("actor.output.", "actor.log_std"))).to(vector.dtype)

    def error(vector: Tensor, batch: Batch) -> Tensor:
        _, log_prob = _policy(model, vector, batch)
        return aggregation.mean()(log_prob - batch["old_log_prob"], batch["valid"])

    gradient_of = torch.func.grad(error)

    def step(vector: Tensor, adam: Adam, batch: Batch, lr: Tensor) -> tuple[Tensor, Adam]:
        return adam.step(vector, -gradient_of(vector, batch) * last, lr)

    each, adam = over_seeds(step, len(vector), shared=1), Adam.start(vector)
    with torch.no_grad():
        for done in range(steps):
            vector, adam = each(vector, adam, batch, torch.tensor(learning_rate * (1 - done / steps)))
        return over_seeds(error, len(vector))(vector, batch)

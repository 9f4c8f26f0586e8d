"""Polyak policy gradient: REINFORCE without a learning rate; the gap to the optimal value sets the step size.

    θ ← θ + γ ∇F      γ = min{ (V* − F)₊ / (c‖∇F‖²), γ_b }      F = E[ Σ_t γ^t r_t ] + τ·mean H[π]

The update does not depend on the scale of rewards and τ (while the cap does not bind). V* is estimated by a twin: two
policies act in turn, the value of the better one serves as V*, and only the worse one moves, until it is the better.
The entropy term keeps the gradient from vanishing, and so the step from exploding, as the policy becomes deterministic.
There is no critic. Use it on small tasks whose reward scale is unknown; one gradient step per batch makes it slow on
large ones.

Yunxiang Li et al., *Enhancing Policy Gradient with the Polyak Step-Size Adaption* (2024), arXiv:2404.07525.

Differences: no code was released and the bookkeeping of the twins is our reading. Each of the two policies acts for
half of the steps in the same environments. A trajectory is what lies between two ends of episodes or changes of policy:
the horizon is half of `num_steps`, and a trajectory may begin where the other policy left the environment. The baseline
of a time step is the mean return to go of the trajectories still running: the sum of mean rewards, the same where all
are equally long, would otherwise cancel the reward for staying alive. A zero gradient gives a zero step instead of a
small constant in the denominator, which would break the invariance to scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.on_policy.method import Batch, OnPolicy
from surefoot.methods.control.polyak_pg.polyak import Point, step, twin_step
from surefoot.models.functional import Model, initial, over_seeds
from surefoot.objectives import PolicyObjective, ratios, stabilizers
from surefoot.objectives.advantages import Advantage
from surefoot.objectives.gpomdp import gpomdp, trajectory_returns
from surefoot.seeding import torch_stream

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner


@dataclass(frozen=True)
class PolyakPG(OnPolicy):
    """Policy gradient with the Polyak step: one step per iteration, on the whole batch, without a critic."""

    without_effect: ClassVar[tuple[str, ...]] = (
        "learning_rate",
        "anneal",
        "warmup",
        "epochs",
        "minibatch_size",
        "standardize_over",
        "lam",
        "value_coefficient",
        "value_clip",
        "target_kl",
    )

    c: float = hyperparameter(1.0, above=0, help="Divisor c of the step: 1 to 5 for twin and known, 5 to 20 for best.")
    cap: float = hyperparameter(1.0, above=0, help="Maximum step size γ_b, in units of 1/reward.")
    vstar: str = hyperparameter(
        "twin",
        choices=("twin", "best", "known"),
        help="Estimate of V*: a second policy's value, the best return so far, or a number.",
    )
    optimum: float | None = hyperparameter(None, help="V* for vstar='known': the optimal value, or a target value.")
    num_envs: int = hyperparameter(16, low=1, help="Number of parallel environments.")
    entropy: float = hyperparameter(0.01, low=0, help="Weight τ of the mean entropy in the objective F.")
    standardize: bool = hyperparameter(False, choices=(False,), help="Not supported: the step size depends on ‖∇F‖².")
    max_grad_norm: float | None = hyperparameter(
        None, choices=(None,), help="Not supported: the step size depends on ‖∇F‖²."
    )
    normalize_rewards: bool = hyperparameter(
        False,
        choices=(False,),
        help="Not supported: values must stay comparable; the step is invariant to their scale.",
    )
    normalize_observations: bool = hyperparameter(
        False, help="Normalise observations by their running mean and standard deviation."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vstar == "twin" and self.num_steps % 2:
            raise UsageError(
                f"PolyakPG: num_steps={self.num_steps} is not allowed with vstar='twin'; it must be even, because each "
                f"of the two policies acts for half of it. Use {self.num_steps + 1}."
            )
        if (self.vstar == "known") != (self.optimum is not None):
            raise UsageError(
                f"PolyakPG: optimum={self.optimum!r} is not allowed with vstar={self.vstar!r}; it must be a number for "
                "'known' and None otherwise. Give the optimal discounted value, or use vstar='twin', which needs none."
            )

    def target(self) -> Advantage:
        return self.objective().advantage

    def objective(self) -> PolicyObjective:
        return PolicyObjective(
            advantage=gpomdp(self.gamma), ratio=ratios.current(), stabilizer=stabilizers.none(), entropy=self.entropy
        )

    def loss(
        self, model: Model, vector: Tensor, batch: Batch, extra: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A loss with gradient −∇F; it has no critic term, and the gradient is 0 for the critic's weights."""
        return self.policy_loss(model, model.evaluate(vector, batch)[0], batch, extra)

    def extra_state(self, model: Model) -> dict[str, Tensor]:
        states = {"twin": {"twin": torch.zeros(model.size)}, "best": {"best": torch.tensor(-torch.inf)}}
        return states.get(self.vstar, {})

    def look(self, learner: Learner, vectors: Tensor, num_steps: int) -> tuple[Point, dict[str, Tensor]]:
        """Act with the weights `[seeds, size]`: F and ∇F of them from one batch, and the trajectories' returns."""
        rollout = learner.collect(vectors, num_steps)
        batch = learner.estimate(rollout)
        signals = {name: getattr(rollout, name) for name in ("terminated", "truncated", "valid")}
        value, highest = trajectory_returns(rollout.reward, self.gamma, **signals)

        def descent(vector: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            return self.loss(learner.model, vector, batch, {})

        gradient, metrics = over_seeds(torch.func.grad(descent, has_aux=True), learner.num_seeds)(vectors, batch)
        objective = value + self.entropy * metrics["entropy"]
        about = {"value": value, "best_return": highest, "entropy": metrics["entropy"], "objective": objective}
        return Point(vectors, objective, -gradient), about

    def iterate(self, learner: Learner) -> dict[str, Tensor]:
        """One step of the policy, or of the worse of two. The learner holds the better one, and it acts last, so that
        an iteration's `return` is its own; the steps of both count."""
        if self.vstar == "twin":
            return self.iterate_twins(learner)
        here, about = self.look(learner, learner.vector, self.num_steps)
        if self.vstar == "best":
            learner.extra["best"] = torch.maximum(learner.extra["best"], about["best_return"])
        gap = learner.extra["best"] - here.value if self.optimum is None else self.optimum - here.value
        learner.vector, size = step(here.weights, here.gradient, gap, self.c, self.cap)
        return {**about, "gap": gap, "step_size": size, "grad_norm": here.gradient.norm(dim=-1)}

    def iterate_twins(self, learner: Learner) -> dict[str, Tensor]:
        """Both policies act; the worse one moves toward the value of the better one."""
        if learner.iteration == 0:
            starts = torch.stack([self.second_start(learner, seed) for seed in learner.seeds])
            learner.extra["twin"] = starts.to(learner.device)
        second, _ = self.look(learner, learner.extra["twin"], self.num_steps // 2)
        first, about = self.look(learner, learner.vector, self.num_steps // 2)
        moved = twin_step(first, second, self.c, self.cap)
        learner.vector, learner.extra["twin"] = moved.better, moved.worse
        norm = torch.where(moved.swapped, first.gradient.norm(dim=-1), second.gradient.norm(dim=-1))
        outcome = {"gap": moved.gap, "step_size": moved.size, "grad_norm": norm, "swapped": moved.swapped.float()}
        return {**about, **outcome}

    def second_start(self, learner: Learner, seed: int) -> Tensor:
        """The first weights of a seed's second policy."""
        spaces = learner.observation_space, learner.action_space
        return initial(lambda: learner.network.make(*spaces), torch_stream(seed, "weights of the twin"))

    def steps(self) -> list[str]:
        step = f"θ ← θ + γ∇F,  γ = min((V* − F)₊ / ({self.c:g}·‖∇F‖²), {self.cap:g}),  F = V + {self.entropy:g}·mean H"
        twins = [
            f"first a second policy acts for {self.num_steps // 2} of the steps, then the first one for the rest",
            "V* = F of the better of the two; the worse one moves and becomes the second:",
        ]
        other = {"best": "V* = the best return of a trajectory so far", "known": f"V* = {self.optimum}"}
        return [*(twins if self.vstar == "twin" else [other[self.vstar]]), step]


METHOD = PolyakPG

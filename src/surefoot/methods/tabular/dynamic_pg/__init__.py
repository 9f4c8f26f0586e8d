"""Dynamic policy gradient: a finite-horizon policy trained backwards, with the policies of later epochs fixed.

    for h = H−1, …, 0:   maximise  J_h(θ_h) = E_{s∼μ_h, a∼π_h}[ r_h(s, a) + V_{h+1}(s′) ]    θ_{h+1}, …, θ_{H−1} frozen

The best action depends on the remaining time, so each epoch has its own softmax table. When all are trained at once, an
early epoch learns against later policies that are still bad, and can stay suboptimal long after they have become good;
trained backwards, each epoch is a contextual bandit with fixed rewards. Use it in problems with a deadline where an
episode can be started at any epoch (states of epoch h are drawn from μ_h) and where late epochs begin with a bad
policy; from a uniform start training all at once did better in this library's claim.

Sara Klein, Simon Weissmann and Leif Döring, *Beyond Stationarity: Convergence Analysis of Stochastic Softmax Policy
Gradient Methods* (2023), arXiv:2310.02671.

`SimultaneousPG` is the baseline: all epochs at once, along whole episodes.

Differences: a discount is allowed. States in which the episode is over are left out of the uniform μ_h, if there are
others. After the updates of all epochs, training continues at epoch 0. `baseline` subtracts from sampled returns the
running mean of earlier ones from the same epoch and state, which leaves gradients unbiased; it is off by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.policies import uniform_policy
from surefoot.envs.tabular.simulate import Transitions, rollouts
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.loops.tabular.gradient import (
    Evaluation,
    evaluate,
    occupancy,
    returns_to_go,
    score_gradient,
    softmax,
    softmax_gradient,
)
from surefoot.loops.tabular.method import Metrics, State, Tabular
from surefoot.methods.tabular.dynamic_pg.baseline import Gains, tracked
from surefoot.seeding import torch_stream


@dataclass(frozen=True)
class SimultaneousPG(Tabular):
    """Softmax policy gradient on the tables of all epochs at once; the theory's step size is 1/(5H²R*)."""

    needs: ClassVar[tuple[str, ...]] = ("horizon", "rewards of at least 0")
    default_env: ClassVar[str | None] = "optimal-stopping"
    default_steps: ClassVar[int] = 1000

    scale: float = hyperparameter(1.0, above=0, help="Step size as a multiple of the theory's; 10 and more are usual.")
    batch: int | None = hyperparameter(None, low=1, help="Episodes per update; exact gradients if None.")
    baseline: bool = hyperparameter(False, help="Whether a running mean b_h(s) is subtracted from sampled returns.")

    def start(self, mdp: TabularMDP, seed: int) -> State:
        assert mdp.horizon is not None
        theta = torch.zeros(mdp.horizon, mdp.states, mdp.actions, dtype=torch.float64)
        expected = {"mean": torch.zeros_like(theta[..., 0]), "seen": torch.zeros_like(theta[..., 0])}
        return {"theta": theta, "env_steps": torch.zeros((), dtype=torch.int64), **expected}

    def step(self, mdp: TabularMDP, state: State, seed: int, iteration: int) -> tuple[State, Metrics]:
        """One update of the epochs in training. The metrics are those of the policy before it."""
        h, policy = self.epoch(mdp, iteration), self.policy(mdp, state)
        found = evaluate(mdp, policy)
        mean, seen, played = state["mean"], state["seen"], 0
        if self.batch is None:
            gradient = self.exact(mdp, policy, found, h)
        else:
            stream = torch_stream(seed, "episodes", iteration)
            gradient, played, gains = self.sampled(mdp, policy, h, self.batch, stream, mean)
            mean, seen = tracked(mean, seen, *gains) if self.baseline else (mean, seen)
        theta = state["theta"] + self.step_size(mdp, h) * gradient
        metrics = {"return_mean": mdp.initial @ found.value[0], "epoch": h, "env_steps": state["env_steps"]}
        return {"theta": theta, "env_steps": state["env_steps"] + played, "mean": mean, "seen": seen}, metrics

    def epoch(self, mdp: TabularMDP, iteration: int) -> int:
        """The first epoch in training."""
        return 0

    def step_size(self, mdp: TabularMDP, h: int) -> float:
        assert mdp.horizon is not None
        return self.scale / (5 * mdp.horizon**2 * _greatest(mdp))

    def exact(self, mdp: TabularMDP, policy: Tensor, found: Evaluation, h: int) -> Tensor:
        """The gradient `[H, S, A]`."""
        return softmax_gradient(found.occupancy, policy, found.q)

    def sampled(
        self, mdp: TabularMDP, policy: Tensor, h: int, batch: int, stream: torch.Generator, mean: Tensor | float = 0.0
    ) -> tuple[Tensor, int, Gains]:
        """An unbiased estimate of the gradient, with returns less their `mean [H, S]`; the environment steps that it
        took; epochs, states and returns to go."""
        met = rollouts(mdp, policy, batch, generator=stream)
        gains, time = returns_to_go(met.rewards, mdp.gamma), torch.arange(met.rewards.shape[1])
        less = mean[time, met.states] if isinstance(mean, Tensor) else mean
        gradient = score_gradient(policy, met, mdp.gamma**time * (gains - less))
        return gradient, met.rewards.numel(), (time.expand_as(met.states), met.states, gains)

    def policy(self, mdp: TabularMDP, state: State) -> Tensor:
        return softmax(state["theta"], mdp.legal)

    def objective(self) -> str:
        return "maximise  E[ Σ_h r_h ]  over the softmax tables θ_0, …, θ_{H−1} of all epochs"

    def steps(self) -> list[str]:
        seen = "exactly, through visits and Q" if self.batch is None else f"from {self.batch} whole episodes"
        return [f"the gradient of the return in every θ_h, {seen}", f"θ ← θ + {self.scale:g}/(5H²R*)·gradient"]


@dataclass(frozen=True)
class DynamicPG(SimultaneousPG):
    """Softmax policy gradient backwards in time; the theory's step size is 1/(2(H−h)R*)."""

    updates: tuple[int, ...] = hyperparameter(
        (100,), low=1, help="N_h: updates of each epoch, one number for all or one for each of the epochs 0 … H−1."
    )
    sampling: str = hyperparameter(
        "uniform",
        choices=("uniform", "visited"),
        help="μ_h: uniform over states, or the visits of a uniform policy, which needs no simulator.",
    )

    def admit(self, mdp: TabularMDP) -> None:
        super().admit(mdp)
        if len(self.updates) not in (1, mdp.horizon):
            raise UsageError(
                f"DynamicPG: updates={self.updates!r} has {len(self.updates)} numbers; {mdp.name!r} has {mdp.horizon} "
                "epochs. Give one number for all or one for each."
            )

    def epoch(self, mdp: TabularMDP, iteration: int) -> int:
        """The epoch in training: H−1 first, each for its number of updates, then 0 until the end."""
        assert mdp.horizon is not None
        counts = self.updates * mdp.horizon if len(self.updates) == 1 else self.updates
        done = sum(end <= iteration for end in accumulate(reversed(counts)))
        return max(mdp.horizon - 1 - done, 0)

    def step_size(self, mdp: TabularMDP, h: int) -> float:
        assert mdp.horizon is not None
        return self.scale / (2 * (mdp.horizon - h) * _greatest(mdp))

    def states(self, mdp: TabularMDP, h: int) -> Tensor:
        """μ_h `[S]`."""
        if self.sampling == "uniform":
            going = ~mdp.ended
            weight = (going | ~going.any()).double()
        else:
            weight = occupancy(mdp, uniform_policy(mdp))[h]
        return weight / weight.sum()

    def exact(self, mdp: TabularMDP, policy: Tensor, found: Evaluation, h: int) -> Tensor:
        gradient = torch.zeros_like(policy)
        gradient[h] = softmax_gradient(self.states(mdp, h), policy[h], found.q[h])
        return gradient

    def sampled(
        self, mdp: TabularMDP, policy: Tensor, h: int, batch: int, stream: torch.Generator, mean: Tensor | float = 0.0
    ) -> tuple[Tensor, int, Gains]:
        """States of epoch h, an action in each, and the frozen policies to the end; states that must be reached first
        cost the steps before h as well."""
        start = torch.multinomial(self.states(mdp, h), batch, replacement=True, generator=stream)
        met = rollouts(mdp, policy, batch, generator=stream, start=start, first_step=h)
        first, gains = Transitions(*(x[:, :1] for x in met)), returns_to_go(met.rewards, mdp.gamma)[:, :1]
        prefix = batch * h if self.sampling == "visited" else 0
        less = mean[h, first.states] if isinstance(mean, Tensor) else mean
        gradient = score_gradient(policy, first, gains - less, first_step=h)
        return gradient, met.rewards.numel() + prefix, (torch.full_like(first.states, h), first.states, gains)

    def objective(self) -> str:
        return "for h = H−1, …, 0:  maximise  E_{s∼μ_h, a∼π_h}[ r_h + V_{h+1}(s′) ]  over θ_h, later epochs frozen"

    def steps(self) -> list[str]:
        counts = (
            f"{self.updates[0]} updates each" if len(self.updates) == 1 else f"{self.updates} updates (h = 0 first)"
        )
        seen = (
            "exactly, from Q"
            if self.batch is None
            else f"from {self.batch} draws of s and a and the rest of the episode"
        )
        return [
            f"epoch h: H−1 first, then backwards, {counts}; μ_h {self.sampling}",
            f"the gradient of J_h in θ_h, {seen}",
            f"θ_h ← θ_h + {self.scale:g}/(2(H−h)R*)·gradient",
        ]


def _greatest(mdp: TabularMDP) -> float:
    """R*, the greatest reward; 1 if all are 0."""
    return float(mdp.reward.max()) or 1.0


METHOD = DynamicPG

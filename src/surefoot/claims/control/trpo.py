"""The claim of TRPO on CartPole: steps of bounded KL do not wreck the policy, steps of another kind do now and then.

All arms have TRPO's batches, advantages and critic and differ in the step of the policy alone. Every iterate of every
seed plays the same 20 episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.claim import Claim, Estimate, Measurements, Verdict, difference, estimate, metric_of, train_rows
from surefoot.evaluate.rollout import returns
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.on_policy.method import Batch
from surefoot.methods.control.trpo import TRPO
from surefoot.models.functional import Model
from surefoot.seeding import derive, torch_stream

if TYPE_CHECKING:
    from surefoot.loops.on_policy.learner import Learner

ENV, STEPS, EPISODES = "CartPole-v1", 60_000, 20
DROP, MOST_DROPS, GOAL, WIDER, OFTENER = 0.9, 0.10, 450.0, 5.0, 1.5
ONE_STEP_RATES = (0.001, 0.01, 0.1)


@dataclass(frozen=True)
class Unbounded(TRPO):
    """The same step to the edge of a region, taken without looking at where it ends."""

    def policy_step(
        self, learner: Learner, vector: Tensor, adam: Adam, extra: dict[str, Tensor], batch: Batch, seed_index: int
    ) -> tuple[Tensor, Adam, dict[str, Tensor], dict[str, Tensor]]:
        vector = vector + self.natural_step(learner.model, vector, batch)[0]
        return vector, adam, extra, self.seen(learner.model, vector, batch)

    def seen(self, model: Model, vector: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The metrics of the policy after its step, the exact KL among them."""
        with torch.no_grad():
            return self.improvement(model, vector, batch)[2]


@dataclass(frozen=True)
class FirstOrder(Unbounded):
    """Adam on the plain surrogate, with an optimiser of the policy's own."""

    policy_lr: float = 3e-4
    policy_epochs: int = 1
    policy_minibatch: int = 2048

    def extra_state(self, model: Model) -> dict[str, Tensor]:
        return Adam.start(torch.zeros(model.size))._asdict()

    def policy_step(
        self, learner: Learner, vector: Tensor, adam: Adam, extra: dict[str, Tensor], batch: Batch, seed_index: int
    ) -> tuple[Tensor, Adam, dict[str, Tensor], dict[str, Tensor]]:
        own = Adam(**extra)
        stream = torch_stream(learner.seeds[seed_index], "policy minibatches", learner.iteration)
        for _ in range(self.policy_epochs):
            for rows in torch.randperm(len(batch["valid"]), generator=stream).split(self.policy_minibatch):
                weights = vector.detach().requires_grad_()
                part = {name: x[rows] for name, x in batch.items()}
                (gradient,) = torch.autograd.grad(self.improvement(learner.model, weights, part)[0], weights)
                vector, own = own.step(vector, gradient, self.policy_lr)
        return vector, adam, own._asdict(), self.seen(learner.model, vector, batch)


ARMS: dict[str, TRPO] = {
    "trpo": TRPO(),
    **{f"one step {lr:g}": FirstOrder(policy_lr=lr) for lr in ONE_STEP_RATES},
    "unclipped": FirstOrder(policy_epochs=10, policy_minibatch=64),
    "no search": Unbounded(max_kl=0.5),
}


def look(learner: Learner, rows: list[dict[str, Any]]) -> None:
    """Add what each seed's policy returns on its 20 episodes."""
    for index, (seed, row) in enumerate(zip(learner.seeds, rows, strict=True)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "evaluation"))
            scores = returns(learner.agent(index), ENV, EPISODES, seed, slots=EPISODES, deterministic=False)
        row["evaluated"] = float(scores.mean())


def measure(seeds: Sequence[int]) -> Measurements:
    found: Measurements = {}
    for name, method in ARMS.items():
        history = train_rows(method, ENV, STEPS, seeds, look)
        found[name] = {key: metric_of(history, key).tolist() for key in ("evaluated", "kl")}
    return found


def drops(curves: Sequence[Sequence[float]]) -> np.ndarray:
    """Share of updates after which a policy returns less than 90 % of its best so far, one number a seed."""
    scores = np.array(curves)
    best = np.maximum.accumulate(scores, 1)
    return (scores[:, 1:] < DROP * best[:, :-1]).mean(1)


def judge(found: Measurements) -> tuple[Verdict, dict[str, Estimate]]:
    end = {name: np.array(arm["evaluated"])[:, -1] for name, arm in found.items()}
    one_step = max((f"one step {lr:g}" for lr in ONE_STEP_RATES), key=lambda name: end[name].mean())
    arms = {"trpo": "trpo", "one Adam step": one_step, "unclipped": "unclipped", "no search": "no search"}
    share = {name: drops(found[arm]["evaluated"]) for name, arm in arms.items()}
    widest = {name: np.array(found[arm]["kl"]).max(1) for name, arm in arms.items()}
    estimates = {
        **{f"share of drops, {name}": estimate(x.tolist()) for name, x in share.items()},
        **{f"largest KL, {name}": estimate(x.tolist()) for name, x in widest.items()},
        **{f"final return, {name}": estimate(end[arm].tolist()) for name, arm in arms.items()},
        **{
            f"share of drops, {name} less trpo": difference(share[name].tolist(), share["trpo"].tolist())
            for name in ("one Adam step", "unclipped", "no search")
        },
    }
    mean, others = {name: x.mean() for name, x in share.items()}, [name for name in arms if name != "trpo"]
    held = bool((widest["trpo"] <= ARMS["trpo"].max_kl).all())
    if not held or any(mean[name] <= mean["trpo"] for name in ("one Adam step", "unclipped")):
        return "refuted", estimates
    safe = mean["trpo"] <= MOST_DROPS and end["trpo"].mean() >= GOAL
    wild = all(
        widest[name].mean() >= WIDER * widest["trpo"].mean() and mean[name] >= OFTENER * mean["trpo"] for name in others
    )
    return "shown" if safe and wild else "not shown", estimates


CLAIM = Claim(
    slug="trpo",
    sentence="With a bound on the mean KL of each update, checked by a line search, the policy improves nearly "
    "monotonically where first-order and unchecked steps lose much of their return now and then.",
    baseline="the same critic and advantages with one Adam step a batch (of step sizes 0.001, 0.01, 0.1 the one with "
    "the best final return); 10 epochs of Adam on the surrogate, not clipped; the natural step, δ = 0.5, no search",
    metric="Share of updates after which the mean return of 20 episodes is below 90 % of its maximum so far, largest "
    "exact mean KL of an update, return after the last of 60,000 steps; CartPole-v1",
    supported_by="no update of TRPO above δ = 0.01, drops after at most 10 % of its updates, final return of at least "
    "450, and for each other arm a largest KL at least 5 times and a share of drops at least 1.5 times TRPO's",
    refuted_by="an update of TRPO above δ, or a mean share of drops not below both that of one Adam step and that of "
    "the unclipped surrogate",
    measure=measure,
    judge=judge,
)

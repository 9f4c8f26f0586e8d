"""Feasibility restoration: bring a policy that has left its trust region back into it, by descent on the KL alone.

    until  max_s KL(π_old ‖ π) ≤ radius  on the whole batch:
        for each minibatch that violates:  step on β·mean_s KL(π_old ‖ π)

The test is made on the whole batch after each sweep, since a step for one minibatch may undo another. If the limit of
sweeps is reached, the policy moves back along the straight line to the old policy, where the KL is 0, only as far as
needed. So the returned policy is always inside. After FixPO (arXiv:2312.05405), which has no such fallback.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from surefoot.hyperparameters import check, hyperparameter
from surefoot.loops.common.collect import map_observation
from surefoot.loops.common.optimizer import Adam, clip_norm
from surefoot.loops.on_policy.method import Batch
from surefoot.models.functional import Model
from surefoot.objectives import aggregation

BISECTIONS = 20
STEEPEST = 1e6  # an infinite radius has an infinite gradient, which Adam cannot average
WEIGHT_FLOOR = 0.01  # a weight of 0 would remove the gradient of the only loss


class Penalty(NamedTuple):
    """The weight β ≥ 0 of a divergence, and Adam's moments for it; all of the same shape, such as `[seeds]`."""

    weight: Float[Tensor, "..."]
    mean: Float[Tensor, "..."]
    square: Float[Tensor, "..."]
    count: Float[Tensor, "..."]

    @classmethod
    def start(cls, weight: float) -> Penalty:
        return cls(torch.tensor(float(weight)), *(torch.zeros(()) for _ in range(3)))

    def step(self, divergence: Float[Tensor, "..."], radius: float, margin: float, lr: float) -> Penalty:
        """One Adam step down β·(radius − margin·divergence): β grows where the divergence exceeds radius/margin."""
        slope = (radius - margin * divergence).clamp(-STEEPEST, STEEPEST)
        weight, averages = Adam(self.mean, self.square, self.count).step(self.weight, slope, lr)
        return Penalty(weight.clamp(min=0), *averages)


class Restored(NamedTuple):
    """A feasible policy and what it took. Metrics are scalars: `kl_before_fixup`, `fixup_needed` (1 if that violated),
    `fixup_sweeps`, `fixup_steps`, and the fraction of the way back to the old policy (`fixup_retreat`)."""

    vector: Float[Tensor, "size"]
    adam: Adam
    penalty: Penalty
    metrics: dict[str, Tensor]


@dataclass(frozen=True)
class Fixup:
    """A trust region on the KL from the old policy, and the procedure that restores it."""

    radius: float = hyperparameter(0.5, above=0, help="Maximum KL from the old policy.")
    statistic: str = hyperparameter(
        "max", choices=("max", "mean"), help="Statistic of the KL over the states of the batch."
    )
    minibatch_size: int = hyperparameter(1024, low=1, help="Samples per step (sequences for a recurrent network).")
    max_sweeps: int = hyperparameter(
        100, low=0, help="Maximum passes over the batch before the policy is moved back along a line."
    )
    max_grad_norm: float | None = hyperparameter(0.5, above=0, help="Maximum gradient norm.")
    margin: float = hyperparameter(3.0, low=1, help="The weight rises where the KL exceeds radius/margin.")
    weight_lr: float = hyperparameter(0.01, low=0, help="Adam's step size for the weight.")

    def __post_init__(self) -> None:
        check(self)

    def measure(self, kl: Float[Tensor, "..."], valid: Bool[Tensor, "..."]) -> Float[Tensor, ""]:
        """The statistic of the states' KLs that the radius bounds, without invalid states."""
        if self.statistic == "mean":
            return aggregation.mean()(kl, valid)
        return torch.where(valid, kl, torch.zeros((), dtype=kl.dtype)).amax()

    def distance(self, model: Model, vector: Tensor, batch: Batch) -> Float[Tensor, ""]:
        """The statistic on the whole batch of one seed, in one pass."""
        with torch.no_grad():
            kl = model.distribution.kl(batch["old_params"], model.evaluate(vector, batch)[0])
            return self.measure(kl, batch["valid"])

    def next_penalty(self, penalty: Penalty, divergence: Float[Tensor, "..."]) -> Penalty:
        """The weight after a step on samples of that divergence."""
        return penalty.step(divergence, self.radius, self.margin, self.weight_lr)

    def __call__(
        self, model: Model, start: Tensor, vector: Tensor, adam: Adam, penalty: Penalty, batch: Batch, lr: Tensor
    ) -> Restored:
        """The weights `vector` of one seed, moved until the statistic is within the radius; untouched if it is already.

        `start` holds the weights of the policy that collected the batch. Only weights that the policy depends on move:
        those of the critic stay fixed, as do Adam's moments for them.
        """
        policy = model.policy_mask
        before = distance = self.distance(model, vector, batch)
        sweeps = steps = 0

        def loss(weights: Tensor, beta: Tensor, part: Batch) -> tuple[Tensor, Tensor]:
            kl = model.distribution.kl(part["old_params"], model.evaluate(weights, part)[0])
            return beta * aggregation.mean()(kl, part["valid"]), self.measure(kl.detach(), part["valid"])

        gradient_of = torch.func.grad(loss, has_aux=True)
        while not distance <= self.radius and sweeps < self.max_sweeps:
            for part in split(batch, self.minibatch_size):
                gradient, divergence = gradient_of(vector, penalty.weight.clamp(min=WEIGHT_FLOOR), part)
                if divergence <= self.radius:
                    continue
                gradient, _ = clip_norm(gradient, self.max_grad_norm)
                moved, averages = adam.step(vector, gradient, lr, epsilon=1e-5)
                vector = torch.where(policy, moved, vector)
                mean = torch.where(policy, averages.mean, adam.mean)
                square = torch.where(policy, averages.square, adam.square)
                adam, penalty = Adam(mean, square, averages.count), self.next_penalty(penalty, divergence)
                steps += 1
            distance, sweeps = self.distance(model, vector, batch), sweeps + 1
        retreat = 0.0
        if not distance <= self.radius:
            vector, retreat = self._retreat(model, torch.where(policy, start, vector), vector, batch)
        metrics = {
            "kl_before_fixup": before,
            "fixup_needed": 1 - (before <= self.radius).float(),
            "fixup_sweeps": torch.tensor(float(sweeps)),
            "fixup_steps": torch.tensor(float(steps)),
            "fixup_retreat": torch.tensor(retreat),
        }
        return Restored(vector, adam, penalty, metrics)

    def _retreat(self, model: Model, start: Tensor, vector: Tensor, batch: Batch) -> tuple[Tensor, float]:
        """The point between `start` (KL 0) and `vector` (outside) on the edge of the region, by bisection."""
        inside, outside, nearest = 0.0, 1.0, start
        for _ in range(BISECTIONS):
            middle = (inside + outside) / 2
            candidate = torch.lerp(start, vector, middle)
            if self.distance(model, candidate, batch) <= self.radius:
                inside, nearest = middle, candidate
            else:
                outside = middle
        return nearest, 1 - inside


def split(batch: Batch, size: int) -> Iterator[Batch]:
    """The batch of one seed in its own order, `size` samples at a time (sequences, if it is recurrent); the last part
    may be shorter."""
    recurrent = "state" in batch

    def part(key: str, x: Tensor | Mapping[str, Tensor], start: int) -> Tensor | Mapping[str, Tensor]:
        axis = 1 if recurrent and key != "state" else 0
        return map_observation(lambda y: y.narrow(axis, start, min(size, y.shape[axis] - start)), x)  # type: ignore[arg-type]

    for start in range(0, batch["valid"].shape[1 if recurrent else 0], size):
        yield {key: part(key, x, start) for key, x in batch.items()}

"""What AROID does before a gradient step: augment the rows, attack them, and try augmentations for the policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from surefoot.loops.networks.nets import Batch
from surefoot.loops.supervised.method import MODEL
from surefoot.methods.supervised.aroid.augmentations import augmented, groups_of, sizes_of
from surefoot.methods.supervised.aroid.choices import drawn
from surefoot.models.device import computing_on
from surefoot.models.row_network import row_losses
from surefoot.objectives.score_function import over_group
from surefoot.perturbations.ascent import Damage, Moves, climb
from surefoot.seeding import numpy_stream

if TYPE_CHECKING:
    from surefoot.loops.supervised.learner import SupervisedLearner
    from surefoot.methods.supervised.aroid import AROID

POLICY, JUDGE = "policy", "judge"
FALL = 0.1  # of the model's step from one stage to the next


class Augmenting:
    """What is found for the gradient steps of a run."""

    def __init__(self, method: AROID, learner: SupervisedLearner) -> None:
        self.method, self.learner, self.shape = method, learner, learner.rows.shape

    def __call__(self, batch: Batch, due: tuple[str, ...]) -> dict[str, Any]:
        """The attacked rows, the factor of the model's step, and what was tried where the policy is due."""
        method, learner = self.method, self.learner
        with computing_on(learner.device):
            stage = sum(learner.iteration >= share * learner.total_steps for share in method.stages)
            begun = learner.updates >= method.plain_steps(learner.rows)
            seen = batch | {"x": self.augment(batch)[0]} if begun else batch
            attacked = learner.attacked(seen, small_steps(method.radius, method.attack_steps))
            rate = FALL**stage * batch.get("rate", torch.ones(learner.num_seeds))
            return {"attacked": attacked, "rate": rate} | ({"tried": self.tried(stage)} if POLICY in due else {})

    def logits(self, x: Tensor) -> Tensor:
        """The policy's logits `[seeds, rows, options]`."""
        return self.learner.output(POLICY, x)

    def augment(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The rows of a batch with augmentations that the policy draws, and its choices `[seeds, rows, groups]`."""
        x, noise = batch["x"], batch["noise"]
        choice = drawn(self.logits(x), noise["gumbel"], sizes_of(self.shape))
        moved = augmented(x.flatten(0, 1), choice.flatten(0, 1), noise["places"].flatten(0, 1))
        return moved.view_as(x), choice

    def tried(self, stage: int) -> dict[str, Tensor]:
        """T augmentations of each row of a fresh batch: x `[seeds, rows, ...]`, choice `[seeds, T, rows, groups]`, and
        `[seeds, T, rows]` each, vulnerability, affinity (a cost) and advantage."""
        method, learner = self.method, self.learner
        streams = [numpy_stream(seed, "rows of the policy", learner.updates) for seed in learner.seeds]
        rows = np.stack([one.permutation(learner.rows.count)[: method.batch_size] for one in streams])
        size, price = rows.shape[1], method.affinity[min(stage, len(method.affinity) - 1)]
        batch = learner.batch(np.tile(rows, (1, method.trajectories)))
        x, choice = self.augment(batch)
        moved = learner.attacked(batch | {"x": x}, small_steps(method.radius, method.vulnerability_steps))

        def losses(name: str, seen: Tensor) -> Tensor:
            return row_losses(learner.output(name, seen), batch["y"], learner.rows.kinds)

        harm = losses(MODEL, moved) - losses(MODEL, x)
        cost = (losses(JUDGE, x) - losses(JUDGE, batch["x"])).clamp(min=0)
        reward = method.vulnerability * harm - price * cost
        each = {"choice": choice, "vulnerability": harm, "affinity": cost, "reward": reward}
        apart = {name: one.unflatten(1, (method.trajectories, size)) for name, one in each.items()}
        advantage = over_group(apart.pop("reward").movedim(1, 0)).movedim(0, 1)
        return {"x": batch["x"][:, :size], "advantage": advantage, **apart}

    def chances(self, index: int) -> dict[str, dict[str, float]]:
        """How likely the policy of one seed makes every option, the mean over the rows, by group and option."""
        x = self.learner.columns["x"]
        logits = self.logits(x.expand(self.learner.num_seeds, *x.shape))[index].cpu()
        parts = zip(groups_of(self.shape), logits.split(sizes_of(self.shape), -1), strict=True)
        return {g.name: dict(zip(g.options, part.softmax(-1).mean(0).tolist(), strict=True)) for g, part in parts}


def small_steps(radius: float, steps: int) -> Callable[[Damage, Moves], Moves]:
    """Ascent from the rows themselves by steps of ε/4 in every feature, or one of ε, within ε of them."""
    size = radius if steps == 1 else radius / 4

    def advance(moves: Moves, gradient: Moves) -> Moves:
        return {k: (x + size * gradient[k].sign()).clamp(-radius, radius) for k, x in moves.items()}

    return lambda damage, start: climb(damage, start, steps, advance)

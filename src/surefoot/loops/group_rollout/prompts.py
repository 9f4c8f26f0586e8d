"""The numbers of the next prompts, from the iteration and the rewards of their completions so far."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.seeding import numpy_stream


class Solved(NamedTuple):
    """The running mean reward of every prompt of a finite set, and the number of batches in it."""

    mean: Float[Tensor, " prompts"]
    count: Int[Tensor, " prompts"]

    @staticmethod
    def start(size: int) -> Solved:
        return Solved(torch.zeros(size), torch.zeros(size, dtype=torch.int64))

    def update(self, index: Int[Tensor, " batch"], reward: Float[Tensor, "batch samples"]) -> Solved:
        """Updated with the mean rewards of some prompts; a prompt may occur several times."""
        if not reward.shape[1]:
            return self  # nothing was generated
        count = self.count.index_add(0, index, torch.ones_like(index))
        total = (self.mean * self.count).index_add(0, index, reward.mean(1))
        return Solved(total / count.clamp(min=1), count)


def choose(
    sampler: str, count: int, seed: int, drawn: int, size: int | None, solved: Solved | None
) -> Int[Tensor, " count"]:
    """The numbers of the next `count` prompts, after `drawn` of them.

    "uniform" passes through a finite set in a new random order each time, and through an infinite one in order. The
    others sample from a finite set with weights given by the mean reward p so far (arXiv:2504.02546): "hard" 1 − p,
    "soft" the same where 0 < p < 1, "medium" evenly where 0 < p < 1; a prompt not seen yet counts as p = ½.
    """
    if sampler == "uniform":
        if size is None:
            return torch.arange(drawn, drawn + count)
        places = range(drawn, drawn + count)
        orders = {
            epoch: numpy_stream(seed, "prompts", epoch).permutation(size) for epoch in {p // size for p in places}
        }
        return torch.tensor([int(orders[p // size][p % size]) for p in places])
    if size is None or solved is None:
        raise UsageError(f"sampler={sampler!r} needs a finite set of prompts, such as a file; use sampler='uniform'.")
    p = torch.where(solved.count > 0, solved.mean, 0.5).double().clamp(0, 1)
    between = (p > 0) & (p < 1)
    weight = {"hard": 1 - p, "soft": torch.where(between, 1 - p, 0.0), "medium": between.double()}[sampler]
    if int((weight > 0).sum()) < min(count, size):
        weight = weight + 1e-9  # if fewer prompts have weight than are needed, others fill up
    rng = numpy_stream(seed, "prompts", drawn)
    return torch.from_numpy(rng.choice(size, count, replace=count > size, p=(weight / weight.sum()).numpy()))

"""Ensembles of values, one for each oracle and one for the learner, fitted to returns of what each of them did.

What is stored of an oracle is a ring of rows: an observation, the return that followed, and how often each member of
the ensemble counts it, a Poisson(1) number, so that members differ where there are few rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from surefoot.loops.common.optimizer import Adam
from surefoot.models.functional import Flat
from surefoot.models.layers import Stacked

State = dict[str, Tensor]
POISSON = [math.exp(-1) * sum(1 / math.factorial(k) for k in range(n + 1)) for n in range(10)]  # P(x ≤ n)


class Rows(NamedTuple):
    """Observations, returns, and how often each member counts them."""

    observation: Float[Tensor, "rows size"]
    target: Float[Tensor, "rows"]
    count: Float[Tensor, "rows members"]


@dataclass(frozen=True)
class Judges:
    """`policies` ensembles of `members` networks each, side by side: the flat vector of all is what learns."""

    policies: int
    members: int
    inputs: int
    hidden: tuple[int, ...]
    memory: int

    def module(self) -> Stacked:
        """All networks, freshly initialised."""
        return Stacked(self.policies * self.members, (self.inputs, *self.hidden, 1), "tanh", 1.0)

    def empty(self) -> State:
        """The rings of the oracles, which are all but the last policy."""
        oracles = self.policies - 1
        return {
            "seen": torch.zeros(oracles, self.memory, self.inputs),
            "returns": torch.zeros(oracles, self.memory),
            "counts": torch.zeros(oracles, self.memory, self.members),
            "stored": torch.zeros(oracles, dtype=torch.int64),
        }

    def values(
        self, flat: Flat, vector: Float[Tensor, "size"], observation: Float[Tensor, "rows inputs"]
    ) -> tuple[Float[Tensor, "policies rows"], Float[Tensor, "policies rows"]]:
        """Mean and standard deviation over the members of each policy."""
        every = observation.unsqueeze(-2).expand(-1, self.policies * self.members, -1)
        each = flat(vector, every).squeeze(-1).unflatten(-1, (self.policies, self.members))
        return each.mean(-1).T, each.std(-1, correction=0).T

    def kept(self, ring: State, policy: int, rows: Rows) -> State:
        """The rings with more rows of a policy, in the place of its oldest ones."""
        rows = Rows(*(x[-self.memory :] for x in rows))
        place = (int(ring["stored"][policy]) + torch.arange(len(rows.target))) % self.memory
        new = {name: x.clone() for name, x in ring.items()}
        for name, x in zip(("seen", "returns", "counts"), rows, strict=True):
            new[name][policy, place] = x
        new["stored"][policy] += len(rows.target)
        return new

    def of(self, ring: State, policy: int) -> Rows:
        """What is stored of a policy."""
        filled = min(int(ring["stored"][policy]), self.memory)
        return Rows(*(ring[name][policy, :filled] for name in ("seen", "returns", "counts")))

    def fitted(
        self,
        flat: Flat,
        vector: Float[Tensor, "size"],
        adam: Adam,
        sets: list[Rows],
        steps: int,
        size: int,
        learning_rate: float,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "size"], Adam, Float[Tensor, ""]]:
        """After so many Adam steps on minibatches of `size`, which every member draws of its own policy's rows; and the
        mean squared error of the last. Policies without rows stay as they are up to Adam's moments."""
        error = torch.zeros(())
        for _ in range(steps):
            drawn = [self._drawn(rows, size, generator) for rows in sets]
            inputs, target, count = (torch.cat(parts) for parts in zip(*drawn, strict=True))  # [networks, size, …]
            with torch.enable_grad():
                point = vector.detach().requires_grad_()
                found = flat(point, inputs.transpose(0, 1)).squeeze(-1).T
                losses = count * (found - target) ** 2
                (gradient,) = torch.autograd.grad(losses.mean(1).sum(), point)
            error = losses.detach().sum() / count.sum().clamp(min=1)
            vector, adam = adam.step(vector, gradient, learning_rate)
        return vector, adam, error

    def _drawn(self, rows: Rows, size: int, generator: torch.Generator) -> Rows:
        """A minibatch for each member, with a count of 0 where there are no rows."""
        if not len(rows.target):
            shape = (self.members, size)
            return Rows(torch.zeros(*shape, self.inputs), torch.zeros(shape), torch.zeros(shape))
        index = torch.randint(len(rows.target), (self.members, size), generator=generator)
        count = torch.stack([rows.count[index[m], m] for m in range(self.members)])
        return Rows(rows.observation[index], rows.target[index], count)


def poisson(uniform: Tensor) -> Tensor:
    """Poisson(1) numbers of uniform ones, by inversion."""
    return (uniform.unsqueeze(-1) > torch.tensor(POISSON)).sum(-1).to(uniform.dtype)

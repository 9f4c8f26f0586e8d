"""Online learning in episodes: losses that may change, visits, the best policy in hindsight, optimism about kernels.

Every table has a first axis of steps: the layers of the theory. Losses are minimised and lie in [0, 1]; rewards come
back only in what is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from surefoot.ambiguity import Box
from surefoot.ambiguity.operator import solve
from surefoot.envs.tabular import TabularMDP, rollouts
from surefoot.envs.tabular.adversarial import AdversarialMDP
from surefoot.errors import UsageError
from surefoot.seeding import torch_stream


@dataclass(frozen=True, eq=False)
class Episodic:
    """An MDP with a horizon as online learning sees it; make it with `episodic`, which does so once for each MDP.

    loss = γ^h·(high − reward)/scale, where high is the greatest reward that can occur and scale the range of them.
    """

    mdp: TabularMDP

    @property
    def horizon(self) -> int:
        assert self.mdp.horizon is not None
        return self.mdp.horizon

    @cached_property
    def kernel(self) -> Tensor:
        """The probabilities of the next states `[H, S, A, S']`, dense."""
        rows = self.mdp.dense_rows
        return rows.expand(self.horizon, *rows.shape[-3:])

    @cached_property
    def features(self) -> Tensor:
        """`[H, S, A, d]`, of an MDP that has them."""
        given = self.mdp.features
        return given.expand(self.horizon, *given.shape[-3:])

    @cached_property
    def factors(self) -> Tensor:
        """`[H, d, S']` of a linear MDP: distributions that the features, also distributions, mix to the kernel.

        They are what least squares makes of the kernel; one that is in no legal pair may be anything and is uniform.
        Raises `UsageError` where there are none.
        """
        phi, kernel = (x.flatten(1, 2)[:, self.mdp.allowed.flatten()] for x in (self.features, self.kernel))
        found = torch.linalg.pinv(phi) @ kernel
        found[(phi == 0).all(1)] = 1 / self.mdp.states
        wrong = [phi @ found - kernel, *(x for one in (phi, found) for x in (one.clamp(max=0), one.sum(-1) - 1))]
        off = max(float(x.abs().max()) for x in wrong)
        if off > 1e-7:
            raise UsageError(
                f"{self.mdp.name!r} is no linear MDP: features must be distributions over factors, factors "
                f"distributions over next states, and the kernel features @ factors, but one is {off:.3g} away. Take "
                "simulated-linear, or make one with surefoot.envs.tabular.linear.linear_mdp(features, factors, reward)."
            )
        found = found.clamp(min=0)
        return found / found.sum(-1, keepdim=True)

    @cached_property
    def reward(self) -> Tensor:
        """The mean rewards `[H, S, A]`."""
        mean = self.mdp.expected_reward()
        return mean.expand(self.horizon, *mean.shape[-2:])

    @cached_property
    def over(self) -> Tensor:
        """The states `[S]` where an episode is over: never left, and worth 0."""
        return self.mdp.ended

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest reward that can occur."""
        if isinstance(self.mdp, AdversarialMDP) and self.mdp.bounds:
            return self.mdp.bounds
        return float(self.reward.min()), float(self.reward.max())

    @property
    def scale(self) -> float:
        """What a unit of loss is worth in rewards."""
        return (self.bounds[1] - self.bounds[0]) or 1.0

    @cached_property
    def stages(self) -> Tensor:
        """The mean losses `[N, H, S, A]` of the stages that rewards go through."""
        mdp = self.mdp
        rewards = mdp.stages if isinstance(mdp, AdversarialMDP) else mdp.expected_reward().unsqueeze(0)
        losses = (self.bounds[1] - rewards) / self.scale
        losses = losses if losses.ndim == 4 else losses.unsqueeze(1)
        return losses * self.discounts[:, None, None]

    @cached_property
    def discounts(self) -> Tensor:
        """γ^h `[H]`."""
        return self.mdp.gamma ** torch.arange(self.horizon, dtype=torch.float64)

    def losses(self, first: int, count: int = 1) -> Tensor:
        """The mean losses `[n, H, S, A]` of that many episodes."""
        length = self.mdp.length if isinstance(self.mdp, AdversarialMDP) else 1
        return self.stages[torch.arange(first, first + count) // length % len(self.stages)]

    def returns(self, losses: Tensor) -> Tensor:
        """The return that a total loss of an episode stands for."""
        return self.bounds[1] * self.discounts.sum() - self.scale * losses

    def play(
        self, policy: Tensor, losses: Tensor, seed: int, iteration: int, name: str = "episodes"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """States, actions and losses seen, each `[n, H]`, of n episodes.

        policy: `[H, S, A]`. losses: the mean losses `[n, H, S, A]` of each. name: of the stream of random numbers.
        """
        stream = torch_stream(seed, name, iteration)
        met = rollouts(self.mdp, policy, len(losses), generator=stream)
        steps = torch.arange(self.horizon)
        seen = losses[torch.arange(len(losses))[:, None], steps, met.states, met.actions]
        if isinstance(self.mdp, AdversarialMDP) and self.mdp.noise == "bernoulli":
            chance = torch.rand(seen.shape, generator=stream, dtype=torch.float64) * self.discounts
            seen = (chance < seen).double() * self.discounts
        return met.states, met.actions, seen

    def expected(self, policy: Tensor, losses: Tensor) -> Tensor:
        """The expected loss of an episode under a policy `[H, S, A]`; losses `[H, S, A]`."""
        visits, total = self.mdp.initial, torch.zeros((), dtype=torch.float64)
        for chosen, loss, kernel in zip(policy, losses, self.kernel, strict=True):
            mass = visits[:, None] * chosen
            total, visits = total + (mass * loss).sum(), forward(kernel, mass)
        return total

    def best(self, losses: Tensor) -> Tensor:
        """The least expected loss of any policy; of losses `[H, S, A]` added up, that of the best in hindsight."""
        if self.mdp.legal is not None:
            losses = losses.masked_fill(~self.mdp.legal, torch.inf)
        value = torch.zeros(self.mdp.states, dtype=torch.float64)
        for loss, kernel in zip(losses.flip(0), self.kernel.flip(0), strict=True):
            value = (loss + kernel @ value).amin(-1)
        return self.mdp.initial @ value


@lru_cache(maxsize=4)
def episodic(mdp: TabularMDP) -> Episodic:
    """How online learning sees an MDP with a horizon."""
    return Episodic(mdp)


def forward(kernel: Tensor, mass: Tensor) -> Tensor:
    """The distribution of the next state `[S']` from that of pairs `[S, A]`; kernel `[S, A, S']`."""
    return mass.flatten() @ kernel.flatten(0, 1)


# --- kernels, known or not -------------------------------------------------------------------------------------------


class Visits(NamedTuple):
    """The probability `[S]` that an episode comes through the states of a layer, or bounds of it."""

    most: Tensor
    least: Tensor


@dataclass(frozen=True, eq=False)
class Known:
    """A kernel `[H, S, A, S']` that is known."""

    kernel: Tensor

    def most(self, step: int, values: Tensor) -> Tensor:
        """The greatest expectation `[S, A]` of values `[S']` after a step."""
        return self.kernel[step] @ values

    def visits(self, initial: Tensor, policies: list[Tensor], before: Visits | None) -> Visits:
        """Visits of the layer after those in which `policies` `[S, A]` act; `before` are those of the last of them."""
        if before is None:
            return Visits(initial, initial)
        after = forward(self.kernel[len(policies) - 1], before.most[:, None] * policies[-1])
        return Visits(after, after)


@dataclass(frozen=True, eq=False)
class Unknown:
    """All kernels whose probabilities lie within bounds of Bernstein's kind around frequencies:

        |p − p̂| ≤ √(2·p̂(1 − p̂)·ι/n) + 7ι/(3n)             p̂ = count/n, all of [0, 1] where n = 0

    counts: `[H, S, A, S']`. The constants are those of Maurer and Pontil's empirical inequality (2009). Bounds of
    visits are reached layer by layer in the worst kernel for each state, so they depend on earlier layers only.
    """

    counts: Tensor
    iota: float

    @cached_property
    def boxes(self) -> list[Box]:
        """The sets of each step."""
        n = self.counts.sum(-1, keepdim=True)
        share, n = self.counts / n.clamp(min=1), n.clamp(min=1e-9)
        width = (2 * share * (1 - share) * self.iota / n).sqrt() + 7 * self.iota / (3 * n)
        bounds = zip((share - width).clamp(min=0), (share + width).clamp(max=1), strict=True)
        return [Box(lower=lower, upper=upper) for lower, upper in bounds]

    def most(self, step: int, values: Tensor, greatest: bool = True) -> Tensor:
        """The greatest (or least) expectation `[..., S, A]` of values `[..., S']` after a step."""
        box = self.boxes[step]
        rows = values[..., None, None, :]
        return solve(rows, torch.full_like(rows, 1 / rows.shape[-1]), box, box.strength, greatest).value

    def visits(self, initial: Tensor, policies: list[Tensor], before: Visits | None) -> Visits:
        """Bounds of the visits of the layer after those in which `policies` `[S, A]` act."""
        bounds = []
        for greatest in (True, False):
            reach = torch.eye(len(initial), dtype=torch.float64)  # [target, S]
            for step, policy in reversed(list(enumerate(policies))):
                reach = (policy * self.most(step, reach, greatest)).sum(-1)
            bounds.append(reach @ initial)
        return Visits(*bounds)


def dilated_bonus(bonus: Tensor, policy: Tensor, kernel: Known | Unknown) -> Tensor:
    """B(s, a) = b(s, a) + (1 + 1/H)·max_P E[Σ_a' π(a'|s')·B(s', a')] `[H, S, A]`, backward from the last layer.

    bonus: b `[H, S]` or `[H, S, A]`. Each step back weighs a little more, so that B makes up for itself where it is
    unknown how often a state is come through (Luo, Wei and Lee 2021, arXiv:2107.08346). At most e·H·max b.
    """
    horizon, bonus = len(policy), (bonus if bonus.ndim == 3 else bonus.unsqueeze(-1)).expand(policy.shape)
    found = [bonus[-1]]
    for h in reversed(range(horizon - 1)):
        found.append(bonus[h] + (1 + 1 / horizon) * kernel.most(h, (policy[h + 1] * found[-1]).sum(-1)))
    return torch.stack(found[::-1])

"""What a solver gives back: values, a policy, the world that is worst for it, and how far off all that can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from surefoot.envs.tabular import Kernel


class Progress(NamedTuple):
    """Where a solve stands, as its `progress` callback is told after each sweep."""

    iteration: int
    gap: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Solution:
    """The values of the best policy, or of the one evaluated, in the worst world of an ambiguity set.

    value: `[S]`, or `[H, S]` the return from each step on. Average reward: the bias, 0 in state 0, and `gain` the
    reward of a step in the long run.
    policy: `[S, A]`, or `[H, S, A]`; the probability of each action.
    gap: the upper less the lower bound. No true value is further than half of it from `value` (`gain` for averages),
    and the policy loses at most all of it against the best one. Rounding is not counted.
    iterations: sweeps over all states. converged: whether the gap came down to the tolerance asked for.
    """

    value: Tensor
    policy: Tensor
    gap: float
    iterations: int
    converged: bool
    make_worst_kernel: Callable[[], Kernel]
    gain: float | None = None

    @cached_property
    def worst_kernel(self) -> Kernel:
        """The kernel in which the policy has these values, made when first asked for.

        `[S, A, S']`, or `Successors` for a sparse MDP, whose rows may be one entry longer; with a horizon one a step,
        `[H, S, A, S']`. Where several kernels are the worst it is one of them.
        """
        return self.make_worst_kernel()

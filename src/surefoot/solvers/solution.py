"""The result of a solver: values, a policy, its worst world, and a certified gap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from surefoot.envs.tabular import Kernel, TabularMDP


class Progress(NamedTuple):
    """The state of a solve, passed to its `progress` callback after each sweep."""

    iteration: int
    gap: float
    seconds: float


def default_criterion(mdp: TabularMDP) -> str:
    """The criterion if none is given."""
    return "finite" if mdp.horizon is not None else "discounted" if mdp.gamma < 1 else "total"


def measure(mdp: TabularMDP, criterion: str, assumed: bool = False) -> str:
    """The meaning of a criterion's values, in words; assumed: whether the discount is a default."""
    gamma = f"gamma={mdp.gamma:g}{' (assumed)' if assumed else ''}"
    if criterion == "finite":
        discount = "" if mdp.gamma == 1 else f"discounted by {gamma}, "
        return f"sum of rewards, {discount}over {mdp.horizon} steps"
    return {
        "discounted": f"sum of rewards, discounted by {gamma}",
        "total": "sum of rewards, not discounted",
        "average": "average reward per step",
    }[criterion]


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """The values of the best policy, or of the one evaluated, in the worst (or best) world of an ambiguity set.

    value: `[S]`, or `[H, S]` the return from each step on, exactly 0 in states where an episode is over. Average
    reward: the bias, 0 in state 0, and `gain` the average reward per step.
    policy: `[S, A]`, or `[H, S, A]`; the probability of each action.
    gap: the upper bound minus the lower one. No true value is further than half of it from `value` (`gain` for
    averages), and the policy is at most the gap worse than the best one. Rounding is not included.
    iterations: sweeps over all states. converged: whether the gap reached the requested tolerance. criterion: what
    is summed (see `solve`).
    """

    value: Tensor
    policy: Tensor
    gap: float
    iterations: int
    converged: bool
    make_worst_kernel: Callable[[], Kernel]
    gain: float | None = None
    criterion: str = "discounted"

    def __repr__(self) -> str:
        steps = "" if self.value.ndim == 1 else f"{self.value.shape[0]} steps, "
        worth = "" if self.gain is None else f"gain {self.gain:.6g}, "
        low, high = self.value.aminmax()
        certain = "" if self.converged else ", not converged"
        return (
            f"<Solution: {steps}{self.value.shape[-1]} states, {worth}values {low:.6g} to {high:.6g}, "
            f"gap {self.gap:.2g}, {self.iterations} sweeps{certain}>"
        )

    @cached_property
    def worst_kernel(self) -> Kernel:
        """The kernel in which the policy has these values, computed on first access.

        `[S, A, S']`, or `Successors` for a sparse MDP, whose rows may be one entry longer; with a horizon one per step,
        `[H, S, A, S']`. If several kernels are the worst it is one of them. With nature="best" it is the best one.
        """
        return self.make_worst_kernel()

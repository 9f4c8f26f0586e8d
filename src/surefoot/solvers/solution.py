"""What a solver gives back: values, a policy, the world that is worst for it, and how far off all that can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from surefoot.envs.tabular import Kernel, TabularMDP


class Progress(NamedTuple):
    """Where a solve stands, as its `progress` callback is told after each sweep."""

    iteration: int
    gap: float
    seconds: float


def default_criterion(mdp: TabularMDP) -> str:
    """What is summed where nothing else is said."""
    return "finite" if mdp.horizon is not None else "discounted" if mdp.gamma < 1 else "total"


def measure(mdp: TabularMDP, criterion: str, assumed: bool = False) -> str:
    """What the values of a criterion are, in words; assumed: whether nobody gave the discount."""
    gamma = f"gamma={mdp.gamma:g}{' (assumed)' if assumed else ''}"
    if criterion == "finite":
        discount = "" if mdp.gamma == 1 else f"discounted by {gamma}, "
        return f"sum of rewards, {discount}over {mdp.horizon} steps"
    return {
        "discounted": f"sum of rewards, discounted by {gamma}",
        "total": "sum of rewards, not discounted",
        "average": "reward of a step in the long run",
    }[criterion]


@dataclass(frozen=True, eq=False, repr=False)
class Solution:
    """The values of the best policy, or of the one evaluated, in the worst (or best) world of an ambiguity set.

    value: `[S]`, or `[H, S]` the return from each step on, exactly 0 in states where an episode is over. Average
    reward: the bias, 0 in state 0, and `gain` the reward of a step in the long run.
    policy: `[S, A]`, or `[H, S, A]`; the probability of each action.
    gap: the upper less the lower bound. No true value is further than half of it from `value` (`gain` for averages),
    and the policy loses at most all of it against the best one. Rounding is not counted.
    iterations: sweeps over all states. converged: whether the gap came down to the tolerance asked for. criterion: what
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
        """The kernel in which the policy has these values, made when first asked for.

        `[S, A, S']`, or `Successors` for a sparse MDP, whose rows may be one entry longer; with a horizon one a step,
        `[H, S, A, S']`. Where several kernels are the worst it is one of them. With nature="best" it is the best one.
        """
        return self.make_worst_kernel()

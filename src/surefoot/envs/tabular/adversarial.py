"""MDPs whose rewards change from episode to episode, and instances of them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from surefoot.ambiguity.arrays import tensor
from surefoot.envs.tabular.mdp import TabularMDP, each_step
from surefoot.envs.tabular.zoo import entry, whole
from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter
from surefoot.seeding import numpy_stream

NOISES = ("none", "bernoulli")


@dataclass(frozen=True, eq=False, repr=False)
class AdversarialMDP(TabularMDP):
    """An MDP with a horizon whose rewards change: N tables, each for `length` episodes, then from the first again.

    stages: `[N, S, A]`, or `[N, H, S, A]` with an axis of steps. `reward` is their mean (see `adversarial`): a method
    that ignores the stages sees the average MDP, whose best policy is the best in hindsight over whole rounds.
    bounds: the least and the greatest reward that can occur; None: taken from the stages.
    noise: "bernoulli" samples each reward from the two bounds, with the mean given by the stage.

    Raises `UsageError` for stages of another shape or outside the bounds.
    """

    stages: Any = None
    length: int = hyperparameter(1, low=1, help="Number of episodes per table of rewards.")
    noise: str = hyperparameter("none", choices=NOISES, help="Distribution of rewards around their means.")
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.horizon is None:
            return  # the MDP of a single step
        stages = tensor(self.stages, "stages", torch.float64)
        pairs = (self.states, self.actions)
        if not len(stages) or tuple(stages.shape[1:]) not in (pairs, (self.horizon, *pairs)):
            raise UsageError(
                f"stages has shape {list(stages.shape)}; it must be [N, S, A] or [N, H, S, A] with H={self.horizon}, "
                f"S={self.states}, A={self.actions}."
            )
        least, greatest = float(stages.min()), float(stages.max())
        low, high = self.bounds or (least, greatest)
        if not low <= least <= greatest <= high:
            raise UsageError(
                f"bounds={self.bounds!r} do not contain the stages, which go from {least:g} to {greatest:g}."
            )
        object.__setattr__(self, "stages", stages)
        object.__setattr__(self, "bounds", (low, high))

    @cached_property
    def ended(self) -> Tensor:
        """The states `[S]` in which an episode is over, in every stage."""
        unpaid = (torch.as_tensor(self.stages) == 0) | ~self.allowed
        return super().ended & unpaid.all(-1).flatten(0, -2).all(0)


def adversarial(mdp: TabularMDP, stages: Any, **changes: Any) -> AdversarialMDP:
    """An MDP with other rewards in each episode: `stages`, and `length`, `noise`, `bounds` of `AdversarialMDP`.

    Raises `UsageError` without a horizon.
    """
    if mdp.horizon is None:
        raise UsageError(f"{mdp.name!r} has no horizon; rewards that change between episodes need one: horizon=H.")
    stages = tensor(stages, "stages", torch.float64)
    fields = {field.name: getattr(mdp, field.name) for field in dataclasses.fields(TabularMDP)}
    if stages.ndim == 4:  # their mean has an axis of steps, so everything else needs one
        fields["transition"] = each_step(mdp.transition, 3, mdp.horizon)
    return AdversarialMDP(**{**fields, "reward": stages.mean(0)}, stages=stages, **changes)


# --- instances -------------------------------------------------------------------------------------------------------


@entry
def layers(depth: int = 3, states: int = 3, actions: int = 2, gap: float = 0.2, seed: int = 0) -> AdversarialMDP:
    """Losses of 0 or 1 with mean 0.5, or 0.5 − gap for the last action, in random states.

    The kernel of each of `depth` steps is drawn from Dirichlet(1, …, 1), the first state is uniform. An episode's
    regret is `gap` times the expected number of actions other than the last.
    """
    means = torch.full((1, states, actions), -0.5, dtype=torch.float64)
    means[..., -1] += gap
    return _in_layers(means, depth, seed, name="layers")


@entry
def shifting_trap(
    depth: int = 3, states: int = 3, early: float = 0.1, late: float = 0.3, length: int = 6000, seed: int = 0
) -> AdversarialMDP:
    """The layers with a trap: for `length` episodes action 1 is better by `early`, then action 0 by `late`.

    Over both stages action 0 is best; a method that has committed to action 1 pays for it.
    """
    means = torch.full((2, states, 2), -0.5, dtype=torch.float64)
    means[0, :, 1] += early
    means[1, :, 0] += late
    return _in_layers(means, depth, seed, name="shifting trap", length=length)


def _in_layers(means: Tensor, depth: int, seed: int, name: str, length: int = 1) -> AdversarialMDP:
    _, states, actions = means.shape
    draws = numpy_stream(seed, "layers").dirichlet([1.0] * states, (depth, states, actions))
    mdp = TabularMDP(draws, means.mean(0), gamma=1.0, horizon=depth, name=name)
    return adversarial(mdp, means, length=length, noise="bernoulli", bounds=(-1.0, 0.0))


@entry
def myopic_loop(chain: int = 6, swing: float = 0.05, period: int = 997) -> AdversarialMDP:
    """Walk along a chain for 0.5 per step to an end without cost, or turn off into a loop that costs 0.45 forever.

    Action 0 continues, action 1 turns off at 0.45. Costs on the chain swing by `swing` in a sine of `period` episodes.
    With as many steps as the chain is long, on the default chain continuing costs 2.5 and turning off at once
    2.7, but for a policy that later acts at random, turning off looks better. Features are one-hot in state and action.
    """
    whole("chain", chain, 2)
    whole("period", period, 1)
    states, loop, end = chain + 1, chain, chain - 1
    transition = torch.zeros(states, 2, states, dtype=torch.float64)
    for state in range(end):
        transition[state, 0, state + 1] = transition[state, 1, loop] = 1
    transition[end, :, end] = transition[loop, :, loop] = 1
    cost = torch.full((states, 2), 0.45, dtype=torch.float64)
    cost[:end, 0], cost[end] = 0.5, 0.0
    angle = 2 * math.pi * torch.arange(period, dtype=torch.float64) / period
    stages = -cost.repeat(period, 1, 1)
    stages[:, :end] -= swing * angle.sin()[:, None, None]
    start = torch.eye(states, dtype=torch.float64)[0]
    features = torch.eye(2 * states, dtype=torch.float64).view(states, 2, -1)
    mdp = TabularMDP(transition, -cost, 1.0, start, chain, features=features, name="myopic loop")
    return adversarial(mdp, stages, bounds=(-1.0, 0.0))

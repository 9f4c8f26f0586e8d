"""Built-in finite MDPs, each with its source and, in the tests, its optimal value. `ZOO` contains them all.

`surefoot.envs.tabular.resolve("river-swim:6")` makes one from text; other modules add theirs with `@entry`. Rewards
are maximised: if a source has costs, rewards are their negatives. Rewards depend on the next state if they do so in the
source: an adversary who changes the transition changes the reward too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from surefoot.envs.tabular.mdp import Successors, TabularMDP
from surefoot.envs.tabular.memory import check_memory
from surefoot.envs.tabular.transitions import kernel_of
from surefoot.errors import UsageError
from surefoot.seeding import check_seed, numpy_stream

Factory = TypeVar("Factory", bound=Callable[..., TabularMDP])
ZOO: dict[str, Callable[..., TabularMDP]] = {}


def entry(factory: Factory) -> Factory:
    """Add a factory to the zoo, under its name with hyphens."""
    ZOO[factory.__name__.replace("_", "-")] = factory
    return factory


def whole(name: str, value: int, low: int, high: int | None = None) -> int:
    """The value, if it is a whole number from `low` to `high`; a `UsageError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise UsageError(f"{name}={value!r} is not allowed; it must be a whole number {allowed}.")
    return value


def share(name: str, value: float) -> float:
    """The value, if it is a probability; a `UsageError` otherwise."""
    if not 0 <= value <= 1:
        raise UsageError(f"{name}={value!r} is not allowed; it must be a probability, from 0 to 1.")
    return value


def point(states: int, place: int) -> np.ndarray:
    """The distribution that is always in one state."""
    return np.eye(states)[place]


@entry
def two_state(gamma: float = 0.9) -> TabularMDP:
    """Two states, two actions, every transition possible: to check a solver by hand."""
    transition = [[[0.7, 0.3], [0.2, 0.8]], [[0.5, 0.5], [0.9, 0.1]]]
    return TabularMDP(transition, [[1.0, 0.4], [0.0, 0.6]], gamma, name="two-state")


@entry
def trap(gamma: float = 0.95) -> TabularMDP:
    """Work riskily for 1 and sometimes fall into a pit, or safely for 0.7.

    Ambiguity reverses the best choice. States (work, pit); in the pit both actions are the same. Average reward 0.8 of
    risky work, 0.7 of safe work.
    """
    transition = [[[0.95, 0.05], [1, 0]], [[0.2, 0.8], [0.2, 0.8]]]
    reward, initial = [[1, 0.7], [0, 0]], [1, 0]
    return TabularMDP(
        transition, reward, gamma, initial=initial, name="trap",
        states_named=("work", "pit"), actions_named=("risky", "safe"),
    )  # fmt: skip


@entry
def chain(states: int = 5, slip: float = 0.2, gamma: float = 0.95) -> TabularMDP:
    """Walk forward for 10 at the end, or return to the start for 2 at once.

    An action may slip into the other one. Source: Strens, "A Bayesian framework for reinforcement learning", ICML 2000;
    walking forward is best, 3.677 per step.
    """
    whole("states", states, 2)
    share("slip", slip)
    on = np.eye(states, k=1)
    on[-1, -1] = 1
    back = np.zeros((states, states))
    back[:, 0] = 1
    walk, reward = np.stack([on, back], 1), np.zeros((states, 2, states))
    reward[:, :, 0], reward[-1, :, -1] = 2, 10
    mix = np.array([[1 - slip, slip], [slip, 1 - slip]])
    return TabularMDP(
        np.einsum("ab,sbt->sat", mix, walk), reward, gamma,
        initial=point(states, 0), name="chain", actions_named=("on", "back"),
    )  # fmt: skip


@entry
def river_swim(states: int = 6, gamma: float = 0.95) -> TabularMDP:
    """Drift left for 0.005, or swim against the current for 1 at the other end.

    Source: Strehl and Littman, "An analysis of model-based interval estimation for Markov decision processes", 2008,
    with the probabilities of Osband, Russo and Van Roy, "(More) efficient reinforcement learning via posterior
    sampling", 2013: 0.35 forward, 0.6 stay, 0.05 back; 0.6 both to start and to stay at the end.
    """
    whole("states", states, 2)
    left = np.eye(states, k=-1)
    left[0, 0] = 1
    right = 0.35 * np.eye(states, k=1) + 0.6 * np.eye(states) + 0.05 * np.eye(states, k=-1)
    right[0, :2] = 0.4, 0.6
    right[-1, -2:] = 0.4, 0.6
    reward = np.zeros((states, 2))
    reward[0, 0], reward[-1, 1] = 0.005, 1
    return TabularMDP(
        np.stack([left, right], 1), reward, gamma,
        initial=point(states, 0), name="river-swim", grid=(1, states), actions_named=("left", "right"),
    )  # fmt: skip


@entry
def machine_replacement(wear: int = 8, gamma: float = 0.8) -> TabularMDP:
    """A machine wears out: run it, or repair it before it breaks.

    States 0 … wear − 1 of wear, the last broken (cost 20 per step), then a short (cost 2) and a long repair (cost 10).
    Source: Delage and Mannor, "Percentile optimization for Markov decision processes with parameter uncertainty",
    Operations Research 2010, Figure 3; a cost is paid in its state.
    """
    whole("wear", wear, 2)
    short, long = wear, wear + 1
    transition, reward = np.zeros((wear + 2, 2, wear + 2)), np.zeros(wear + 2)
    for state in range(wear):
        worse = min(state + 1, wear - 1)
        for action, after, probability in [
            (0, worse, 0.8), (0, state, 0.2), (1, short, 0.6), (1, worse, 0.3), (1, long, 0.1),
        ]:  # fmt: skip
            transition[state, action, after] += probability
    transition[short, 0, [0, short]] = 0.8, 0.2
    transition[short, 1, short] = 1
    transition[long, 0, long] = 1
    transition[long, 1, [short, long]] = 0.6, 0.4
    reward[[wear - 1, short, long]] = -20, -2, -10
    return TabularMDP(
        transition, reward, gamma, initial=point(wear + 2, 0), name="machine-replacement",
        states_named=(*(f"wear {i}" for i in range(wear - 1)), "broken", "short repair", "long repair"),
        actions_named=("run", "repair"),
    )  # fmt: skip


@entry
def forest(ages: int = 3, fire: float = 0.1, gamma: float = 0.9) -> TabularMDP:
    """Let a forest grow, at the risk of fire, or cut it.

    Cutting pays 1, or 2 for the oldest; keeping the oldest pays 4. Source: the forest of Chadès et al., "MDPtoolbox",
    Ecography 2014.
    """
    whole("ages", ages, 2)
    share("fire", fire)
    transition, reward = np.zeros((ages, 2, ages)), np.zeros((ages, 2))
    for age in range(ages):
        transition[age, 0, min(age + 1, ages - 1)] = 1 - fire
        transition[age, 0, 0] += fire
        transition[age, 1, 0] = 1
    reward[1:, 1] = 1
    reward[-1] = 4, 2
    return TabularMDP(transition, reward, gamma, name="forest", actions_named=("wait", "cut"))


@entry
def inventory(
    capacity: int = 3, demand: int = 2, price: float = 8, fixed: float = 4, unit: float = 2, holding: float = 1,
    gamma: float = 0.95,
) -> TabularMDP:  # fmt: skip
    """Order stock before an uncertain demand; unmet demand is lost.

    State: units in stock, action: units ordered. Demand is binomial(`demand`, 1/2). A step earns price · sold −
    fixed · [ordered > 0] − unit · ordered − holding · stock after the order. Source: Puterman, "Markov Decision
    Processes", 1994, Sections 3.2 and 4.6.1.
    """
    whole("capacity", capacity, 1)
    whole("demand", demand, 0)
    size = capacity + 1
    wanted = np.array([math.comb(demand, k) for k in range(demand + 1)]) / 2**demand
    transition, legal = np.zeros((size, size, size)), np.zeros((size, size), bool)
    reward = np.zeros((size, size, size))
    for stock in range(size):
        for order in range(size - stock):
            full, legal[stock, order] = stock + order, True
            cost = fixed * (order > 0) + unit * order + holding * full
            reward[stock, order] = price * (full - np.arange(size)) - cost  # units no longer in stock were sold
            for units, probability in enumerate(wanted):
                transition[stock, order, max(full - units, 0)] += probability
    return TabularMDP(transition, reward, gamma, legal=legal, name="inventory")


@entry
def gambler(goal: int = 100, heads: float = 0.4, gamma: float = 1.0) -> TabularMDP:
    """Stake capital on a coin until it is lost or the goal is reached, which pays 1.

    State: capital, action: stake. Source: Sutton and Barto, "Reinforcement Learning", Example 4.3; with a coin of at
    most 1/2 bold play is best (Dubins and Savage, 1965).
    """
    whole("goal", goal, 2)
    share("heads", heads)
    stakes = goal // 2 + 1
    transition = np.zeros((goal + 1, stakes, goal + 1))
    reward, legal = np.zeros((goal + 1, stakes, goal + 1)), np.zeros((goal + 1, stakes), bool)
    reward[1:goal, :, goal] = 1
    legal[[0, goal], 0] = True
    transition[[0, goal], 0, [0, goal]] = 1
    for capital in range(1, goal):
        for stake in range(1, min(capital, goal - capital) + 1):
            legal[capital, stake] = True
            transition[capital, stake, capital + stake] = heads
            transition[capital, stake, capital - stake] += 1 - heads
    initial = point(goal + 1, goal // 2)
    return TabularMDP(transition, reward, gamma, initial=initial, legal=legal, name="gambler")


@entry
def garnet(states: int = 20, actions: int = 4, branching: int = 5, seed: int = 0, gamma: float = 0.95) -> TabularMDP:
    """A random MDP: each state-action pair leads to `branching` states.

    They are sampled without replacement, and their probabilities are the gaps between uniform cuts of [0, 1]; rewards
    of pairs are uniform on [0, 1]. Dense if that is small, sparse otherwise. Source: Archibald, McKinnon and Thomas,
    "On the generation of Markov decision processes", 1995.
    """
    whole("states", states, 1)
    whole("actions", actions, 1)
    whole("branching", branching, 1, states)
    size = f"garnet:{states},{actions},{branching}"
    check_memory(8 * states * actions * branching * 6, size, "Give fewer states, actions or branches.")
    generator, shape = numpy_stream(check_seed(seed), "garnet"), (states * actions, branching)
    chosen = np.full(shape, -1)
    for place in range(branching):  # a sample without replacement in `branching` draws (Floyd, 1987)
        last = states - branching + place
        draw = generator.integers(0, last + 1, shape[0])
        chosen[:, place] = np.where((chosen[:, :place] == draw[:, None]).any(1), last, draw)
    cuts = np.sort(generator.random((shape[0], branching - 1)), axis=1)
    probability = np.diff(cuts, prepend=0, append=1, axis=1)
    wide = (states, actions, branching)
    kernel = Successors(torch.from_numpy(chosen.reshape(wide)), torch.from_numpy(probability.reshape(wide)))
    return TabularMDP(kernel_of(kernel), generator.random((states, actions)), gamma, name=size)

"""The search for the world that is worst for a policy: black-box, by the returns of single episodes.

Worlds are points of [−1, 1]^k, the box of parameters scaled. All episodes of a search begin from one seed, so that
they differ by their worlds alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from surefoot.errors import UsageError

Points = NDArray[np.float64]
LONGEST_EPISODE = 100_000


class Played(NamedTuple):
    """What an episode in each of several worlds `[n, k]` paid, and how many steps all took together."""

    worlds: Points
    total: Points
    discounted: Points
    steps: int

    @property
    def worst(self) -> int:
        """The episode with the lowest return."""
        return int(self.total.argmin())


def played(envs: VectorEnv, agent: Any, worlds: Points, seed: int, gamma: float) -> Played:
    """One episode of an agent's likeliest actions in each of the worlds `[n, k]`.

    Raises:
        UsageError: an episode does not end.
    """
    parts = [_batch(envs, agent, part, seed, gamma) for part in _filled(worlds, envs.num_envs)]
    total, discounted = (np.concatenate([part[i] for part in parts])[: len(worlds)] for i in (0, 1))
    return Played(worlds, total, discounted, sum(part[2] for part in parts))


def _filled(worlds: Points, rows: int) -> list[Points]:
    """The worlds in batches of as many rows; the last one is filled up with copies."""
    starts = range(0, len(worlds), rows)
    return [worlds[np.minimum(np.arange(first, first + rows), len(worlds) - 1)] for first in starts]


def _batch(envs: VectorEnv, agent: Any, worlds: Points, seed: int, gamma: float) -> tuple[Points, Points, int]:
    observation, n = envs.reset(seed=[seed] * envs.num_envs)[0], envs.num_envs  # type: ignore[arg-type]
    running, starts, state, factor, steps = np.ones(n, bool), np.ones(n, bool), None, 1.0, 0
    total, discounted = np.zeros((2, n))
    for _ in range(LONGEST_EPISODE):
        action, state = agent.predict(observation["state"], state, starts, deterministic=True)
        joint = np.concatenate([action.reshape(n, -1), worlds], 1).astype(np.float32)
        observation, reward, terminated, truncated, _ = envs.step(joint)
        total += running * reward
        discounted += factor * running * reward
        steps, factor, starts = steps + int(running.sum()), factor * gamma, np.zeros(n, bool)
        running &= ~(terminated | truncated)
        if not running.any():
            return total, discounted, steps
    raise UsageError(
        f"an episode has not ended after {LONGEST_EPISODE:,} steps, so that no worst world can be found; give a time "
        "limit, such as wrappers=['time_limit:steps=1000']."
    )


# --- searches of the box [0, 1]^k for the lowest fitness, a function of points [n, k] ---------------------------------

Fitness = Callable[[Points], Points]


def worst(play: Callable[[Points], Played], look: Callable[[Fitness], Any]) -> Played:
    """The one episode with the lowest return of all that `look` asks for, with the steps of all."""
    found: list[Played] = []

    def returns(points: Points) -> Points:
        found.append(play(2.0 * points - 1.0))
        return found[-1].total

    look(returns)
    low = min(found, key=lambda one: one.total.min())
    place = slice(low.worst, low.worst + 1)
    return Played(low.worlds[place], low.total[place], low.discounted[place], sum(one.steps for one in found))


def grid(points: int, dimensions: int) -> Points:
    """The grid of the suite `[points^k, k]`: i/points for i = 0 … points − 1 in every dimension."""
    axis = np.arange(points) / points
    return np.array(list(itertools.product(axis, repeat=dimensions)))


def cma_es(
    fitness: Fitness,
    dimensions: int,
    generator: np.random.Generator,
    *,
    population: int = 100,
    generations: int = 6,
    mean: float = 0.5,
    deviation: float = 0.5,
) -> Points:
    """Covariance matrix adaptation, with the constants of Hansen's tutorial (arXiv:1604.00772); points outside the box
    are moved to its boundary. Returns the last mean, `[k]`."""
    n, parents = dimensions, population // 2
    raw = np.log((population + 1) / 2) - np.log(np.arange(1, parents + 1))
    weights = raw / raw.sum()
    mass = 1 / (weights**2).sum()  # μ_eff
    c_sigma = (mass + 2) / (n + mass + 5)
    d_sigma = 1 + 2 * max(0.0, np.sqrt((mass - 1) / (n + 1)) - 1) + c_sigma
    c_c = (4 + mass / n) / (n + 4 + 2 * mass / n)
    c_1 = 2 / ((n + 1.3) ** 2 + mass)
    c_mu = min(1 - c_1, 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
    usual = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))  # E‖N(0, 1)‖
    middle, covariance, sigma = np.full(n, mean), np.eye(n), deviation
    path_sigma, path_c = np.zeros((2, n))
    for generation in range(1, generations + 1):
        scales, basis = np.linalg.eigh(covariance)
        root = basis * np.sqrt(scales.clip(min=1e-20))  # covariance = root·rootᵀ
        points = np.clip(middle + sigma * generator.standard_normal((population, n)) @ root.T, 0.0, 1.0)
        best = points[np.argsort(fitness(points), kind="stable")[:parents]]
        moves = (best - middle) / sigma
        move = weights @ moves
        middle = middle + sigma * move
        whitened = basis @ ((basis.T @ move) / np.sqrt(scales.clip(min=1e-20)))
        path_sigma = (1 - c_sigma) * path_sigma + np.sqrt(c_sigma * (2 - c_sigma) * mass) * whitened
        length = np.linalg.norm(path_sigma)
        steady = length / np.sqrt(1 - (1 - c_sigma) ** (2 * generation)) < (1.4 + 2 / (n + 1)) * usual
        path_c = (1 - c_c) * path_c + steady * np.sqrt(c_c * (2 - c_c) * mass) * move
        stalled = (1 - steady) * c_c * (2 - c_c)
        covariance = (1 - c_1 - c_mu) * covariance + c_1 * (np.outer(path_c, path_c) + stalled * covariance)
        covariance = covariance + c_mu * (weights[:, None] * moves).T @ moves
        sigma *= np.exp(min(1.0, c_sigma / d_sigma * (length / usual - 1)))
    return middle

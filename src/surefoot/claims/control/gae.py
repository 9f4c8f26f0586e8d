"""The claim of GAE: exactly known bias on a random walk, and λ in learning on CartPole.

The walk has 11 states; left and right are equally likely, leaving it on the right pays 1, on the left 0. In the middle,
the difference between the advantages of going right and of going left is known. The critic is the true value shrunk by
40 % towards its mean, so that λ < 1 is biased.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from surefoot.claims.claim import Claim, Estimate, Measurements, Verdict, area, difference, estimate, train_rows
from surefoot.methods.control.trpo import TRPO
from surefoot.seeding import numpy_stream

STATES, GAMMA, SHRINK = 11, 0.99, 0.6
WALK_LAMBDAS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 1.0)
ROLLOUTS, FEW, MANY = 5000, 64, 256
CARTPOLE_LAMBDAS, CARTPOLE_STEPS = (0.0, 0.9, 0.95, 1.0), 60_000


def true_values() -> np.ndarray:
    """Values of the states under the even walk, with a 0 on either side for the exits."""
    steps = 0.5 * (np.eye(STATES, k=1) + np.eye(STATES, k=-1))
    reward = np.zeros(STATES)
    reward[-1] = 0.5
    return np.pad(np.linalg.solve(np.eye(STATES) - GAMMA * steps, reward), 1)


def advantages(critic: np.ndarray, first: int, rollouts: int, generator: np.random.Generator) -> np.ndarray:
    """GAE of the first step `[λ, rollouts]` of walks from the middle whose first move is ±1."""
    decay = GAMMA * np.array(WALK_LAMBDAS)
    total, weight = np.zeros((len(decay), rollouts)), np.ones(len(decay))
    position = np.full(rollouts, STATES // 2 + 1)
    move = np.full(rollouts, first)
    while (inside := (position > 0) & (position <= STATES)).any():
        following = np.where(inside, position + move, position)
        errors = (following == STATES + 1) + GAMMA * critic[following] - critic[position]
        total += weight[:, None] * np.where(inside, errors, 0.0)
        position, weight, move = following, weight * decay, generator.choice([-1, 1], rollouts)
    return total


def walk(seed: int) -> dict[str, list[float]]:
    """Bias of the estimated difference and the deviation of one pair of rollouts, for each λ."""
    values = true_values()
    critic, middle = values.copy(), STATES // 2 + 1
    critic[1:-1] = SHRINK * values[1:-1] + (1 - SHRINK) * values[1:-1].mean()
    generator = numpy_stream(seed, "random walk")
    right, left = (advantages(critic, first, ROLLOUTS, generator) for first in (1, -1))
    truth = GAMMA * (values[middle + 1] - values[middle - 1])
    bias = right.mean(1) - left.mean(1) - truth
    return {"bias": bias.tolist(), "deviation": np.sqrt(right.var(1) + left.var(1)).tolist()}


def measure(seeds: Sequence[int]) -> Measurements:
    walks = [walk(seed) for seed in seeds]
    found: dict[str, Any] = {"walk": {name: [one[name] for one in walks] for name in ("bias", "deviation")}}
    found["area"] = {
        f"{lam:g}": area(train_rows(TRPO(lam=lam), "CartPole-v1", CARTPOLE_STEPS, seeds)) for lam in CARTPOLE_LAMBDAS
    }
    return found


def rmse(found: Measurements, rollouts: int) -> np.ndarray:
    """Root mean squared error `[seeds, λ]` of the difference estimated from that many pairs of rollouts."""
    bias, deviation = (np.array(found["walk"][name]) for name in ("bias", "deviation"))
    return np.sqrt(bias**2 + deviation**2 / rollouts)


def judge(found: Measurements) -> tuple[Verdict, dict[str, Estimate]]:
    few, many = rmse(found, FEW), rmse(found, MANY)
    best_few, best_many = int(few.mean(0).argmin()), int(many.mean(0).argmin())
    areas = {lam: np.array(scores) for lam, scores in found["area"].items()}
    middle, extreme = [areas["0.9"], areas["0.95"]], [areas["0"], areas["1"]]
    estimates = {
        "error at λ=0 less that at the best λ": difference(few[:, 0].tolist(), few[:, best_few].tolist()),
        "error at λ=1 less that at the best λ": difference(few[:, -1].tolist(), few[:, best_few].tolist()),
        f"best λ, {FEW} rollouts": estimate([WALK_LAMBDAS[i] for i in few.argmin(1)]),
        f"best λ, {MANY} rollouts": estimate([WALK_LAMBDAS[i] for i in many.argmin(1)]),
        **{f"CartPole area, λ={lam}": estimate(scores.tolist()) for lam, scores in areas.items()},
    }
    bias = np.array(found["walk"]["bias"])[:, -1]
    error = np.sqrt(np.mean(np.array(found["walk"]["deviation"])[:, -1] ** 2) / (ROLLOUTS * len(bias)))
    steps = np.diff(few.mean(0))
    pooled = np.sqrt(np.mean([a.var(ddof=min(1, len(a) - 1)) / len(a) for a in areas.values()]))
    monotone = bool((steps >= 0).all() or (steps <= 0).all())
    beaten = any(e.mean() > max(m.mean() for m in middle) + pooled for e in extreme)
    if monotone or abs(bias.mean()) > 2 * error or beaten:
        return "refuted", estimates
    interior = 0 < best_few < len(WALK_LAMBDAS) - 1 and best_many >= best_few
    better = min(m.mean() for m in middle) >= max(e.mean() for e in extreme)
    return "shown" if interior and better else "not shown", estimates


CLAIM = Claim(
    slug="gae",
    sentence="A mixture λ strictly between 0 and 1 estimates advantages better, and learns faster, than the TD error "
    "(λ = 0) and than the Monte-Carlo return (λ = 1).",
    baseline="λ = 0 and λ = 1, all else equal",
    metric="Root mean squared error of a known difference of advantages on a random walk with a biased critic, from 64 "
    "and 256 pairs of rollouts (bias and deviation from 5,000 pairs a seed); mean training return of TRPO over 60,000 "
    "steps of CartPole-v1",
    supported_by="the error from 64 pairs is lowest at a λ inside (0, 1), from 256 at the same or a higher λ, and on "
    "CartPole both λ = 0.9 and 0.95 reach at least the area of both extremes",
    refuted_by="the error from 64 pairs is monotone in λ, or the bias at λ = 1 is more than 2 standard errors from 0, "
    "or on CartPole an extreme beats both middle values by more than the pooled standard error",
    measure=measure,
    judge=judge,
)

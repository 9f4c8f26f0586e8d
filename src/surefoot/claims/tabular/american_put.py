"""The American put of R2PVI's Figures 1d and 2: returns where prices rise or fall, and processor seconds of a fit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.claims.parts import Measurements, Summary
from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.linear import put_from
from surefoot.loops.tabular.gradient import evaluate
from surefoot.methods.tabular.r2pvi import R2PVI
from surefoot.seeding import torch_stream

# --- Figure 1d: the American put -----------------------------------------------------------------------------------

RISES = (0.2, 0.4, 0.6, 0.8, 1.0)
TEST_PRICE, RELEASED_PRICES = 99.17022, (100.48814, 99.17022, 99.35995)  # of numpy's seeds 1; 0, 1, 2
PUT: dict[str, Any] = {"beta": 0.1, "ridge": 1.0, "data_action": 0, "known_ends": False}
PUT_ARMS = {
    "PEVI": R2PVI(ambiguity=None, pessimism="elliptical", **PUT),
    "λ=5": R2PVI("tv-penalty:5", **PUT),
    "λ=3": R2PVI("tv-penalty:3", **PUT),
    "λ=1": R2PVI("tv-penalty:1", **PUT),
}
FIGURE_1D = {
    "PEVI": (6.279, 5.020, 2.199, 0.295, 0.0),
    "λ=5": (4.769, 4.319, 2.211, 0.572, 0.0),
    "λ=3": (3.798, 3.304, 2.121, 0.870, 0.0),
    "λ=1": (1.407, 1.318, 1.140, 0.877, 0.553),
}


def put(data_price: float, up: float, first: int) -> TabularMDP:
    """The put from the price of the data (first = 0) or from that of the tests (1): one set of states for both."""
    mdp = put_from(torch.tensor([data_price, TEST_PRICE]), up)
    initial = torch.zeros_like(mdp.initial)
    initial[first * 21] = 1
    return dataclasses.replace(mdp, initial=initial)


def figure_1d(arm: str, seeds: Sequence[int]) -> list[list[float]]:
    """The exact return for every probability of a rise, a row a seed: each draws the price that its data start from."""
    method, rows = PUT_ARMS[arm], []
    for seed in seeds:
        price = 95 + 10 * float(torch.rand((), generator=torch_stream(seed, "first price"), dtype=torch.float64))
        nominal = put(price, 0.5, 0)
        policy = method.policy(nominal, method.step(nominal, method.start(nominal, seed), seed, 0)[0])
        worlds = [put(price, up, 1) for up in RISES]
        rows.append([float(world.initial @ evaluate(world, policy).value[0]) for world in worlds])
    return rows


def of_put(found: Measurements) -> Summary:
    series = {}
    for arm, row in FIGURE_1D.items():
        table = np.array(found[arm])
        series |= {f"{arm}, p={up:g}": table[:, i] for i, up in enumerate(RISES)}
        series[f"put, {arm}, less the figure"] = (table - np.array(row)).mean(1)
    return series


def released_draws(seeds: Sequence[int]) -> dict[str, list[float]]:
    """Every row of the figure from the random numbers of the released code, which are the same for all replications: one
    set of 100 data paths, and one of 100 test paths."""
    moves = np.random.RandomState(1).random_sample((100, 20)) < 0.5
    seen = torch.from_numpy(np.concatenate([np.zeros((100, 1), int), moves.cumsum(1)], 1))
    found = {}
    for arm, method in PUT_ARMS.items():
        rows = []
        for price in RELEASED_PRICES:
            nominal = put(price, 0.5, 0)
            state = method.start(nominal, 0) | {"states": seen[:, :-1], "next_states": seen[:, 1:]}
            sells = method.policy(nominal, method.step(nominal, state, 0, 0)[0])[..., 1] > 0.5
            rows.append([_tested(sells[:, 21:], nominal.reward[:, 21:, 1], up) for up in RISES])
        found[arm] = np.mean(rows, 0).tolist()
    return found


def _tested(sells: Tensor, gain: Tensor, up: float) -> float:
    """The mean gain over the released code's test paths; having sold, it goes on drawing a number a step."""
    draws, total = np.random.RandomState(1), 0.0
    draws.uniform()  # the first price
    for _ in range(100):
        rises, sold = 0, False
        for h in range(20):
            if not sold and bool(sells[h, rises]):
                total, sold = total + float(gain[h, rises]), True
            else:
                rises += int(draws.random_sample() < up and not sold)
    return total / 100


def of_released(found: Measurements) -> Summary:
    errors = [np.abs(np.array(found["rows"][arm]) - row).max() for arm, row in FIGURE_1D.items()]
    return {"largest difference from the figure": float(max(errors))}


# --- Figure 2: seconds a fit ---------------------------------------------------------------------------------------

TIMED = {
    "PEVI": R2PVI(ambiguity=None, pessimism="elliptical", episodes=1000, **PUT),
    "TV": R2PVI("tv-penalty:3", episodes=1000, **PUT),
    "KL": R2PVI("kl-penalty:3", episodes=1000, **PUT),
    "TV ball": R2PVI("tv:0.1", episodes=1000, **PUT),
    "KL ball": R2PVI("kl:0.1", episodes=1000, **PUT),
}


def seconds(dimension: int, seeds: Sequence[int]) -> dict[str, list[float]]:
    """Processor seconds of a fit on 1000 paths, the least of three, a number a seed."""
    mdp, found = put_from(torch.tensor([TEST_PRICE]), 0.5, dimension=dimension), dict[str, list[float]]()
    for seed in seeds:
        for arm, method in TIMED.items():
            state, taken = method.start(mdp, seed), []
            for _ in range(3):
                began = time.process_time()
                method.backward(mdp, method.sums(mdp, state))
                taken.append(time.process_time() - began)
            found.setdefault(arm, []).append(min(taken))
    return found


def of_times(found: Measurements) -> Summary:
    return {f"{arm}, d={d}": times for d in (30, 60, 120) for arm, times in found[f"d={d}"].items()}

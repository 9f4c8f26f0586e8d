"""Policies measured without disturbance, against an adversary trained afresh against each, and over a sweep of physics."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.claims.parts import Measurements, Summary
from surefoot.evaluate.adversary import trained
from surefoot.evaluate.stress import stress
from surefoot.loops.common.run import make_learner


def measured(
    method: Any, env: str, steps: int, attack: str, budget: int, sweep: str, points: int, seeds: Sequence[int]
) -> dict[str, list[float]]:
    """Each seed's final policy after `steps` steps: its return without disturbance and under `attack` by an adversary that
    was trained for `budget` steps (10 episodes each), and the mean and the least over `points` values of a sweep of physics
    (3 episodes each)."""
    learner = make_learner(method, env, list(seeds), steps)
    found: dict[str, list[float]] = {name: [] for name in ("nominal", "attacked", "mean", "least")}
    try:
        while learner.steps < steps:
            learner.iterate()
        for index, seed in enumerate(seeds):
            agent = learner.agent(index)
            with tempfile.TemporaryDirectory() as folder:
                driven = trained(agent, env, attack, budget, Path(folder), seed=seed)
                attacked = stress(agent, env, driven, episodes=10, points=2)
            physics = stress(agent, env, sweep, episodes=3, points=points)
            found["nominal"].append(attacked.nominal)
            found["attacked"].append(float(attacked.cell_means[-1]))
            found["mean"].append(physics.mean)
            found["least"].append(physics.worst)
    finally:
        learner.close()
    return found


def series(found: Measurements) -> Summary:
    """The measurements by "name, arm"."""
    return {f"{name}, {arm}": values for arm, facts in found.items() for name, values in facts.items()}


def room(arm: str, summary: Summary) -> bool:
    """Whether an arm has a mean return of at least 200, of which its adversary takes a tenth or more."""
    nominal, attacked = (float(np.mean(summary[f"{name}, {arm}"])) for name in ("nominal", "attacked"))
    return nominal >= 200 and attacked <= 0.9 * nominal

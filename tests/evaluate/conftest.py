from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surefoot.evaluate.stress import StressReport


@pytest.fixture(scope="session")
def made_up_run() -> Callable[..., Path]:
    """Makes a run's folder without training."""
    return make_run


def make_run(folder: Path, *, seeds: int = 3, iterations: int = 50) -> Path:
    """A run as training leaves it: the return climbs to 3000, seed by seed 100 apart."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "format": "surefoot-run-1",
        "method": "spo",
        "env": {"env": "Hopper-v5", "backend": "auto"},
        "objective": "E[ ρÂ − |Â|(ρ−1)²/(2·0.2) ]",
        "hyperparameters": {"gamma": 0.99, "hidden": [64, 64], "note": "<script>alert(1)</script>"},
        "versions": {"torch": "2.13.0"},
        "command": "surefoot train spo --env Hopper-v5 --note a&b",
    }
    (folder / "config.json").write_text(json.dumps(config))
    rows = []
    for i in range(iterations):
        for seed in range(seeds):
            row = {
                "step": 4000 * (i + 1),
                "seed": seed,
                "kl": 0.01 + 0.001 * (i % 5),
                "explained_variance": i / iterations,
            }
            if i:  # no episode has ended in the first iteration
                row["return_mean"] = 2900 * (1 - 0.9**i) + 100 * seed
            rows.append(row)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    grid = np.array([[friction, mass] for friction in (0.1, 1.5, 3.0) for mass in (0.1, 1.5, 3.0)])
    stress = StressReport(
        policy="Agent",
        env="Hopper-v5",
        perturbation="param:friction=0.1..3,torsomass=0.1..3",
        grid="closed",
        axes=("friction", "torsomass"),
        coordinates=grid,
        returns=np.array([[100 * row - 1, 100 * row + 1] for row in range(9)], dtype=float),
        nominal_returns=np.array([2999.0, 3001.0]),
        seeds=(0, 1),
    )
    (folder / "stress-rrls-2d.json").write_text(stress.to_json())
    (folder / "evaluation.json").write_text(json.dumps({"episodes": 10, "return": {"mean": 2987.654, "cvar": 1200.5}}))
    return folder

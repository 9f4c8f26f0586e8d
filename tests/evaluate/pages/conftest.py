"""One page of every kind, made without training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from surefoot.claims import records
from surefoot.envs.tabular import resolve
from surefoot.evaluate import solutions
from surefoot.evaluate.compare import Comparison
from surefoot.evaluate.pages import solution as solution_page
from surefoot.evaluate.pages.folder import report as write_page
from surefoot.evaluate.stress import StressReport
from surefoot.evaluate.sweeps import price_of_robustness
from surefoot.solvers import solve

SEEDS, STEPS = 5, 40


def run(folder: Path, *, method="ppo", env="CartPole-v1") -> Path:
    """A run of three seeds with an evaluation, a stress test over one and one over two dimensions, and films."""
    folder.mkdir(parents=True)
    config = {
        "format": "surefoot-run-1",
        "method": method,
        "env": {"env": env, "backend": "envpool", "env_kwargs": {}, "wrappers": [], "device": "cpu"},
        "objective": "maximise mean[ min(ρÂ, clip(ρ, 0.8, 1.2)Â) ]\n  with ρ = π/π_old",
        "hyperparameters": {"gamma": 0.98, "hidden": [64, 64], "clip": 0.2, "num_envs": 16},
        "steps": 80_000,
        "seeds": [0, 1, 2],
        "threads": 1,
        "evaluate_every": 20_000,
        "versions": {"python": "3.12.1", "torch": "2.13.0"},
        "machine": {"system": "Linux x86_64", "processor": "A processor with a long name @ 2.50GHz", "cores": 8},
        "command": "surefoot train ppo --env CartPole-v1",
    }
    (folder / "config.json").write_text(json.dumps(config))
    drawn, rows = np.random.default_rng(0), []
    for i in range(STEPS):
        for seed in range(3):
            climbed = 480 * (1 - np.exp(-(i + 1) / (8 + 3 * seed))) + drawn.normal(0, 12)
            row = {"iteration": i + 1, "step": 2000 * (i + 1), "seed": seed, "episodes": 9 * (i + 1), "return": climbed}
            row |= {"length_mean": climbed, "kl": 0.01 * drawn.random(), "clip_fraction": 0.1 * drawn.random()}
            row |= {"explained_variance": 1 - 0.9**i, "entropy": 0.69 - 0.01 * i, "grad_norm": 1e-3 + 1e3 * 0.8**i}
            row |= {"truncated_share": 0.0, "steps_per_second": 5200.0, "time": 1.79e9 + 3 * i}
            rows.append(row | ({"evaluation_mean": min(500.0, climbed + 60)} if i % 10 == 9 else {}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    returns = [500.0] * 14 + [431.0, 380.0, 287.0, 496.0, 500.0, 122.0]
    figures = {"env": env, "episodes": 20, "seed": 0, "deterministic": True, "returns": returns, "lengths": returns}
    figures |= {"mean": float(np.mean(returns)), "mean_interval": [400.1, 490.2], "min": 122.0, "max": 500.0}
    (folder / "evaluation.json").write_text(json.dumps(figures))
    other = {**figures, "perturb": "observation-noise:0.1", "mean": 300.0, "mean_interval": [250.0, 350.0]}
    (folder / "evaluation-observation-noise-0.1.json").write_text(
        json.dumps({**other, "returns": [300.0, 200.0, 400.0]})
    )
    (folder / "stress-param-length.json").write_text(stress(1).to_json())
    (folder / "stress-param-length-gravity.json").write_text(stress(2).to_json())
    for name in ("nominal", "worst"):
        film(folder / f"stress-param-length-{name}.mp4", dark=name == "worst")
    return folder


def stress(dimensions: int) -> StressReport:
    """Longer poles and less gravity are harder."""
    axes = [np.linspace(0.25, 2, 8), np.linspace(5, 15, 7)][:dimensions]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dimensions)
    drawn = np.random.default_rng(1)
    mean = 500 - 120 * (grid[:, 0] - 0.5) ** 2 - (0.8 * (grid[:, 1] - 9.8) ** 2 if dimensions > 1 else 0)
    names, units = ("length", "gravity")[:dimensions], ("× nominal", "m/s²")[:dimensions]
    return StressReport(
        policy="ppo (seed 0)",
        env="CartPole-v1",
        perturbation="param:length=0.25..2" + (",gravity=5..15" if dimensions > 1 else ""),
        grid="closed",
        axes=names,
        coordinates=grid,
        returns=mean[:, None] + drawn.normal(0, 25, (len(grid), 6)),
        nominal_returns=500 + drawn.normal(0, 10, 6),
        seeds=tuple(range(6)),
        nominal_point=(0.5, 9.8)[:dimensions],
        units=units,
    )


def film(path: Path, *, dark: bool) -> None:
    """A square that moves over a ground."""
    import imageio.v2 as imageio

    with imageio.get_writer(path, fps=20, macro_block_size=2) as writer:
        for i in range(30):
            frame = np.full((96, 128, 3), 40 if dark else 230, np.uint8)
            frame[40:60, 3 * i : 3 * i + 20] = (213, 94, 0)
            writer.append_data(frame)


def language(folder: Path) -> Path:
    """A run of a language model with two components of the reward."""
    folder.mkdir(parents=True)
    config = {
        "format": "surefoot-run-1",
        "method": "grpo",
        "env": {"env": "arithmetic:digits=2", "model": "nano", "engine": "own"},
        "objective": "maximise mean over tokens",
        "hyperparameters": {"samples": 8, "max_tokens": 32},
        "steps": 60,
        "seeds": [0],
        "versions": {"torch": "2.13.0"},
        "command": "surefoot train grpo --task arithmetic:digits=2",
    }
    (folder / "config.json").write_text(json.dumps(config))
    rows, drawn = [], np.random.default_rng(2)
    for i in range(60):
        row = {"iteration": i + 1, "step": i + 1, "seed": 0, "return_mean": i / 60 + 0.05 * drawn.random()}
        row |= {"reward/correct": i / 60, "reward/brief": 0.5, "length": 30 - i / 3, "truncated": 0.6 * 0.9**i}
        row |= {"kl": 0.001 * i, "entropy": 2 * 0.97**i, "degenerate": 0.2, "grad_norm": 1.0 + 0.1 * drawn.random()}
        row |= {"time": 1.79e9 + i, "steps_per_second": 1.0 + 0.1 * drawn.random()}
        row |= {"sample/prompt": "12 + 34 = ", "sample/completion": "46" if i > 30 else "<b>4</b> is 7 and …"}
        rows.append(row | {"sample/reward": float(i > 30)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = {"task": "arithmetic:digits=2", "judge": "its verifier", "examples": 64, "seed": 0, "accuracy": 0.75}
    figures |= {"accuracy_interval": [0.63, 0.85], "pass_at": {"1": 0.7, "4": 0.9}, "table": "…", "reward": 0.71}
    figures |= {
        "pass_at_interval": {"1": [0.6, 0.8], "4": [0.8, 0.95]},
        "length": 8.5,
        "truncated": 0.01,
        "entropy": 0.4,
    }
    figures |= {"samples": [{"prompt": "1 + 1 = ", "completion": "2", "reward": 1.0}]}
    (folder / "evaluation.json").write_text(json.dumps(figures))
    return folder


def comparison(envs=("CartPole-v1", "Acrobot-v1")) -> Comparison:
    """Three learners on two environments, one with negative returns."""
    drawn, scores, areas, curves = np.random.default_rng(3), {}, {}, {}
    at = np.arange(1, 51) * 2000.0
    for i, name in enumerate(("ppo", "spo", "trust-region-with-a-long-name")):
        ends = np.array([300.0 + 60 * i, -120.0 + 10 * i]) + drawn.normal(0, 20, (SEEDS, 2))
        scores[name], areas[name] = ends[:, : len(envs)], 0.7 * ends[:, : len(envs)]
        shape = 1 - np.exp(-at / 30_000)
        curves[name] = {env: (at, ends[:, [j]] - 200 * (1 - shape)) for j, env in enumerate(envs)}
    return Comparison(
        tuple(envs),
        tuple(range(SEEDS)),
        scores,
        areas,
        curves=curves,
        command="surefoot compare ppo spo --env CartPole-v1",
    )


def solution(folder: Path) -> Path:
    """The frozen lake against a set around every row."""
    mdp = resolve("gym:FrozenLake-v1", gamma=0.99)
    solved = solve(mdp, "l1:0.1,support=nominal")
    solutions.save(mdp, solved, folder)
    about = solution_page.Solved("gym:FrozenLake-v1", "l1:0.1,support=nominal", command="surefoot solve …")
    solution_page.write(folder, mdp, solved, about)
    return folder


def sweep(folder: Path) -> Path:
    found = price_of_robustness(resolve("trap"), "kl:0..0.4", 5)
    dataclasses.replace(found, command="surefoot solve trap --ambiguity kl:0..0.4").save(folder)
    return folder


def claim(folder: Path) -> Path:
    """The records that the package has, in a folder of their own."""
    import shutil

    slug = next(slug for slug in records.claimed() if any((records.SHIPPED / slug).glob("*/*.json")))
    shutil.copytree(records.SHIPPED / slug, folder / slug)
    return folder / slug


def audit(folder: Path) -> Path:
    from surefoot.evaluate.audit import audit as audited

    def balance(observation):
        return (observation[:, 2] + observation[:, 3] > 0).astype(int)

    audited(balance, "CartPole-v1", families=["physics", "timing"], points=2, episodes=2).save(folder)
    return folder


def made(folder: Path, kind: str) -> Path:
    """The page of a kind."""
    place = folder / kind
    if kind == "comparison":
        place.mkdir(parents=True)
        comparison().save(place)
    elif kind in ("stress-1", "stress-2"):
        place.mkdir(parents=True)
        place = place / f"stress-{kind}.json"
        place.write_text(stress(int(kind[-1])).to_json())
    else:
        place = MAKERS[kind](place)
    return write_page(place)


MAKERS = {
    "run": run, "language": language, "solution": solution, "sweep": sweep, "claim": claim, "audit": audit
}  # fmt: skip


@pytest.fixture(scope="session")
def page_of(tmp_path_factory):
    """The page of a kind, made once."""
    folder, found = tmp_path_factory.mktemp("pages"), {}

    def page(kind: str) -> Path:
        if kind not in found:
            found[kind] = made(folder, kind)
        return found[kind]

    return page

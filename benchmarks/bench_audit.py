"""How long an audit takes: the whole battery on a Hopper policy, and beside deltatau-audit on one of Stable-Baselines3.

    python benchmarks/bench_audit.py whole --run RUN --workers 2
    python benchmarks/bench_audit.py peer --model model.zip --env Hopper-v5 --peer PEER/bin/python

`whole` measures `surefoot audit` from start to end, as a user waits for it (goal: three minutes on two cores).
`peer` plays nominal, a five times slower loop, jitter of 2 ± 1 steps, an observation one step late and noise of 0.1 on
sensors, all that both have, with the same number of episodes, in turn on one thread (goal: five times as fast). The
episodes have other seeds, hence other lengths, so the steps of both are shown. PEER is an environment with
`pip install deltatau-audit stable-baselines3`. Without --model, one is trained for --train steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from peer_sb3 import store

OURS = {  # their scenario: our cell of one strength
    "speed_5x": "speed:5..5",
    "jitter": "speed-jitter:2..2",
    "delay": "observation-delay:1..1",
    "obs_noise": "observation-noise:0.1..0.1",
}


def whole(arguments: argparse.Namespace) -> dict[str, Any]:
    """One audit in a process of its own, with its workers: seconds on the clock."""
    command = [sys.executable, "-m", "surefoot.cli", "audit", str(arguments.run), "--format", "json"]
    began = time.perf_counter()
    done = subprocess.run([*command, "--workers", str(arguments.workers)], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    found = json.loads(done.stdout)
    counted = {"cells": len(found["cells"]), "episodes": len(found["seeds"]), "steps": found["steps"]}
    return {"env": found["env"], "seconds": seconds, **counted}


def ours(path: Path, env: str, episodes: int) -> dict[str, Any]:
    """Our audit of the shared scenarios."""
    import surefoot as sf

    began, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = sf.audit(path, env, battery={"shared": list(OURS.values())}, episodes=episodes, points=2)
    took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "steps": report.steps}
    means = dict(zip(OURS, report.returns.mean(1).tolist(), strict=True))
    return {**took, "means": {"nominal": float(report.nominal_returns.mean()), **means}}


def theirs(python: str, path: Path, env: str, episodes: int) -> dict[str, Any]:
    script = Path(__file__).with_name("peer_deltatau.py")
    done = subprocess.run([python, script, path, env, str(episodes)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peer(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both in turn; the ratio of the medians."""
    import torch

    torch.set_num_threads(1)
    place = arguments.env, arguments.episodes
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.model or _trained(arguments.env, arguments.train, Path(folder) / "model.zip")
        ours(path, arguments.env, 2)  # what is imported on demand is imported
        pairs = [(ours(path, *place), theirs(arguments.peer, path, *place)) for _ in range(arguments.repetitions)]
    found: dict[str, Any] = {"env": arguments.env, "episodes": arguments.episodes}
    for name, rows in zip(("ours", "theirs"), zip(*pairs, strict=True)):
        medians = {key: statistics.median(row[key] for row in rows) for key in ("seconds", "cpu")}
        found[name] = {**medians, "steps": rows[0]["steps"], "means": rows[0]["means"], "all": list(rows)}
    found["ratio"] = {key: found["theirs"][key] / found["ours"][key] for key in ("seconds", "cpu")}
    return found


def _trained(env: str, steps: int, path: Path) -> Path:
    from stable_baselines3 import PPO

    PPO("MlpPolicy", env, seed=0, device="cpu").learn(steps).save(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("whole")
    one.add_argument("--run", type=Path, required=True)
    one.add_argument("--workers", type=int, default=2)
    one = commands.add_parser("peer")
    one.add_argument("--model", type=Path)
    one.add_argument("--env", default="Hopper-v5")
    one.add_argument("--train", type=int, default=100_000)
    one.add_argument("--episodes", type=int, default=20)
    one.add_argument("--repetitions", type=int, default=3)
    one.add_argument("--peer", default=sys.executable)
    arguments = parser.parse_args()
    found = {"whole": whole, "peer": peer}[arguments.command](arguments)
    print(json.dumps({k: v for k, v in found.items() if k not in ("ours", "theirs")}, indent=2))
    for name in ("ours", "theirs"):
        if name in found:
            print(name, {k: v for k, v in found[name].items() if k != "all"})
    store(f"audit_{arguments.command}", found)


if __name__ == "__main__":
    main()

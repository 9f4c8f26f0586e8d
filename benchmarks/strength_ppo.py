"""Strength: PPO against Stable-Baselines3's with the same hyperparameters and normalisation, several seeds each.

    python benchmarks/strength_ppo.py [--steps 300000] [--seeds 5] [--envs Hopper-v5,HalfCheetah-v5]

The score of a run, fixed beforehand: mean return of the training episodes that end in the last tenth of its steps.
Seeds whose scores of runs as long are stored are not run again: the same command takes up a broken-off run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from peer_sb3 import OURS, RESULTS, pin, sb3, store


def ours(env: str, steps: int, seeds: range) -> Iterator[float]:
    from surefoot.loops.common.run import make_learner
    from surefoot.methods.control.ppo import PPO

    learner = make_learner(PPO(**OURS), env, list(seeds), steps, compile="on")
    returns: list[list[float]] = [[] for _ in seeds]
    before = [0 for _ in seeds]
    while learner.steps < steps:
        for index, row in enumerate(learner.iterate()):
            ended = int(row["episodes"]) - before[index]
            before[index] = int(row["episodes"])
            if learner.steps > 0.9 * steps and ended:
                returns[index] += [row["return"]] * ended
    learner.close()
    yield from (float(np.mean(r)) for r in returns)


def theirs(env: str, steps: int, seeds: range) -> Iterator[float]:
    for seed in seeds:
        yield one_of_theirs(env, steps, seed)


def one_of_theirs(env: str, steps: int, seed: int) -> float:
    from stable_baselines3.common.callbacks import BaseCallback

    returns: list[float] = []

    class Collect(BaseCallback):
        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info and self.num_timesteps > 0.9 * steps:
                    returns.append(float(info["episode"]["r"]))
            return True

    sb3(env, seed).learn(steps, callback=Collect())
    return float(np.mean(returns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--envs", default="Hopper-v5,HalfCheetah-v5")
    arguments = parser.parse_args()
    pin()
    from surefoot.evaluate.statistics import in_brackets

    path = RESULTS / "ppo_strength.json"
    stored: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    table = stored["table"] if stored.get("steps") == arguments.steps else {}
    facts = {"steps": arguments.steps, "command": f"python benchmarks/strength_ppo.py {' '.join(sys.argv[1:])}"}
    for env in arguments.envs.split(","):
        for name, run in (("ours", ours), ("sb3", theirs)):
            done = table.setdefault(env, {}).get(name, {}).get("scores", [])
            missing = range(len(done), arguments.seeds)
            for score in run(env, arguments.steps, missing) if missing else ():
                done = [*done, score]
                table[env][name] = summary(done)
                store("ppo_strength", {"table": table, **facts})
            if done:
                iqm, interval = table[env][name]["iqm"], in_brackets(table[env][name]["interval"], ".1f")
                print(f"{env:<16}{name:<6}{len(done)} seeds, IQM {iqm:9.1f}  {interval}", flush=True)


def summary(scores: list[float]) -> dict[str, Any]:
    from surefoot.evaluate.statistics import confidence_interval, interquartile_mean

    return {
        "iqm": interquartile_mean(scores),
        "interval": confidence_interval(np.array(scores)),
        "scores": scores,
    }


if __name__ == "__main__":
    main()

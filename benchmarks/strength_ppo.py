"""Strength: PPO against Stable-Baselines3's with the same hyperparameters and normalisation, several seeds each.

    python benchmarks/strength_ppo.py [--steps 300000] [--seeds 5]

The score of a run, fixed beforehand: mean return of the training episodes that end in the last tenth of its steps.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from peer_sb3 import OURS, pin, sb3, store


def ours(env: str, steps: int, seeds: int) -> list[float]:
    from surefoot.loops.run import make_learner
    from surefoot.methods.control.ppo import PPO

    learner = make_learner(PPO(**OURS), env, list(range(seeds)), steps, compiled=True)
    returns: list[list[float]] = [[] for _ in range(seeds)]
    before = [0] * seeds
    while learner.steps < steps:
        for seed, row in enumerate(learner.iterate()):
            ended = int(row["episodes"]) - before[seed]
            before[seed] = int(row["episodes"])
            if learner.steps > 0.9 * steps and ended:
                returns[seed] += [row["return"]] * ended
    learner.collector.close()
    return [float(np.mean(r)) for r in returns]


def theirs(env: str, steps: int, seed: int) -> float:
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
    arguments = parser.parse_args()
    pin()
    from surefoot.evaluate.statistics import bootstrap_interval, interquartile_mean

    table: dict[str, Any] = {}
    for env in ("Hopper-v5", "HalfCheetah-v5"):
        scores = {"ours": ours(env, arguments.steps, arguments.seeds)}
        scores["sb3"] = [theirs(env, arguments.steps, seed) for seed in range(arguments.seeds)]
        table[env] = {}
        for name, values in scores.items():
            low, high = bootstrap_interval(np.array(values))
            table[env][name] = {"iqm": float(interquartile_mean(values)), "interval": [low, high], "scores": values}
            print(f"{env:<16}{name:<6} IQM {table[env][name]['iqm']:9.1f}  [{low:.1f}, {high:.1f}]", flush=True)
        command = f"python benchmarks/strength_ppo.py --steps {arguments.steps} --seeds {arguments.seeds}"
        store("ppo_strength", {"table": table, "command": command})


if __name__ == "__main__":
    main()

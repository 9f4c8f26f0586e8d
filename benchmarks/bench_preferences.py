"""DPO against TRL's trainer: pairs a second, and the loss of every step.

    python benchmarks/bench_preferences.py [--steps 40] [--turns 5]

Both on one pinned core and one thread: the same nano model, taught to sort for 300 steps, and the same pairs in the
same order (a sorted list, and the list with two numbers in each other's place), 16 a step, one AdamW step each. Both
compute the reference's log-probabilities once for every pair, before the first step; their time is given apart. The
first two steps of each turn are not counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench_language import UNCOUNTED, model_folder
from peer_sb3 import pin, store
from peer_trl import TASK, trl_dpo

PAIRS, RATE, BETA = 16, 1e-4, 0.1


def pairs(count: int) -> list[dict[str, str]]:
    """Lists to sort, each answered rightly, and with two neighbours in each other's place."""
    from surefoot.envs.language import resolve
    from surefoot.seeding import numpy_stream

    task, rows, index = resolve(TASK), list[dict[str, str]](), 0
    while len(rows) < count:
        example, index = task.example(index), index + 1
        right, stream = str(example.answer).split(), numpy_stream(0, "pairs", index)
        place, wrong = int(stream.integers(len(right) - 1)), list(right)
        wrong[place], wrong[place + 1] = right[place + 1], right[place]
        if wrong != right:
            rows.append({"prompt": example.prompt, "chosen": " ".join(right), "rejected": " ".join(wrong)})
    return rows


def ours(folder: Path, rows: list[dict[str, str]], steps: int) -> dict[str, Any]:
    from surefoot.envs.language import resolve
    from surefoot.loops.group_rollout.iteration import Iteration
    from surefoot.loops.group_rollout.learner import LanguageLearner
    from surefoot.loops.group_rollout.rewards import make_rewards
    from surefoot.methods.preference.baselines import DPO
    from surefoot.models.language.generation import generate
    from surefoot.models.language.loading import load_model

    task = resolve(rows, test_data=rows[:2])  # else a tenth of them would be held out
    method = DPO(prompts=PAIRS, beta=BETA)
    rewards = make_rewards(task, None, None)
    learner = LanguageLearner(method, load_model(folder), task, rewards, generate, learning_rate=RATE)
    began = time.perf_counter()
    for _ in range(steps + UNCOUNTED):
        learner.memory = method.collect(Iteration(learner)).progress.memory
    reference, learner.drawn = time.perf_counter() - began, 0
    losses = [learner.iterate()[0]["loss"] for _ in range(UNCOUNTED)]
    began = time.perf_counter()
    losses += [learner.iterate()[0]["loss"] for _ in range(steps)]
    return {"training": time.perf_counter() - began, "reference": reference, "loss": losses}


def theirs(folder: Path, rows: list[dict[str, str]], steps: int) -> dict[str, Any]:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        began = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == UNCOUNTED:
                self.began = time.perf_counter()

    with tempfile.TemporaryDirectory() as out:
        trainer, reference, losses = trl_dpo(folder, rows, PAIRS, RATE, BETA, out)
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
        total = time.perf_counter() - clock.began
    return {"training": total, "reference": reference, "loss": losses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    pin()
    from surefoot.loops.group_rollout.prompts import choose

    folder, made = model_folder(), pairs(PAIRS * (given.steps + UNCOUNTED))
    order = choose("uniform", len(made), 0, 0, len(made), None)
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for _ in range(given.turns):
        found["ours"].append(ours(folder, made, given.steps))
        found["trl"].append(theirs(folder, [made[int(i)] for i in order], given.steps))
    result: dict[str, Any] = {}
    for name, runs in found.items():
        seconds = {key: statistics.median(run[key] for run in runs) for key in ("training", "reference")}
        result[name] = {
            "pairs_per_second": given.steps * PAIRS / seconds["training"],
            "reference_pairs_per_second": len(made) / seconds["reference"],
            "loss": runs[0]["loss"],
        }
        print(f"{name:<6}" + "  ".join(f"{k} {x:,.1f}" for k, x in result[name].items() if k != "loss"), flush=True)
    result["ratio"] = result["ours"]["pairs_per_second"] / result["trl"]["pairs_per_second"]
    result["largest difference of the losses"] = float(
        np.abs(np.subtract(result["ours"]["loss"], result["trl"]["loss"])).max()
    )
    first, last = (result["ours"]["loss"][place] for place in (0, -1))
    print(f"ratio {result['ratio']:.2f}; loss {first:.4f} to {last:.4f}, the same to", end=" ")
    print(f"{result['largest difference of the losses']:.1e}")
    command = f"python benchmarks/bench_preferences.py --steps {given.steps} --turns {given.turns}"
    store("preference_speed", {**result, "command": command, "pairs a step": PAIRS, "task": TASK})


if __name__ == "__main__":
    main()

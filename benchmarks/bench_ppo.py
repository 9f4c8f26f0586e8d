"""PPO against Stable-Baselines3's: environment steps a second after the first update, and the whole of a run.

    python benchmarks/bench_ppo.py              # throughput: alternating iterations in one process, on one core
    python benchmarks/bench_ppo.py --wall       # 300k steps with start-up and compilation from a cold cache
    python benchmarks/bench_ppo.py --memory     # what a run of a million steps holds, every tenth of it

Both arms take turns, so that what else the machine does hits both; figures are medians over the turns, and ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peer_sb3 import OURS, pin, sb3, store


def timed(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def quiet(learner: Any, total: int) -> Callable[[], Any]:
    return lambda: learner.learn(total, reset_num_timesteps=False)


def throughput(env: str, num_envs: int, num_steps: int, turns: int) -> dict[str, float]:
    """Steps a second of both, of the environments alone and of our update alone."""
    import torch

    from surefoot.loops.common.run import make_learner
    from surefoot.methods.control.ppo import PPO

    method = PPO(**{**OURS, "num_envs": num_envs, "num_steps": num_steps})
    ours = make_learner(method, env, [0], 10**9, compile="on")
    theirs = sb3(env, 0, num_envs, num_steps)
    batch_steps = num_envs * num_steps
    ours.iterate()
    theirs.learn(batch_steps)
    times: dict[str, list[float]] = {
        "ours": [],
        "theirs": [],
        "collect": [],
        "update": [],
        "envs": [],
        "theirs_update": [],
    }
    train = theirs.train

    def timed_train() -> None:
        times["theirs_update"].append(timed(train))

    theirs.train = timed_train
    actions = torch.zeros(num_envs, *ours.action_space.shape).numpy().astype(ours.action_space.dtype)
    for _ in range(turns):
        times["ours"].append(timed(ours.iterate))
        times["theirs"].append(timed(quiet(theirs, batch_steps)))
        ours.lr_tensor = torch.tensor(3e-4)
        began = time.perf_counter()
        rollout = ours.collect(ours.vector)
        times["collect"].append(time.perf_counter() - began)
        batch = ours.estimate(rollout)
        times["update"].append(timed(lambda b=batch: ours.method.update(ours, b)))
        ours.iteration += 1
        times["envs"].append(timed(lambda: [ours.collector.envs.step(actions) for _ in range(num_steps)]))
    ours.collector.close()
    rate = {name: batch_steps / statistics.median(values) for name, values in times.items()}
    paired = statistics.median(b / a for a, b in zip(times["ours"], times["theirs"], strict=True))
    updates = method.epochs * batch_steps / method.minibatch_size
    return {
        "ours_steps_per_second": rate["ours"],
        "sb3_steps_per_second": rate["theirs"],
        "ratio": paired,
        "ours_collect_steps_per_second": rate["collect"],
        "env_only_steps_per_second": rate["envs"],
        "ours_ms_per_gradient_step": 1e3 * statistics.median(times["update"]) / updates,
        "sb3_ms_per_gradient_step": 1e3 * statistics.median(times["theirs_update"]) / updates,
    }


def many_seeds(env: str, seeds: int, turns: int) -> dict[str, float]:
    """Aggregate steps a second of several seeds in one process against one SB3 run after another, on the same core."""
    from surefoot.loops.common.run import make_learner
    from surefoot.methods.control.ppo import PPO

    ours = make_learner(PPO(**OURS), env, list(range(seeds)), 10**9, compile="on")
    theirs = sb3(env, 0)
    ours.iterate()
    theirs.learn(2048)
    pairs = [(timed(ours.iterate), timed(quiet(theirs, 2048))) for _ in range(turns)]
    ours.collector.close()
    return {
        "seeds": seeds,
        "ours_steps_per_second": statistics.median(2048 * seeds / a for a, _ in pairs),
        "sb3_steps_per_second": statistics.median(2048 / b for _, b in pairs),
        "ratio": statistics.median(seeds * b / a for a, b in pairs),
    }


THEIR_RUN = """
import sys; sys.path.insert(0, {folder!r})
from peer_sb3 import pin, sb3
pin({core}); sb3({env!r}, 0).learn({steps})
"""
OUR_RUN = """
import sys; sys.path.insert(0, {folder!r})
from peer_sb3 import OURS, pin
pin({core})
import surefoot as sf
sf.train("ppo", {env!r}, {steps}, run_dir={run!r}, **OURS)
"""


def wall(env: str, steps: int, rounds: int) -> dict[str, Any]:
    """Whole processes, start-up included; ours compiles with an empty cache every time."""
    core = sorted(os.sched_getaffinity(0))[-1] if hasattr(os, "sched_setaffinity") else None
    seconds: dict[str, list[float]] = {"ours": [], "sb3": []}
    for _ in range(rounds):
        for name, code in (("ours", OUR_RUN), ("sb3", THEIR_RUN)):
            with tempfile.TemporaryDirectory() as folder:
                here = os.path.dirname(os.path.abspath(__file__))
                filled = code.format(folder=here, core=core, env=env, steps=steps, run=f"{folder}/run")
                settings = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"}
                command = [sys.executable, "-c", filled]
                seconds[name].append(timed(lambda c=command, e=settings: subprocess.run(c, env=e, check=True)))
    ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["sb3"], strict=True))
    return {"steps": steps, "ours_seconds": seconds["ours"], "sb3_seconds": seconds["sb3"], "ratio": ratio}


def memory(env: str, steps: int) -> dict[str, Any]:
    """Resident memory of a whole run, logs and checkpoints included, in MB after every tenth of its steps."""
    import surefoot as sf

    held: dict[int, float] = {}

    def look(learner: Any, rows: list[dict[str, Any]]) -> None:
        tenth = 10 * learner.steps // steps
        if tenth not in held:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            held[tenth] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    with tempfile.TemporaryDirectory() as folder:
        sf.train("ppo", env, steps, run_dir=f"{folder}/run", callbacks=[look], **OURS)
    return {"steps": steps, "megabytes": [round(x, 1) for x in held.values()]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--wall", action="store_true", help="whole runs instead of throughput")
    parser.add_argument("--memory", action="store_true", help="memory over a million steps")
    parser.add_argument("--rounds", type=int, default=5, help="with --wall: runs of each")
    arguments = parser.parse_args()
    if arguments.wall:
        result = wall("HalfCheetah-v5", 300_000, arguments.rounds)
        store("ppo_wall", {"HalfCheetah-v5": result, "command": "python benchmarks/bench_ppo.py --wall"})
        print(
            f"300k steps of HalfCheetah-v5, cold start: ours {result['ours_seconds']} s, SB3 {result['sb3_seconds']} s"
        )
        print(f"ratio {result['ratio']:.2f}")
        return
    pin()
    if arguments.memory:
        result = memory("CartPole-v1", 1_000_000)
        store("ppo_memory", {"CartPole-v1": result, "command": "python benchmarks/bench_ppo.py --memory"})
        print(f"MB held by a run of {result['steps']:,} steps of CartPole-v1, every tenth: {result['megabytes']}")
        return
    table: dict[str, Any] = {}
    for label, env, envs, steps in (
        ("HalfCheetah-v5, 8 envs", "HalfCheetah-v5", 8, 256),
        ("HalfCheetah-v5, 1 env", "HalfCheetah-v5", 1, 2048),
        ("CartPole-v1, 8 envs", "CartPole-v1", 8, 256),
    ):
        table[label] = throughput(env, envs, steps, arguments.turns)
        print(label)
        for name, value in table[label].items():
            print(f"  {name:<34}{value:>12,.2f}")
    table["HalfCheetah-v5, 5 seeds in one process"] = many_seeds("HalfCheetah-v5", 5, max(5, arguments.turns // 2))
    print(table["HalfCheetah-v5, 5 seeds in one process"])
    store("ppo_throughput", {"table": table, "turns": arguments.turns, "command": "python benchmarks/bench_ppo.py"})


if __name__ == "__main__":
    main()

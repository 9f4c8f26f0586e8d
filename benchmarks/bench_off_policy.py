"""SAC, TD3 and DQN against Stable-Baselines3's: steps a second, the share of the arithmetic's limit, and returns.

    python benchmarks/bench_off_policy.py                                     # throughput, on one core and one thread
    python benchmarks/bench_off_policy.py --strength --seeds 5 --steps 100000 --envs HalfCheetah-v5

Both arms have the same hyperparameters, step one environment of Gymnasium in their own process, and take turns, so that
what else the machine does hits both; figures are medians over the turns, and ratios of adjacent turns, on the clock and
in processor time. The limit is that of matrix products: the floating-point operations of a gradient step, counted by
hand, at the rate at which torch multiplies matrices of the same shapes.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

from bench_ppo import quiet, timed
from peer_sb3 import pin, store

HIDDEN, BATCH, STARTS = 256, 256, 1000
CONTINUOUS = ("HalfCheetah-v5", "Hopper-v5")


def ours(name: str, chunk: int) -> Any:
    """Our method with the peer's hyperparameters and a row of metrics every `chunk` steps."""
    from surefoot.methods.control.dqn import DQN
    from surefoot.methods.control.sac import SAC
    from surefoot.methods.control.td3 import TD3

    if name == "dqn":
        small = {"hidden": (64, 64), "batch_size": 32, "train_every": 4, "target_every": 2500, "learning_rate": 1e-4}
        return DQN(**small, learning_starts=STARTS, log_every=chunk)
    shared = {"hidden": (HIDDEN, HIDDEN), "batch_size": BATCH, "learning_rate": 3e-4, "learning_starts": STARTS}
    return {"sac": SAC, "td3": TD3}[name](**shared, log_every=chunk)


def theirs(name: str, env: str, seed: int) -> Any:
    """Stable-Baselines3's, on one environment."""
    warnings.filterwarnings("ignore")
    import gymnasium as gym
    import numpy as np
    from stable_baselines3 import DQN, SAC, TD3
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.noise import NormalActionNoise

    made = Monitor(gym.make(env))
    shared = {"learning_starts": STARTS, "seed": seed, "device": "cpu"}
    if name == "dqn":
        return DQN("MlpPolicy", made, learning_rate=1e-4, batch_size=32, train_freq=4, **shared)
    shared |= {"policy_kwargs": {"net_arch": [HIDDEN, HIDDEN]}, "batch_size": BATCH, "learning_rate": 3e-4}
    if name == "sac":
        return SAC("MlpPolicy", made, train_freq=1, **shared)
    count = made.action_space.shape[0]
    noise = NormalActionNoise(np.zeros(count), 0.1 * np.ones(count))
    return TD3("MlpPolicy", made, train_freq=1, action_noise=noise, **shared)


def operations(name: str, seen: int, acted: int) -> float:
    """Floating-point operations in the matrix products of one gradient step of SAC or TD3.

    A pass forward multiplies the batch by every weight (2 operations each); a pass back costs as much again for the
    gradients of the inputs and once more for those of the weights, except that the first layer's inputs need none.
    """

    def forward(inputs: int, outputs: int) -> float:
        return 2.0 * BATCH * (inputs * HIDDEN + HIDDEN * HIDDEN + HIDDEN * outputs)

    first = 2.0 * BATCH * HIDDEN
    critic = forward(seen + acted, 1)
    actor = forward(seen, 2 * acted if name == "sac" else acted)
    target = actor + 2 * critic
    critics = 2 * (3 * critic - first * (seen + acted))
    through = 2 if name == "sac" else 1  # critics that the actor's loss goes through
    policy = 3 * actor - first * seen + through * 2 * critic
    return target + critics + policy * (1 if name == "sac" else 0.5)


def used(function: Callable[[], Any], times: int) -> float:
    """Seconds of this thread's processor time that a call takes, on average of so many."""
    began = time.thread_time()
    for _ in range(times):
        function()
    return (time.thread_time() - began) / times


def share_of_limit(name: str, mine: Any, turns: int = 200) -> dict[str, float]:
    """The time of the products of an update, at the rate of products of the batch with a hidden layer, as a share of
    the time of an update: of its arithmetic alone, and with the batch that it draws. Products and updates take turns;
    medians of processor time, since the clock would count what else the machine does."""
    import torch

    a, b, out = torch.randn(BATCH, HIDDEN), torch.randn(HIDDEN, HIDDEN), torch.empty(BATCH, HIDDEN)
    batch, _ = mine.batch()
    parts = (lambda: torch.mm(a, b, out=out), 4), (lambda: mine.step(batch), 2), (mine.update, 2)
    rows = [[used(function, times) for function, times in parts] for _ in range(turns)]
    product, step, update = (statistics.median(column) for column in zip(*rows, strict=True))
    count = operations(name, mine.observation_space.shape[0], mine.action_space.shape[0])
    rate = 2.0 * BATCH * HIDDEN * HIDDEN / product
    shares = {"share_of_limit": count / rate / step, "share_with_batch": count / rate / update}
    return {"gflop_per_update": count / 1e9, "gflop_per_second": rate / 1e9, "ms_per_update": 1e3 * update, **shares}


def throughput(name: str, env: str, chunk: int, turns: int) -> dict[str, float]:
    """Environment steps a second of both arms while they learn, and the share of the limit that ours reaches."""
    from surefoot.loops.common.run import make_learner

    mine, peer = (
        make_learner(ours(name, chunk), env, [0], 10**9, compile="on", backend="gymnasium"),
        theirs(name, env, 0),
    )
    while mine.steps <= STARTS + chunk:  # until it learns and is compiled
        mine.iterate()
    peer.learn(STARTS + chunk)
    both = mine.iterate, quiet(peer, chunk)
    pairs = [(timed(both[0]), timed(both[1])) for _ in range(turns)]
    processor = [(used(both[0], 1), used(both[1], 1)) for _ in range(turns)]
    found = {
        "ours_steps_per_second": statistics.median(chunk / a for a, _ in pairs),
        "sb3_steps_per_second": statistics.median(chunk / b for _, b in pairs),
        "ratio": statistics.median(b / a for a, b in pairs),
        "processor_ratio": statistics.median(b / a for a, b in processor),
    }
    if name != "dqn":
        found |= share_of_limit(name, mine)
    mine.close()
    return found


def strength(name: str, env: str, steps: int, seeds: int) -> dict[str, Any]:
    """Mean returns of the training episodes that end in the last tenth, of each seed, and the processor time of both.
    Ours are trained side by side in one process."""
    import tempfile

    import numpy as np

    import surefoot as sf
    from surefoot.evaluate.statistics import confidence_interval, mean
    from surefoot.loops.common.final import final_returns

    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        settings = {"num_seeds": seeds, "run_dir": f"{folder}/run", "loggers": ()}
        run = sf.train(ours(name, 1000), env, steps, **settings)
        mine = [*final_returns(run.metrics()).values()]
    middle, peers = time.process_time(), []
    for seed in range(seeds):
        peer = theirs(name, env, seed)
        peer.learn(steps)
        monitor = peer.get_env().envs[0]
        ends = np.cumsum(monitor.get_episode_lengths())
        peers.append(float(np.mean(np.array(monitor.get_episode_rewards())[ends > 0.9 * steps])))
    figures = {"ours": mine, "sb3": peers, "steps": steps}
    figures |= {f"{arm}_interval": confidence_interval(figures[arm], mean) for arm in ("ours", "sb3")}
    return {**figures, "ours_cpu": middle - began, "sb3_cpu": time.process_time() - middle}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["sac", "td3", "dqn"])
    parser.add_argument("--envs", nargs="+", default=[*CONTINUOUS, "CartPole-v1"])
    parser.add_argument("--chunk", type=int, default=500, help="steps of a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--strength", action="store_true", help="returns instead of throughput")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100_000)
    arguments = parser.parse_args()
    pin()
    table: dict[str, Any] = {}
    for name in arguments.methods:
        for env in arguments.envs:
            if (name == "dqn") == (env in CONTINUOUS):
                continue
            if arguments.strength:
                found = strength(name, env, arguments.steps, arguments.seeds)
            else:
                found = throughput(name, env, arguments.chunk, arguments.turns)
            table[f"{name}, {env}"] = found
            print(
                f"{name}, {env}", {k: round(x, 3) if isinstance(x, float) else x for k, x in found.items()}, flush=True
            )
    command = f"python benchmarks/bench_off_policy.py{' --strength' * arguments.strength}"
    store("off_policy_strength" if arguments.strength else "off_policy", {"table": table, "command": command})


if __name__ == "__main__":
    main()

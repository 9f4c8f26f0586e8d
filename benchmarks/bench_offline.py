"""TD3+BC, IQL and PRDC against d3rlpy's: one update on the same weights, gradient steps a second, and returns.

    python benchmarks/bench_offline.py --peer PEER/bin/python
    python benchmarks/bench_offline.py --peer PEER/bin/python --strength --data hopper.npz --env Hopper-v5

PEER is an environment with `pip install d3rlpy`, which wants gymnasium 1.0.0. Each method's losses, gradients and
weights after one update are compared, on weights and a batch that both are given. Both train on the same file, with the
same batches of 256 and two layers of 256, each in a process of its own on the same core and one thread, and take turns,
so that what else the machine does hits both; figures are medians over the turns, and ratios of adjacent turns (goals:
2, for PRDC 1.5). Without --data, the file holds random actions in Hopper-v5.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench_ppo import timed
from peer_sb3 import pin, store

METHODS = ("td3-bc", "iql", "prdc")
PEER = Path(__file__).with_name("peer_d3rlpy.py")
ENV = "Hopper-v5"


def ours(name: str, chunk: int = 1000, **changes: Any) -> Any:
    """Our method with the peer's defaults, which are its own but for IQL's schedule."""
    from surefoot.catalogue import method_class

    same = {"anneal": "none"} if name == "iql" else {}
    return method_class(name)(log_every=chunk, **same, **changes)


def environment() -> dict[str, str]:
    """What the peer's process sees: none of our packages, one thread."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


def peer(python: str, *arguments: Any) -> str:
    """Run the peer to its end; the last line that it prints."""
    command = [python, str(PEER), *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return done.stdout.splitlines()[-1] if done.stdout else ""


# --- one update ------------------------------------------------------------------------------------------------------


def noise(rows: int = 1000, seen: int = 11, acted: int = 3) -> Any:
    """Data of random numbers, in episodes of 20 steps of which every second one is terminated."""
    from surefoot.data.transitions import Transitions

    rng = np.random.default_rng(0)
    observation, following = (rng.normal(size=(rows, seen)).astype(np.float32) for _ in range(2))
    action = rng.uniform(-1, 1, (rows, acted)).astype(np.float32)
    step = np.arange(1, rows + 1)
    return Transitions(
        observation, action, rng.normal(size=rows), following, step % 40 == 0, step % 40 == 20, name="random numbers"
    )


def parts(learner: Any, name: str, vector: Any, called: str | None = None) -> dict[str, Any]:
    """The layers of a network by number, of each copy."""
    function = learner.functions[name]
    found = {}
    for copy, one in enumerate(vector.view(function.copies, -1)):
        layers = [x for key, x in function.flat.unflatten(one).items() if key != "log_std"]
        found |= {f"{called or name}{copy}/{i}": x.numpy().copy() for i, x in enumerate(layers)}
    return found


def everything(learner: Any) -> dict[str, Any]:
    """All networks and targets of the first seed."""
    found = {}
    for name in learner.functions:
        found |= parts(learner, name, learner.weights[name][0])
        if name in learner.targets:
            found |= parts(learner, name, learner.targets[name][0], f"target-{name}")
    return found


def agreement(name: str, python: str) -> dict[str, float]:
    """How far our losses, gradients and weights after one update are from the peer's: the largest difference of losses
    and of gradients as a share of the network's largest, of weights as a share of the learning rate."""
    from surefoot.loops.common.run import make_learner
    from surefoot.loops.networks.machine import NamedNetworks

    def fresh() -> Any:
        delay = {} if name == "iql" else {"policy_delay": 1}
        return make_learner(ours(name, 50, **delay), "", [0], 10**9, data=noise())

    used, mine = fresh(), fresh()
    used.iterate()
    mine.weights, mine.targets = used.weights, used.targets  # of some training, with optimisers that know nothing yet
    mine.draw()
    batch = mine.batch()
    given = everything(mine) | {"batch/terminal": (batch["discount"][0] == 0).float().numpy()}
    columns = ("observation", "action", "reward", "next_observation")
    given |= {f"batch/{key}": batch[key][0].numpy() for key in columns}
    given["batch/noise"] = batch["noise"]["target"][0].numpy() if "target" in batch["noise"] else np.zeros(1)
    mean, inverse = (x[0].numpy() for x in mine.scales()[""])
    scaled = np.clip((mine.data.observation - mean) * inverse, -10, 10)
    given["pairs"] = np.concatenate([2.0 * scaled, mine.data.action], 1)
    if name == "iql":
        given["log_std"] = mine.functions["actor"].flat.unflatten(mine.weights["actor"][0])["log_std"].numpy().copy()
    if name == "prdc":  # ours looks the neighbours up before the critics' step, which the policy does not notice
        batch |= mine._before(batch, mine.due())
    metrics = NamedNetworks.step(mine, batch)

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "given.npz"), Path(folder, "found.npz")
        np.savez(source, **given)
        peer(python, "step", name, source, target)
        theirs = dict(np.load(target))
    # Theirs adds the errors of IQL's critics up, ours is their mean.
    share = {"critic": 0.5 if name == "iql" else 1.0}
    losses, gradients = [], []
    for key in [key for key in theirs if key.startswith("loss/")]:
        part = key[5:]
        wanted = share.get(part, 1.0) * float(theirs[key])
        losses.append(abs(float(metrics[f"{part}_loss"][0]) - wanted) / abs(wanted))
    for network, averages in mine.averages.items():
        for key, x in parts(mine, network, averages.mean[0] / 0.1).items():  # Adam's mean after one step
            wanted = share.get(network, 1.0) * theirs[f"gradient/{key}"]
            gradients.append(np.abs(x - wanted).max() / np.abs(wanted).max())
        if "gradient/log_std" in theirs and network == "actor":
            flat = mine.functions["actor"].flat
            x, wanted = flat.unflatten(averages.mean[0] / 0.1)["log_std"].numpy(), theirs["gradient/log_std"]
            gradients.append(np.abs(x - wanted).max() / np.abs(wanted).max())
    after = everything(mine)
    weights = {key: np.abs(x - theirs[f"after/{key}"]) / mine.method.learning_rate for key, x in after.items()}
    return {
        "losses": max(losses),
        "gradients": float(max(gradients)),
        "weights": float(max(x.max() for x in weights.values())),
        "weights_mean": float(max(x.mean() for x in weights.values())),
    }


# --- gradient steps a second -----------------------------------------------------------------------------------------


class Theirs:
    """The peer in a process of its own, which works when it is asked to."""

    def __init__(self, python: str, name: str, data: Path, chunk: int) -> None:
        command = [python, str(PEER), "speed", name, str(data), str(chunk)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=environment(), text=True, **pipes)
        self.seconds()  # the first chunk, with the start

    def seconds(self) -> float:
        return float(json.loads(self.process.stdout.readline()))  # type: ignore[union-attr]

    def ask(self, what: str) -> float:
        """The seconds of a chunk of the training `loop`, or of one `update` after another."""
        self.process.stdin.write(f"{what}\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return self.seconds()

    def stop(self) -> None:
        self.process.communicate("stop\n")


def throughput(name: str, python: str, folder: Path, chunk: int, turns: int) -> dict[str, Any]:
    """Gradient steps a second of both training loops, and of the peer's updates without the drawing of batches."""
    from surefoot.loops.common.run import make_learner

    mine = make_learner(ours(name, chunk), "", [0], 10**9, data=str(folder / "data.npz"), compile="on")
    mine.iterate()  # until it is compiled
    theirs = Theirs(python, name, folder / "data.h5", chunk)
    rows = [(timed(mine.iterate), theirs.ask("loop"), theirs.ask("update")) for _ in range(turns)]
    theirs.stop()
    mine.close()
    return {
        "ours_steps_per_second": statistics.median(chunk / a for a, _, _ in rows),
        "d3rlpy_steps_per_second": statistics.median(chunk / b for _, b, _ in rows),
        "d3rlpy_updates_per_second": statistics.median(chunk / c for _, _, c in rows),
        "ratio": statistics.median(b / a for a, b, _ in rows),
        "ratios": [b / a for a, b, _ in rows],
        "ratio_to_updates": statistics.median(c / a for a, _, c in rows),
    }


def files(source: str | None, rows: int, folder: Path) -> int:
    """The data as data.npz and as d3rlpy's data.h5; the number of rows."""
    import surefoot as sf

    data = sf.dataset(source) if source else sf.record(ENV, "random", rows)
    sf.write_dataset(data, folder / "data.npz")
    sf.write_dataset(data, f"d3rlpy:{folder / 'data.h5'}")
    return len(data)


# --- returns ---------------------------------------------------------------------------------------------------------


def played(path: Path) -> Callable[[Any], Any]:
    """The peer's policy: tanh of its layers, on scaled observations."""
    found = dict(np.load(path))
    layers = [found[f"actor0/{i}"] for i in range(sum(key.startswith("actor0/") for key in found))]

    def act(observation: Any) -> Any:
        x = (observation - found["mean"]) / found["deviation"]
        for i in range(0, len(layers) - 2, 2):
            x = np.maximum(x @ layers[i].T + layers[i + 1], 0)
        return np.tanh(x @ layers[-2].T + layers[-1]).astype(np.float32)

    return act


def strength(name: str, python: str, folder: Path, env: str, steps: int, seeds: int) -> dict[str, Any]:
    """Mean returns of each seed's agent in 20 episodes, played by the same code, and the processor time of both. Ours
    are trained side by side in one process."""
    import surefoot as sf
    from surefoot.evaluate.statistics import confidence_interval, mean

    began, settings = time.process_time(), {"num_seeds": seeds, "run_dir": folder / name, "loggers": ()}
    run = sf.train(ours(name), data=str(folder / "data.npz"), steps=steps, **settings)
    used = time.process_time() - began
    mine = [float(sf.evaluate(run.agent(seed), env, 20)["mean"]) for seed in range(seeds)]
    began, peers = os.times().children_user, []
    for seed in range(seeds):
        peer(python, "train", name, folder / "data.h5", steps, seed, found := folder / f"{name}-{seed}.npz")
        peers.append(float(sf.evaluate(played(found), env, 20)["mean"]))
    figures: dict[str, Any] = {"ours": mine, "d3rlpy": peers, "steps": steps}
    figures |= {f"{arm}_interval": confidence_interval(figures[arm], mean) for arm in ("ours", "d3rlpy")}
    return {**figures, "ours_cpu": used, "d3rlpy_cpu": os.times().children_user - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="the Python of an environment with d3rlpy")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--data", help="the data to learn from; random actions in Hopper-v5 without it")
    parser.add_argument("--rows", type=int, default=100_000, help="transitions to record without --data")
    parser.add_argument("--chunk", type=int, default=200, help="gradient steps of a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--strength", action="store_true", help="returns instead of throughput")
    parser.add_argument("--env", default=ENV, help="where returns are measured")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100_000)
    arguments = parser.parse_args()
    pin()
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        rows = files(arguments.data, arguments.rows, folder)
        for name in arguments.methods:
            if arguments.strength:
                sizes = arguments.env, arguments.steps, arguments.seeds
                table[name] = strength(name, arguments.peer, folder, *sizes)
            else:
                table[name] = throughput(name, arguments.peer, folder, arguments.chunk, arguments.turns)
                table[name]["difference"] = agreement(name, arguments.peer)
            print(name, json.dumps(table[name]), flush=True)
    command = f"python benchmarks/bench_offline.py --peer PEER/bin/python{' --strength' * arguments.strength}"
    data = {"data": arguments.data or f"random actions in {ENV}", "rows": rows}
    found = {**data, "table": table, "peer": json.loads(peer(arguments.peer, "versions")), "command": command}
    store("offline_strength" if arguments.strength else "offline_speed", found)


if __name__ == "__main__":
    main()

"""Exact solvers on random MDPs: nominal against QuantEcon and mdptoolbox-style code, robust ones at scale.

    python benchmarks/bench_solve.py              # all tables, stored in results/solve.json
    python benchmarks/bench_solve.py --nominal    # against the peers (needs quantecon)
    python benchmarks/bench_solve.py --robust     # 100,000 states, and how cost grows with the number of transitions

One thread and one core. The peers take turns with ours on the same MDP and stop at the same certainty, a value within
half of 1e-4; seconds are of the processor, medians over the turns, so that what else the machine does counts little.
Each robust solve is a process of its own, because the peak of its memory is part of the result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "solve.json"
GAMMA, GAP = 0.95, 1e-4
ROBUST = {"(s,a)-KL": ("kl:0.1", "sa"), "s-L1": ("l1:0.3", "s"), "nominal": (None, "sa")}
GROWTH = {"1e3": (20, 10, 5), "1e4": (200, 10, 5), "1e5": (2_000, 10, 5), "1e6": (20_000, 10, 5)}
BIG = (100_000, 10, 20)


def garnet(states: int, actions: int, successors: int) -> Any:
    """A random MDP: uniform successors, weights and rewards uniform in [0, 1]."""
    import torch

    from surefoot.envs.tabular import Successors, TabularMDP

    draw = torch.Generator().manual_seed(0)
    shape = (states, actions, successors)
    where = torch.randint(0, states, shape, generator=draw)
    weight = torch.rand(shape, dtype=torch.float64, generator=draw)
    weight /= weight.sum(-1, keepdim=True)
    reward = torch.rand(shape[:2], dtype=torch.float64, generator=draw)
    return TabularMDP(Successors(where, weight), reward, gamma=GAMMA)


def robust(name: str, shape: tuple[int, int, int]) -> dict[str, float]:
    """One solve, in this process."""
    from surefoot import solve

    ambiguity, rectangular = ROBUST[name]
    mdp = garnet(*shape)
    before = peak()
    wall, processor = time.perf_counter(), time.process_time()
    found = solve(mdp, ambiguity, rectangular=rectangular, tolerance=GAP)
    return {
        "transitions": shape[0] * shape[1] * shape[2],
        "wall_seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
        "gap": found.gap,
        "sweeps": found.iterations,
        "peak_gib": peak(),
        "peak_gib_of_the_mdp": before,
    }


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def mdptoolbox_style(matrices: list[Any], reward: Any) -> tuple[Any, int]:
    """Value iteration as mdptoolbox writes it: a product for each action, a maximum, and the span as the stop."""
    import numpy as np

    v, sweeps = np.zeros(len(reward)), 0
    while True:
        sweeps += 1
        q = np.empty((len(matrices), len(v)))
        for a, matrix in enumerate(matrices):
            q[a] = reward[:, a] + GAMMA * matrix.dot(v)
        after = q.max(axis=0)
        change = after - v
        v = after
        if change.max() - change.min() < GAP * (1 - GAMMA) / GAMMA:
            return v, sweeps


def nominal_arms(mdp: Any, dense: bool) -> dict[str, Callable[[], tuple[Any, int]]]:
    """What is to be timed, by name: each gives values and its number of sweeps."""
    import numpy as np
    from quantecon.markov import DiscreteDP
    from scipy import sparse

    from surefoot import solve
    from surefoot.envs.tabular import TabularMDP

    S, A, K = mdp.rows.shape
    # A copy, because adding up successors that occur twice moves them about; all arms get the sorted rows.
    data = mdp.rows.numpy().flatten(), mdp.transition.state.numpy().astype(np.int32).flatten()
    rows = sparse.csr_matrix((*data, np.arange(0, S * A * K + 1, K, dtype=np.int32)), (S * A, S))
    rows.sum_duplicates()
    reward = mdp.reward.numpy()
    by_action = [rows[a::A] for a in range(A)]
    if dense:
        full = rows.toarray()
        mdp = TabularMDP(full.reshape(S, A, S), mdp.reward, gamma=GAMMA)
        by_action = [np.ascontiguousarray(full[a::A]) for a in range(A)]
        peer = DiscreteDP(reward, full.reshape(S, A, S), GAMMA)
    else:
        mdp = TabularMDP(rows, mdp.reward, gamma=GAMMA)
        peer = DiscreteDP(reward.ravel(), rows, GAMMA, np.repeat(np.arange(S), A), np.tile(np.arange(A), S))

    def theirs(method: str) -> Callable[[], tuple[Any, int]]:
        def run() -> tuple[Any, int]:
            found = peer.solve(method=method, epsilon=GAP, max_iter=10**6)
            return found.v, found.num_iter

        return run

    def ours(method: str) -> Callable[[], tuple[Any, int]]:
        def run() -> tuple[Any, int]:
            found = solve(mdp, method=method, tolerance=GAP)
            return found.value.numpy(), found.iterations

        return run

    return {
        "ours, value iteration": ours("value-iteration"),
        "ours, modified policy iteration": ours("modified-policy-iteration"),
        "quantecon, value iteration": theirs("value_iteration"),
        "quantecon, modified policy iteration": theirs("modified_policy_iteration"),
        "mdptoolbox style, value iteration": lambda: mdptoolbox_style(by_action, reward),
    }


def nominal(shape: tuple[int, int, int], dense: bool, turns: int) -> dict[str, Any]:
    """Processor seconds of ours and theirs on one MDP, and how far their values are from ours."""
    import numpy as np

    from surefoot import solve

    mdp = garnet(*shape)
    arms = nominal_arms(mdp, dense)
    for run in nominal_arms(garnet(20, 3, 4), dense).values():
        run()  # compiles what numba compiles
    exact = solve(mdp, tolerance=1e-10).value.numpy()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    result: dict[str, Any] = {}
    for _ in range(turns):
        for name, run in arms.items():
            began = time.process_time()
            value, sweeps = run()
            seconds[name].append(time.process_time() - began)
            print(f"    {name}: {seconds[name][-1]:.3f} s, {sweeps} sweeps", flush=True)
            error = abs(value - exact)
            # mdptoolbox gives back values that are right up to a constant
            off = 0.5 * float(np.ptp(value - exact)) if "mdptoolbox" in name else float(error.max())
            result[name] = {"sweeps": sweeps, "error": off}
    for name in arms:
        result[name]["processor_seconds"] = statistics.median(seconds[name])
    pairs = {
        "value iteration, quantecon / ours": ("quantecon, value iteration", "ours, value iteration"),
        "modified policy iteration, quantecon / ours": (
            "quantecon, modified policy iteration",
            "ours, modified policy iteration",
        ),
        "value iteration, mdptoolbox style / ours": ("mdptoolbox style, value iteration", "ours, value iteration"),
    }
    result["ratios"] = {
        name: statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))
        for name, (one, other) in pairs.items()
    }
    result["a sweep, ratios"] = {
        name: result["ratios"][name] * result[other]["sweeps"] / result[one]["sweeps"]
        for name, (one, other) in pairs.items()
        if name.startswith("value")
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nominal", action="store_true")
    parser.add_argument("--robust", action="store_true")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--core", type=int, default=None)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)  # a solve in a process of its own
    args = parser.parse_args()
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1] if args.core is None else args.core})
    if args.one:
        name, *shape = args.one
        print(json.dumps(robust(name, tuple(map(int, shape)))))
        return
    every = not (args.nominal or args.robust)
    tables: dict[str, Any] = {}
    if args.robust or every:
        tables["robust"] = {}
        for name in ROBUST:
            for size, shape in {**GROWTH, "2e7": BIG}.items():
                command = [sys.executable, __file__, "--one", name, *map(str, shape)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row = tables["robust"].setdefault(name, {})[size] = json.loads(done.stdout)
                print(f"{name:9} {size} " + "  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    if args.nominal or every:
        sizes = {"dense, 1,000 states": ((1_000, 10, 20), True), "sparse, 100,000 states": (BIG, False)}
        tables["nominal"] = {}
        for size, (shape, dense) in sizes.items():
            tables["nominal"][size] = row = nominal(shape, dense, args.turns)
            print(size, json.dumps(row, indent=1), flush=True)
    packages = ("torch", "numpy", "scipy", "quantecon", "numba")
    tables["versions"] = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**before, **tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()

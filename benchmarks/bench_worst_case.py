"""The worst case over ambiguity sets: a robust Bellman sweep against the nominal one, and rows against convex solvers.

    python benchmarks/bench_worst_case.py            # sweeps over a dense kernel of 2,000 states and 10 actions
    python benchmarks/bench_worst_case.py --peers    # one programme a row by HiGHS and by cvxpy, 200 states

A nominal sweep is `kernel @ values`. It and every robust one take turns in one process with the same threads; figures
are medians over the turns, and the ratio is the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peer_sb3 import store
from surefoot.ambiguity import KL, L1, Ambiguity, ChiSquare, Contamination, CVaR, TotalVariation
from surefoot.ambiguity.operator import solve

SETS: dict[str, tuple[Ambiguity, float]] = {  # with the goal
    "contamination 0.1": (Contamination(0.1), 3),
    "TV 0.1": (TotalVariation(0.1), 3),
    "TV 0.1 within the support": (TotalVariation(0.1, support="nominal"), 3),
    "L1 0.2": (L1(0.2), 3),
    "CVaR 0.1": (CVaR(0.1), 3),
    "KL 0.1": (KL(0.1), 5),
    "KL 1.0": (KL(1.0), 5),
    "KL penalty 0.5": (KL(penalty=0.5), 5),
    "chi-square 0.1": (ChiSquare(0.1), 5),
    "chi-square 1.0": (ChiSquare(1.0), 5),
    "chi-square penalty 0.5": (ChiSquare(penalty=0.5), 5),
}


def kernel(kind: str, rows: int, n: int, seed: int = 0) -> Tensor:
    """Rows drawn from Dirichlet distributions: of one parameter, 1, or each row of its own, from 0.003 to 3."""
    generator = torch.Generator().manual_seed(seed)
    concentration = torch.ones(rows, 1, dtype=torch.float64)
    if kind == "varied":
        concentration = 10 ** (3 * torch.rand(rows, 1, generator=generator, dtype=torch.float64) - 2.5)
    torch.manual_seed(seed)
    weights = torch.distributions.Gamma(concentration.expand(rows, n), 1.0).sample().clamp_(min=1e-300)
    return weights / weights.sum(-1, keepdim=True)


def use(threads: int) -> None:
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, ALL_CORES[-threads:])


ALL_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def row_by_row(values: Tensor, nominal: Tensor, ambiguity: Ambiguity) -> Tensor:
    """The general way, without what rows share: a set solves 64 rows at a time."""
    strength = None if ambiguity.strength is None else torch.tensor([[ambiguity.strength]], dtype=torch.float64)
    return torch.cat([ambiguity.solve(values[None], rows, strength).value for rows in nominal.split(64)])


def sweeps(kind: str, threads: int, turns: int, states: int, actions: int) -> dict[str, Any]:
    """Milliseconds of each set's sweep, the ratio to the nominal sweep beside it, and the error on 200 rows."""
    use(threads)
    nominal = kernel(kind, states * actions, states)
    values = torch.randn(states, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    some = torch.arange(0, len(nominal), len(nominal) // 200)
    table: dict[str, Any] = {}
    for name, (ambiguity, goal) in SETS.items():

        def robust(ambiguity: Ambiguity = ambiguity) -> Tensor:
            return solve(values, nominal, ambiguity, ambiguity.strength).value

        off = (robust()[some] - row_by_row(values, nominal[some], ambiguity)).abs().max()
        few = nominal[: len(nominal) // 20]
        general = [seconds(row_by_row, values, few, ambiguity) / seconds(torch.mv, few, values) for _ in range(3)]
        pairs = [(seconds(torch.mv, nominal, values), seconds(robust)) for _ in range(turns)]
        table[name] = {
            "nominal_ms": 1e3 * statistics.median(a for a, _ in pairs),
            "robust_ms": 1e3 * statistics.median(b for _, b in pairs),
            "ratio": statistics.median(b / a for a, b in pairs),
            "lowest_ratio": min(b / a for a, b in pairs),
            "ratio_row_by_row": statistics.median(general),
            "error": float(off),
            "goal": goal,
        }
    return table


def lp(values: np.ndarray, nominal: np.ndarray, radius: float) -> float:
    """The least expectation within a total variation: mass u ≤ p leaves, as much w ≥ 0 arrives, at most `radius`."""
    from scipy.optimize import linprog

    n = len(values)
    ones, bounds = np.ones(n), np.stack([np.zeros(2 * n), np.concatenate([nominal, np.full(n, np.inf)])], -1)
    balance, moved = np.concatenate([ones, -ones])[None], np.concatenate([ones, 0 * ones])[None]
    cost = np.concatenate([-values, values])
    found = linprog(cost, A_ub=moved, b_ub=[radius], A_eq=balance, b_eq=[0.0], bounds=bounds, method="highs")
    return float(nominal @ values + found.fun)


def conic(name: str, n: int) -> Callable[[np.ndarray, np.ndarray, float], float]:
    """min q·v in a ball around p as a programme in the ratios q/p that cvxpy compiles once, solved by Clarabel."""
    import cvxpy as cp

    ratio, weighted = cp.Variable(n, nonneg=True), cp.Parameter(n)
    p, root, radius = cp.Parameter(n, nonneg=True), cp.Parameter(n, nonneg=True), cp.Parameter(nonneg=True)
    spent = p @ -cp.entr(ratio) if name == "KL" else cp.sum_squares(cp.multiply(root, ratio - 1))
    problem = cp.Problem(cp.Minimize(weighted @ ratio), [p @ ratio == 1, spent <= radius])

    def solved(values: np.ndarray, nominal: np.ndarray, size: float) -> float:
        weighted.value, p.value, root.value, radius.value = values * nominal, nominal, np.sqrt(nominal), size
        return float(problem.solve(solver=cp.CLARABEL))

    return solved


def peers(turns: int, states: int, actions: int, rows: int) -> dict[str, Any]:
    """Time a row of ours for all rows at once, and of a peer that solves some of them one after another."""
    use(1)
    nominal = kernel("even", states * actions, states)
    values = torch.randn(states, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    some = torch.arange(0, len(nominal), len(nominal) // rows)
    table: dict[str, Any] = {}
    for name, ambiguity, size, one, goal in (
        ("TV 0.1, HiGHS", TotalVariation(0.1), 0.1, lp, 300),
        ("L1 0.2, HiGHS", L1(0.2), 0.1, lp, 300),
        ("KL 0.1, cvxpy", KL(0.1), 0.1, conic("KL", states), 1000),
        ("chi-square 0.5, cvxpy", ChiSquare(0.5), 0.5, conic("chi-square", states), 1000),
    ):

        def theirs(turn: int, size: float = size, one: Callable[..., float] = one) -> list[float]:
            return [one(values.numpy(), nominal[i].numpy(), size) for i in some[turn::turns]]

        mine = solve(values, nominal, ambiguity, ambiguity.strength).value
        found = [theirs(turn) for turn in range(turns)]  # and compiles
        pairs = [
            (
                seconds(solve, values, nominal, ambiguity, ambiguity.strength) / len(nominal),
                seconds(theirs, turn) / len(some[turn::turns]),
            )
            for turn in range(turns)
        ]
        off = [mine[some[turn::turns]] - torch.tensor(found[turn], dtype=torch.float64) for turn in range(turns)]
        table[name] = {
            "ours_us_a_row": 1e6 * statistics.median(a for a, _ in pairs),
            "peer_us_a_row": 1e6 * statistics.median(b for _, b in pairs),
            "ratio": statistics.median(b / a for a, b in pairs),
            "difference": float(torch.cat(off).abs().max()),
            "goal": goal,
        }
    return table


def show(title: str, table: dict[str, Any]) -> None:
    print(title)
    for name, row in table.items():
        print(f"  {name:<28}" + "  ".join(f"{key} {value:.3g}" for key, value in row.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--peers", action="store_true", help="one programme a row instead of sweeps")
    parser.add_argument("--rows", type=int, default=45, help="with --peers: rows that a peer solves")
    arguments = parser.parse_args()
    load = os.getloadavg()
    facts: dict[str, Any] = {"turns": arguments.turns, "load_before": load}
    if arguments.peers:
        table = peers(arguments.turns, 200, 10, arguments.rows)
        show("200 states, 10 actions, one row at a time", table)
        packages = {name: version(name) for name in ("scipy", "cvxpy", "clarabel")}
        command = "python benchmarks/bench_worst_case.py --peers"
        store("worst_case_peers", {"table": table, **facts, "packages": packages, "command": command})
        return
    results = {}
    command = "python benchmarks/bench_worst_case.py"
    for kind in ("even", "varied"):
        for threads in (1, 2):
            title = f"{kind}, {threads} thread{'s' if threads > 1 else ''}"
            results[title] = sweeps(kind, threads, arguments.turns, 2000, 10)
            show(title, results[title])
            store("worst_case_sweeps", {"table": results, **facts, "load_after": os.getloadavg(), "command": command})


if __name__ == "__main__":
    main()

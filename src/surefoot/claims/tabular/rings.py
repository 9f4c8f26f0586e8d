"""The rings of the authors' code of regularised robust MDPs, with the numbers of their logs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity import KL
from surefoot.claims.parts import Measurements, Summary
from surefoot.envs.tabular import TabularMDP
from surefoot.envs.tabular.policies import greedy
from surefoot.loops.tabular.gradient import backup, evaluate
from surefoot.methods.tabular.regularized_rmdp import RFZI, RegularizedRMDP

# --- the ring of 14: exact gradients -----------------------------------------------------------------------------------

RING = (0, 0, -1, 2, -1, 0, 0, -10, 5, -10, 0, 0.9, 1, 0)
LOGGED: dict[
    tuple[float, float], tuple[int, tuple[float, ...]]
] = {  # (p, β): policies until a gap below 1e-6; gaps after 0, 2, 10, 50 updates
    (0.15, 0.01): (115, (36.960, 11.030, 0.8640, 0.1145)),
    (0.15, 0.1): (110, (55.679, 12.339, 0.3050, 0.0373)),
    (0.15, 1.0): (235, (125.091, 13.637, 0.2736, 0.0507)),
    (0.01, 0.1): (227, (85.470, 46.464, 17.508, 0.1875)),
    (0.01, 1.0): (68, (115.119, 24.863, 0.5024, 0.0036)),
    (0.01, 2.0): (77, (125.540, 17.692, 1.325, 0.0299)),
    (0.01, 3.0): (193, (129.135, 15.093, 0.8160, 0.0697)),
}
QUICK = ((0.15, 0.1), (0.01, 1.0))
ASCENT = {beta: RegularizedRMDP(f"kl-penalty:{1 / beta:.17g}") for beta in (0.01, 0.1, 1.0, 2.0, 3.0)}


def optimum(mdp: TabularMDP, beta: float, sweeps: int = 400) -> Tensor:
    """V* `[S]` by value iteration."""
    value = torch.zeros(mdp.states, dtype=torch.float64)
    for _ in range(sweeps):
        value = backup(mdp, value, KL(penalty=1 / beta)).q.amax(-1)
    return value


def ring(source: Sequence[float], p: float) -> TabularMDP:
    """Left, stay, right on a circle: with probability p each, the neighbours of the cell that was meant."""
    cells = torch.arange(len(source))
    rows = torch.zeros(len(source), 3, len(source), dtype=torch.float64)
    for action, move in enumerate((-1, 0, 1)):
        for off, weight in ((-1, p), (0, 1 - 2 * p), (1, p)):
            rows[cells, action, (cells + move + off) % len(source)] += weight
    return TabularMDP(rows, torch.tensor(source, dtype=torch.float64)[:, None].expand(-1, 3), 0.95)


def climbed(p: float, beta: float, seeds: Sequence[int]) -> dict[str, Any]:
    """Updates until the gap is below 1e-6, from the uniform policy, and the gaps after 0, 2, 10 and 50 of them."""
    mdp, method = ring(RING, p), ASCENT[beta]
    best, state, gaps = float(mdp.initial @ optimum(mdp, beta)), method.start(mdp, 0), list[float]()
    while len(gaps) < 1000:
        gaps.append(best - float(mdp.initial @ (state["policy"] * state["q"]).sum(-1)))
        if gaps[-1] < 1e-6:
            break
        state, _ = method.step(mdp, state, 0, len(gaps) - 1)
    return {"updates": len(gaps) - 1, "gaps": [gaps[i] for i in (0, 2, 10, 50)]}


def of_ring(found: Measurements) -> Summary:
    runs = {place: found[ring_name(*place)] for place in LOGGED if ring_name(*place) in found}
    off = [abs(run["updates"] + 1 - LOGGED[place][0]) for place, run in runs.items()]
    gaps = [np.abs(np.array(run["gaps"]) / LOGGED[place][1] - 1).max() for place, run in runs.items()]
    return {"policies until the optimum, less the log's": max(off), "gaps, relative to the log's": float(max(gaps))} | {
        f"largest error of the {name}": error for name, error in found.get("identities", {}).items()
    }


def ring_name(p: float, beta: float) -> str:
    return f"p={p:g}, β={beta:g}"


# --- the authors' ring of 100 ----------------------------------------------------------------------------------------

ZONE = tuple(3 * math.sin(i * math.pi / 2.05) for i in range(50)) + tuple(math.sin(i * math.pi / 50) for i in range(50))
TABLES = {beta: RFZI(beta=beta, samples=1_000_000) for beta in (0.01, 0.1)}
NETWORK = {  # the authors' values after 2000 iterations, seeds 0, 10 … 40
    0.01: (30.859, 30.886, 30.610, 30.829, 30.932),
    0.1: (28.375, 28.926, 29.552, 29.211, 28.811),
}
RADII, STEPS, SWEEPS = (0.0, 0.1, 0.3), 20, 300


def zone(beta: float, seeds: Sequence[int]) -> dict[str, Any]:
    """The optimum, and the risk-sensitive value of the policy that RFZI ends with, a number a seed."""
    mdp, method, values = ring(ZONE, 0.15), TABLES[beta], []
    for seed in seeds:
        state = method.start(mdp, seed)
        for iteration in range(SWEEPS):
            state, _ = method.step(mdp, state, seed, iteration)
        found = evaluate(mdp, method.policy(mdp, state), KL(penalty=1 / beta))
        values.append(float(mdp.initial @ found.value))
    return {"optimum": float(mdp.initial @ optimum(mdp, beta)), "values": values}


def shifted(seeds: Sequence[int]) -> dict[str, list[float]]:
    """What 20 discounted steps are worth in the worst KL ball around every row, for the radii in turn: of the policy that
    is best against the penalty with β = 0.5, of the best one without an adversary, and of the best for just 20 steps."""
    mdp = ring(ZONE, 0.15)
    short = dataclasses.replace(mdp, horizon=STEPS)
    value, stages = torch.zeros(mdp.states, dtype=torch.float64), list[Tensor]()
    for _ in range(STEPS):
        q = backup(mdp, value, None).q
        value, stages = q.amax(-1), [greedy(mdp, q), *stages]
    for _ in range(400):
        value = backup(mdp, value, None).q.amax(-1)
    soft = KL(penalty=1 / 0.5)
    policies = {
        "soft-robust": greedy(mdp, backup(mdp, optimum(mdp, 0.5), soft).q),
        "neutral": greedy(mdp, backup(mdp, value, None).q),
        "neutral for 20 steps": torch.stack(stages),
    }
    return {
        name: [float(mdp.initial @ evaluate(short, policy, KL(r) if r else None).value[0]) for r in RADII]
        for name, policy in policies.items()
    }


def of_zone(found: Measurements) -> Summary:
    series: dict[str, Any] = {}
    for beta in TABLES:
        run = found[f"β={beta:g}"]
        series[f"gap, β={beta:g}"] = run["optimum"] - np.array(run["values"])
    for i, radius in enumerate(RADII):
        ours, *others = (found["balls"][name][i] for name in ("soft-robust", "neutral", "neutral for 20 steps"))
        series[f"radius {radius:g}: soft-robust − neutral"] = ours - others[0]
        series[f"radius {radius:g}: soft-robust − neutral for 20 steps"] = ours - others[1]
    return series

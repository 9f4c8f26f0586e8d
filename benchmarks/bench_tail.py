"""Time to a robust linear model: `dro` (cvxpy with CLARABEL) and ours, on the same objective.

    pip install --no-deps dro && python benchmarks/bench_tail.py [--samples 10000] [--features 50]

Both minimise the CVaR of the worst tenth, or the worst case of a χ² ball of 0.5, of squared losses, with an intercept
and no price on the norm. Ours stops at the first epoch whose objective is within 1e-4 of theirs, relative; the ratio is
of the times until then. Without `dro` only ours are timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib import import_module
from importlib.metadata import distribution, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from peer_sb3 import pin
from surefoot.ambiguity import parse
from surefoot.data.tables import Table
from surefoot.loops.finite_sum.learner import FiniteSumLearner
from surefoot.loops.finite_sum.problem import weigh
from surefoot.methods.supervised.drrho import DRRho

RESULTS = Path(__file__).parent / "results"
SETS = {
    "CVaR 0.1": ("cvar:0.1", "cvar_dro", "CVaRDRO", {"alpha": 0.1}),
    "χ² 0.5": ("chi2:0.5", "chi2_dro", "Chi2DRO", {"eps": 0.5}),
}


def table(samples: int, features: int, seed: int = 0) -> Table:
    stream = np.random.default_rng(seed)
    X = stream.normal(size=(samples, features))
    return Table(X, X @ stream.normal(size=features) + stream.standard_t(3, size=samples))


def value(text: str, rows: Table, theta: np.ndarray, intercept: float) -> float:
    """The objective, of squared losses without the half."""
    return weigh(parse(text), (rows.y - rows.X @ theta - intercept) ** 2).risk


def theirs(module: str, name: str, settings: dict[str, Any], rows: Table) -> tuple[float, np.ndarray, float]:
    """The time of a fit, and what it finds."""
    for package in ("dro", "dro.linear_model"):  # without their own imports, which need nets, trees and downloads
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(distribution("dro").locate_file(package.replace(".", "/")))]
    model = getattr(import_module(f"dro.linear_model.{module}"), name)(rows.X.shape[1], "ols")
    model.update(settings)
    began = time.perf_counter()
    model.fit(rows.X, rows.y)
    return time.perf_counter() - began, np.asarray(model.theta).ravel(), float(model.b)


def ours(text: str, rows: Table, bound: float | None, epochs: int = 200) -> tuple[float, float]:
    """The time to a bound on the objective, or to the end without one; and the last objective."""
    began = time.perf_counter()
    learner = FiniteSumLearner(DRRho(ambiguity=text, l2=0.0), rows, [0])
    for _ in range(epochs):
        found = 2 * learner.iterate()[0]["objective"]
        if bound is not None and found <= bound:
            break
    return time.perf_counter() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=50)
    given = parser.parse_args()
    pin()
    rows, results = table(given.samples, given.features), {}
    for title, (text, module, name, settings) in SETS.items():
        try:
            seconds, theta, intercept = theirs(module, name, settings, rows)
        except ImportError:
            print(f"{title}: ours {ours(text, rows, None)[0]:.2f} s; dro is not installed")
            continue
        goal = value(text, rows, theta, intercept)
        mine = sorted(ours(text, rows, goal * (1 + 1e-4)) for _ in range(3))[1]
        results[title] = {"dro": seconds, "ours": mine[0], "objective": goal, "excess": mine[1] / goal - 1}
        print(f"{title}: dro {seconds:.2f} s, ours {mine[0]:.2f} s, ratio {seconds / mine[0]:.1f}; "
              f"objective {goal:.6g}, ours above by {mine[1] / goal - 1:.1e}")  # fmt: skip
    if results:
        packages = ("dro", "cvxpy", "clarabel", "numpy", "scipy", "surefoot")
        about = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        about |= {"versions": {one: version(one) for one in packages}, **vars(given)}
        (RESULTS / "tail.json").write_text(json.dumps({**about, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Time to recourse for 1,000 rejected rows: DiRRAc's batch, and cvxpy (CLARABEL) one row after another.

    python benchmarks/bench_recourse.py [--rows 1000] [--peer-rows 50] [--features 20]

One group of classifiers, an l1 budget and a Gelbrich ball. The worst probability of rejection is at most p where

    θ̂ᵀx ≥ τ·√(xᵀΣ̂x) + ρ·√(1 + τ²)·‖x‖,    τ = √((1 − p)/p)

which is convex in x, so that cvxpy finds the best row by bisecting p, after the least cost of an accepted row; it stops
at an interval of p below DiRRAc's tolerance. Its problems are made for each row, with p as a parameter, or once for
all, with the row as a parameter too. Its time for all rows is that of the first ones, in proportion. Times are of the
processor, on one thread.
"""

from __future__ import annotations

import argparse
import time
from importlib.metadata import version
from typing import Any

import cvxpy as cp
import numpy as np
from sklearn.linear_model import LogisticRegression

from peer_sb3 import pin, store
from surefoot.methods.supervised.dirrac import DiRRAc
from surefoot.methods.supervised.dirrac.recourse import Fitted

METHOD = DiRRAc(radius=0.1, budget=0.5)


def problem(rows: int, features: int, seed: int = 0) -> tuple[list[Any], np.ndarray]:
    """Classifiers of many samples of 300 of the same people, and people whom the mean of them rejects."""
    stream = np.random.default_rng(seed)
    truth = stream.normal(size=features)
    X = stream.normal(size=(20 * rows, features))
    y = (X @ truth + stream.normal(size=len(X)) > 0).astype(int)
    samples = (stream.choice(len(X), 300, replace=False) for _ in range(50))
    models = [LogisticRegression().fit(X[one], y[one]) for one in samples]
    mean = np.mean([one.decision_function(X) for one in models], 0)
    return models, X[mean < 0][:rows]


class RowByRow:
    """The same problem for cvxpy."""

    def __init__(self, fitted: Fitted, features: int) -> None:
        mean, covariance = fitted.known.means[0].numpy(), fitted.known.covariances[0].numpy()
        half = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(covariance))).T
        self.x, self.start = cp.Variable(features), cp.Parameter(features)
        self.within, self.tau, self.both = (cp.Parameter(nonneg=True) for _ in range(3))
        whole = cp.hstack([self.x, 1.0])
        cost, size = cp.norm1(self.x - self.start), METHOD.radius * cp.norm(whole)
        accepted = [mean @ whole - size >= METHOD.margin]
        self.nearest = cp.Problem(cp.Minimize(cost), accepted)
        short = self.tau * cp.norm(half @ whole) + self.both * size - mean @ whole
        self.shortfall = cp.Problem(cp.Minimize(short), [*accepted, cost <= self.within])

    def best(self, row: np.ndarray) -> float:
        """The least worst probability of rejection, from above."""
        self.start.value = row
        self.within.value = self.nearest.solve(solver="CLARABEL") + METHOD.budget
        low, high = 0.0, 1.0
        while high - low > METHOD.tolerance:
            p = (low + high) / 2
            self.tau.value = np.sqrt((1 - p) / p)
            self.both.value = np.sqrt(1 + self.tau.value**2)
            if self.shortfall.solve(solver="CLARABEL") <= 0:
                high = p
            else:
                low = p
        return high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--peer-rows", type=int, default=50)
    parser.add_argument("--features", type=int, default=20)
    given = parser.parse_args()
    pin()
    models, X = problem(given.rows, given.features)
    fitted = METHOD.fit(models)
    times, answer = [], fitted.recourse(X)
    for _ in range(3):
        began = time.process_time()
        answer = fitted.recourse(X)
        times.append(time.process_time() - began)
    ours, some = sorted(times)[1], X[: given.peer_rows]
    once = RowByRow(fitted, given.features)
    once.best(X[0])  # compiles
    theirs, best = {}, np.zeros(0)
    for title, made in (("made once", lambda: once), ("made for each row", lambda: RowByRow(fitted, given.features))):
        began = time.process_time()
        best = np.array([made().best(row) for row in some])
        theirs[title] = (time.process_time() - began) / len(some) * len(X)
    above = answer.probability[: len(some)] - best
    assert answer.found.all() and (answer.cost - answer.least_cost <= METHOD.budget + 1e-3).all()
    found = {"ours": ours, "cvxpy": theirs, "ratios": {title: x / ours for title, x in theirs.items()}}
    found |= {"probability": float(best.mean())}
    found |= {"above": {"mean": float(above.mean()), "most": float(above.max()), "least": float(above.min())}}
    print(f"{len(X)} rows: ours {ours:.2f} s; worst probability of rejection {best.mean():.4f} by cvxpy, ours above by "
          f"{above.mean():.1e} in the mean, {above.max():.1e} at most, {above.min():.1e} at least")  # fmt: skip
    for title, x in theirs.items():
        print(f"cvxpy, {title}: {x:.1f} s, ratio {x / ours:.0f}")
    packages = {name: version(name) for name in ("cvxpy", "clarabel")}
    store("recourse", {**vars(given), "method": repr(METHOD), **found, "peer": packages})


if __name__ == "__main__":
    main()

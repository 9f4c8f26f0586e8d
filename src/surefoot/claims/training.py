"""What experiments are made of: training in memory, and the series that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from surefoot.loops.common.final import sliding_mean, training_returns
from surefoot.loops.common.run import make_learner


def train_rows(
    method: Any,
    env: Any,
    steps: int,
    seeds: Sequence[int],
    observe: Callable[[Any, list[dict[str, Any]]], None] | None = None,
    **options: Any,
) -> list[list[dict[str, Any]]]:
    """Train all seeds at once in memory: the rows of metrics, `[iterations][seeds]`, each with its `step`.

    `observe(learner, rows)` may look at the learner after every iteration and add to the rows.
    """
    learner = make_learner(method, env, list(seeds), steps, **options)
    history = []
    try:
        while learner.steps < steps:
            rows = learner.iterate()
            for row in rows:
                row["step"] = learner.steps
            if observe is not None:
                observe(learner, rows)
            history.append(rows)
    finally:
        learner.close()
    return history


def metric_of(history: Sequence[Sequence[Mapping[str, Any]]], name: str) -> np.ndarray:
    """A metric as `[seeds, iterations]`; where an iteration has none (no episode ended) the last known one stands."""
    table = np.array([[row.get(name, np.nan) for row in rows] for rows in history], dtype=float).T
    for i in range(1, table.shape[1]):
        table[:, i] = np.where(np.isnan(table[:, i]), table[:, i - 1], table[:, i])
    first = np.array([row[~np.isnan(row)][0] if (~np.isnan(row)).any() else 0.0 for row in table])
    return np.where(np.isnan(table), first[:, None], table)


def final(history: Sequence[Sequence[Mapping[str, Any]]]) -> list[float]:
    """The final return of each seed, as the terminal, reports and comparisons have it (`surefoot.loops.common.final`); where
    no episode ended in the last tenth of training, the last one known."""
    rows = [{**row, "step": i, "seed": seed} for i, each in enumerate(history) for seed, row in enumerate(each)]
    _, _, *returns = training_returns(rows)
    known = [row[np.isfinite(row)] for row in sliding_mean(*returns)]
    return [float(row[-1]) if row.size else 0.0 for row in known]


def area(history: Sequence[Sequence[Mapping[str, Any]]], name: str = "return") -> list[float]:
    """Mean of a metric over all of training (the area under its curve), one number a seed."""
    return metric_of(history, name).mean(1).tolist()


def last_fifth(history: Sequence[Sequence[Mapping[str, Any]]], name: str = "return") -> list[float]:
    """Mean of a metric over the last fifth of the iterations, one number a seed."""
    table = metric_of(history, name)
    return table[:, -max(1, round(0.2 * table.shape[1])) :].mean(1).tolist()

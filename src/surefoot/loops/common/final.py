"""The final return of a run: one definition for the terminal, reports, comparisons and claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

SHARE = 0.1  # share of a run's iterations over which returns are averaged
OF_EPISODES = "mean return of the training episodes that ended in the last tenth of training, sampled actions"
OF_ITERATIONS = "mean training return of the last tenth of the iterations"
OF_EVALUATIONS = "mean return of the evaluations in the last tenth of training, deterministic actions"
OF_OBJECTIVE = "minus the mean objective of the last tenth of the epochs"


def definition(rows: Iterable[Mapping[str, Any]]) -> str:
    """The definition of the final return of a run with these metrics, in words: over episodes, over iterations, or, for
    a run that never acts in training, over its evaluations, or minus the objective of a run on a table."""
    rows = list(rows)
    if over_rows(rows):
        return OF_OBJECTIVE
    return {"return": OF_EPISODES, "return_mean": OF_ITERATIONS, "evaluation_mean": OF_EVALUATIONS}[_measure(rows)]


def _measure(rows: list[Mapping[str, Any]]) -> str:
    """The metric that is averaged."""
    if any("episodes" in row for row in rows):
        return "return"
    acts = any("return_mean" in row for row in rows)
    return "return_mean" if acts or not any("evaluation_mean" in row for row in rows) else "evaluation_mean"


def over_rows(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a run with these metrics passed over the rows of a table, so that nothing acted in an environment."""
    return any("passes" in row for row in rows)


def training_returns(
    rows: Iterable[Mapping[str, Any]],
) -> tuple[list[Any], np.ndarray, np.ndarray, np.ndarray]:
    """From the rows of `metrics.jsonl`: seeds, steps `[iterations]`, the mean training return of every iteration
    `[seeds, iterations]`, NaN where there is none, and the number of episodes in that mean.

    If episodes are counted, it is the mean of the episodes that ended in the iteration ("return"), not the running
    "return_mean"; otherwise it is "return_mean", with a weight of 1 per iteration.
    """
    found = [row for row in rows if isinstance(row.get("step"), (int, float))]
    measure = _measure(found)
    counted = measure == "return"
    steps = {step: i for i, step in enumerate(sorted({row["step"] for row in found}))}
    seeds = {seed: i for i, seed in enumerate(dict.fromkeys(row.get("seed", 0) for row in found))}
    table = np.full((len(seeds), len(steps)), np.nan)
    episodes = np.full(table.shape, np.nan)
    for row in found:
        place = seeds[row.get("seed", 0)], steps[row["step"]]
        value, count = row.get(measure), row.get("episodes")
        table[place] = value if isinstance(value, (int, float)) and np.isfinite(value) else np.nan
        episodes[place] = count if isinstance(count, (int, float)) else np.nan
    ended = np.diff(np.maximum.accumulate(np.nan_to_num(episodes), axis=1), axis=1, prepend=0) if counted else 1.0
    return [*seeds], np.array([*steps], float), table, np.where(np.isnan(table), 0.0, ended)


def sliding_mean(table: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weighted mean over a sliding window of the last `SHARE` of all iterations: `[seeds, iterations]`.

    Its last column is the final return; NaN where no episode ended in the window.
    """
    window = max(1, round(SHARE * table.shape[1]))
    sums = []
    for values in (np.where(weight > 0, table, 0.0) * weight, weight):
        total = np.pad(values.cumsum(axis=1), ((0, 0), (window, 0)))
        sums.append(total[:, window:] - total[:, :-window])
    return np.divide(sums[0], sums[1], out=np.full(table.shape, np.nan), where=sums[1] > 0)


def final_returns(rows: Iterable[Mapping[str, Any]]) -> dict[Any, float]:
    """The final return of every seed; see `definition`. NaN where no episode ended in the last tenth of training."""
    seeds, _, table, weight = training_returns(rows)
    return dict(zip(seeds, sliding_mean(table, weight)[:, -1].tolist(), strict=True)) if seeds else {}

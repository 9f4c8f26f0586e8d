"""Comparing learners on one footing: the same environment, steps and seeds, honest statistics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.errors import UsageError
from surefoot.evaluate.statistics import (
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    probability_of_improvement,
)
from surefoot.loops.common.run import Run


@dataclass(frozen=True)
class Comparison:
    """Scores of several learners, `[seeds, environments]` each: the mean return over the last tenth of training, and
    over all of it (`areas`)."""

    envs: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: Mapping[str, np.ndarray]
    areas: Mapping[str, np.ndarray]

    def normalised(self) -> dict[str, np.ndarray]:
        """Scores scaled in each environment so that 0 is the worst and 1 the best run of any learner."""
        every = np.concatenate(list(self.scores.values()))
        low, span = every.min(0), np.ptp(every, axis=0)
        return {name: (s - low) / np.where(span > 0, span, 1) for name, s in self.scores.items()}

    def rows(self) -> list[dict[str, Any]]:
        """One row a learner: interquartile mean with its interval, area, and P(improvement) over the first learner."""
        first = next(iter(self.scores))
        single = len(self.envs) == 1
        scores = dict(self.scores) if single else self.normalised()
        rows = []
        for name, values in scores.items():
            low, high = map(float, bootstrap_interval(values)) if len(values) > 1 else (None, None)
            row = {"learner": name, "iqm": float(interquartile_mean(values)), "low": low, "high": high}
            row["area"] = float(self.areas[name].mean()) if single else None
            if name != first:
                row["improves"] = probability_of_improvement(values, scores[first])
                both = map(float, improvement_interval(values, scores[first])) if len(values) > 1 else (None, None)
                row["improves_low"], row["improves_high"] = both
            rows.append(row)
        return rows

    def table(self) -> str:
        """The comparison as text."""
        first = next(iter(self.scores))
        width = max(18, *map(len, self.scores)) + 2
        unit = "return" if len(self.envs) == 1 else "normalised return"
        lines = [
            f"{', '.join(self.envs)} · {len(self.seeds)} seeds · {unit} over the last tenth, 95 % bootstrap interval"
        ]
        lines.append(f"{'learner':<{width}}{'IQM':>10}  {'interval':<24}P(better than {first})")
        for row in self.rows():
            better = ""
            if "improves" in row:
                better = f"{row['improves']:.2f}{_interval(row['improves_low'], row['improves_high'], '.2f')}"
            interval = _interval(row["low"], row["high"], ".4g").strip() or "needs 2 seeds"
            lines.append(f"{row['learner']:<{width}}{row['iqm']:>10.4g}  {interval:<24}{better}".rstrip())
        return "\n".join(lines)

    def save(self, path: Path) -> Path:
        """Write everything as JSON."""
        data = {
            "envs": self.envs,
            "seeds": self.seeds,
            "scores": {name: s.tolist() for name, s in self.scores.items()},
            "areas": {name: s.tolist() for name, s in self.areas.items()},
            "rows": self.rows(),
        }
        path.write_text(json.dumps(data, indent=2))
        return path


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"


def check_same(run: Run, asked: Mapping[str, Any]) -> None:
    """Raise `UsageError` where a run that a comparison would use again was made with other settings than `asked`."""
    asked = json.loads(json.dumps(asked))  # tuples as the lists that config.json has
    other = {name: run.config[name] for name in asked if run.config[name] != asked[name]}
    if other:
        wanted = {name: asked[name] for name in other}
        raise UsageError(f"{run.path} holds a run with {other}; asked for is {wanted}. Give another out, or remove it.")


def compare_runs(runs: Mapping[str, Sequence[Run]], share: float = 0.1) -> Comparison:
    """The comparison of finished runs: of each learner in each environment one run, or several that share the seeds.

    Raises:
        UsageError: they differ in environments or seeds, or a seed has not ended a single episode.
    """
    scored = {name: _scored(each, share) for name, each in runs.items()}
    envs = {name: tuple(found) for name, found in scored.items()}
    seeds = {tuple(each) for found in scored.values() for each in found.values()}
    if len(set(envs.values())) != 1 or len(seeds) != 1:
        raise UsageError(
            f"The runs differ in environments {envs} or seeds {sorted(seeds)}; a comparison needs them equal."
        )
    tables = {name: np.array([list(each.values()) for each in found.values()]) for name, found in scored.items()}
    scores, areas = ({name: table[:, :, i].T for name, table in tables.items()} for i in (0, 1))
    return Comparison(next(iter(envs.values())), next(iter(seeds)), scores, areas)


def _returns(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """The mean return of every iteration `[seeds, iterations]`, and of how many episodes: those that ended in it alone,
    where "return_mean" looks back over many."""
    episodes = run.curve("episodes")[1]
    if np.isnan(episodes).all():
        table = run.curve("return_mean")[1]
        return table, np.where(np.isnan(table), 0.0, 1.0)
    table = run.curve("return")[1]
    return table, np.where(np.isnan(table), 0.0, np.diff(episodes, prepend=0))


def _scored(runs: Sequence[Run], share: float) -> dict[str, dict[int, tuple[float, float]]]:
    """By environment and seed: the mean return over the last `share` of training, and over all of it."""
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for run in runs:
        table, count = _returns(run)
        last = slice(-max(1, round(share * table.shape[1])), None)
        if not count[:, last].sum(1).all():
            raise UsageError(
                f"No episode ended in the last {share:.0%} of training in a seed of {run.path}, so it has no return "
                "there; train for more steps."
            )
        scores = (np.nan_to_num(table) * count)[:, last].sum(1) / count[:, last].sum(1)
        means = zip(scores.tolist(), np.nanmean(table, axis=1).tolist(), strict=True)
        found.setdefault(run.config["env"]["env"], {}).update(zip(run.config["seeds"], means, strict=True))
    return found

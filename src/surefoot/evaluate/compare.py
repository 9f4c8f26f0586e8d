"""Comparisons of learners with the same environments, steps and seeds, with intervals over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.errors import UsageError
from surefoot.evaluate.statistics import (
    ConfidenceInterval,
    confidence_interval,
    improvement_interval,
    in_brackets,
    interquartile_mean,
    probability_of_improvement,
)
from surefoot.loops.common.final import OF_EPISODES, definition, sliding_mean, training_returns
from surefoot.loops.common.kinds import Loop
from surefoot.loops.common.run import Run


@dataclass(frozen=True)
class Comparison:
    """Scores of several learners, `[seeds, environments]` each: the final return (`surefoot.loops.common.final`), and
    the mean return over all of training (`areas`)."""

    envs: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: Mapping[str, np.ndarray]
    areas: Mapping[str, np.ndarray]
    measured: str = OF_EPISODES  # what the final return is

    def normalised(self) -> dict[str, np.ndarray]:
        """Scores scaled per environment so that 0 is the worst and 1 the best run of any learner."""
        every = np.concatenate(list(self.scores.values()))
        low, span = every.min(0), np.ptp(every, axis=0)
        return {name: (s - low) / np.where(span > 0, span, 1) for name, s in self.scores.items()}

    def rows(self) -> list[dict[str, Any]]:
        """One row per learner: interquartile mean, area, and P(improvement) over the first learner, with intervals over
        seeds; the bounds are `None` where there is no interval: with one seed, or if the scores do not differ."""
        first = next(iter(self.scores))
        single = len(self.envs) == 1
        scores = dict(self.scores) if single else self.normalised()
        rows = []
        for name, values in scores.items():
            low, high = confidence_interval(values) or (None, None)
            row = {"learner": name, "iqm": float(interquartile_mean(values)), "low": low, "high": high}
            row["area"] = float(self.areas[name].mean()) if single else None
            if name != first:
                row["improves"] = probability_of_improvement(values, scores[first])
                row["improves_low"], row["improves_high"] = improvement_interval(values, scores[first]) or (None, None)
            rows.append(row)
        return rows

    def table(self) -> str:
        """The comparison as text."""
        first = next(iter(self.scores))
        width = max(18, *map(len, self.scores)) + 2
        unit = "final return" if len(self.envs) == 1 else "normalised final return"
        lines = [f"{', '.join(self.envs)} · {len(self.seeds)} seeds · {unit}, 95 % intervals over seeds"]
        lines.append(f"{'learner':<{width}}{'IQM':>10}  {'interval':<24}P(better than {first})")
        for row in self.rows():
            better = ""
            if "improves" in row:
                better = f"{row['improves']:.2f} {_bounds(row, 'improves_low', 'improves_high', '.2f')}"
            missing = "needs 2 seeds" if len(self.seeds) < 2 else "none: scores do not differ"
            interval = _bounds(row, "low", "high", ".4g") or missing
            lines.append(f"{row['learner']:<{width}}{row['iqm']:>10.4g}  {interval:<24}{better}".rstrip())
        lines.append(f"Final return: {self.measured}.")
        if len(self.envs) > 1:
            lines.append("Normalised: 0 is the worst and 1 the best run of this comparison in each environment.")
        return "\n".join(lines)

    def save(self, path: Path) -> Path:
        """Write everything as JSON."""
        data = {
            "envs": self.envs,
            "seeds": self.seeds,
            "measured": self.measured,
            "scores": {name: s.tolist() for name, s in self.scores.items()},
            "areas": {name: s.tolist() for name, s in self.areas.items()},
            "rows": self.rows(),
        }
        path.write_text(json.dumps(data, indent=2))
        return path


def _bounds(row: Mapping[str, Any], low: str, high: str, form: str) -> str:
    return "" if row[low] is None else in_brackets(ConfidenceInterval(row[low], row[high]), form)


def shares(place: Path, seeds: Sequence[int], kind: Loop) -> Iterator[tuple[Run, list[int]]]:
    """The runs that together train `seeds`, with the seeds of each; their folders are named after `place`. A loop that
    trains many seeds at once trains the seeds missing from an existing run in a further one; others have a run per
    seed."""
    left, path = [*seeds], place
    while left:
        share = left if kind.many_seeds else left[:1]
        run = Run(path if kind.many_seeds else place.with_name(f"{place.name}-{left[0]}"))
        if run.started and (have := run.config["seeds"]) == left[: len(have)]:
            share = have
        yield run, share
        left = left[len(share) :]
        path = place.with_name(f"{place.name}-from-seed-{left[0]}") if left else path


def check_same(run: Run, asked: Mapping[str, Any]) -> None:
    """Raise `UsageError` if an existing run that a comparison would reuse was made with settings other than `asked`."""
    asked = json.loads(json.dumps(asked))  # tuples as the lists that config.json has
    other = {name: run.config[name] for name in asked if run.config[name] != asked[name]}
    if other:
        wanted = {name: asked[name] for name in other}
        raise UsageError(
            f"{run.path} holds a run with {other}; this comparison needs {wanted}. Give another out, or remove it."
        )


def compare_runs(runs: Mapping[str, Sequence[Run]]) -> Comparison:
    """The comparison of finished runs: one run per learner and environment, or several with different seeds.

    Raises:
        UsageError: the runs differ in environments or seeds, or a seed has not finished a single episode.
    """
    rows = {run.path: run.metrics() for each in runs.values() for run in each}
    measured = sorted({definition(found) for found in rows.values()})
    scored = {name: _scored(each, rows) for name, each in runs.items()}
    envs = {name: tuple(found) for name, found in scored.items()}
    seeds = {tuple(each) for found in scored.values() for each in found.values()}
    if len(set(envs.values())) != 1 or len(seeds) != 1:
        raise UsageError(
            f"The runs differ in environments {envs} or seeds {sorted(seeds)}; a comparison needs them equal."
        )
    tables = {name: np.array([list(each.values()) for each in found.values()]) for name, found in scored.items()}
    scores, areas = ({name: table[:, :, i].T for name, table in tables.items()} for i in (0, 1))
    return Comparison(next(iter(envs.values())), next(iter(seeds)), scores, areas, "; ".join(measured))


def _scored(
    runs: Sequence[Run], rows: Mapping[Path, Sequence[Mapping[str, Any]]]
) -> dict[str, dict[int, tuple[float, float]]]:
    """The final return and the mean return over all of training, by environment and seed."""
    found: dict[str, dict[int, tuple[float, float]]] = {}
    for run in runs:
        seeds, _, table, weight = training_returns(rows[run.path])
        final = sliding_mean(table, weight)[:, -1:]
        if not seeds or np.isnan(final).any():
            raise UsageError(
                f"In {run.path} a seed finished no episode in the last tenth of training, so it has no final return;"
                " train for more steps."
            )
        means = zip(final[:, 0].tolist(), np.nanmean(table, axis=1).tolist(), strict=True)
        by_seed = dict(zip(seeds, means, strict=True))
        found.setdefault(run.config["env"]["env"], {}).update({seed: by_seed[seed] for seed in run.config["seeds"]})
    return found

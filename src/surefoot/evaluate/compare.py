"""Comparisons of learners with the same environments, steps and seeds, with intervals over seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.errors import UsageError
from surefoot.evaluate.read_back import LARGEST, figures
from surefoot.evaluate.statistics import (
    ConfidenceInterval,
    confidence_interval,
    improvement_interval,
    in_brackets,
    interquartile_mean,
    probability_of_improvement,
)
from surefoot.loops.common.final import OF_EPISODES, definition, sliding_mean, training_returns
from surefoot.loops.common.kinds import Loop, Method, loop
from surefoot.loops.common.run import Run
from surefoot.loops.common.train import Callback

FILE = "comparison.json"
POINTS = 200  # maximum number of points of a curve that are kept
Curve = tuple[np.ndarray, np.ndarray]
"""Steps `[t]` and mean returns in a sliding window `[seeds, t]`."""


@dataclass(frozen=True)
class Comparison:
    """Scores of several learners, `[seeds, environments]` each: the final return (`surefoot.loops.common.final`), and
    the mean return over all of training (`areas`). `curves` are the learning curves, by learner and environment."""

    envs: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: Mapping[str, np.ndarray]
    areas: Mapping[str, np.ndarray]
    measured: str = OF_EPISODES  # what the final return is
    curves: Mapping[str, Mapping[str, Curve]] = field(default_factory=dict)
    command: str = ""  # that made it

    @property
    def first(self) -> str:
        """The learner that the others are compared with."""
        return next(iter(self.scores))

    def normalised(self) -> dict[str, np.ndarray]:
        """Scores on a scale that no other learner changes: 1 is the first learner's mean in an environment, 0 is worse
        by the size of that mean. For positive returns that is their ratio to the first learner's mean."""
        base = self.scores[self.first].mean(0)
        size = np.where(base == 0, 1.0, np.abs(base))
        return {name: 1 + (scores - base) / size for name, scores in self.scores.items()}

    @property
    def scale(self) -> str:
        """What the scores of several environments are divided by, in words; empty for one environment."""
        if len(self.envs) == 1:
            return ""
        return f"Normalised by the mean of {self.first} in each environment: 1 + (return - mean) / |mean|."

    def rows(self) -> list[dict[str, Any]]:
        """One row per learner: interquartile mean, area, and P(improvement) over the first learner, with intervals over
        seeds; the bounds are `None` where there is no interval: with one seed, or if the scores do not differ."""
        single = len(self.envs) == 1
        scores = dict(self.scores) if single else self.normalised()
        rows = []
        for name, values in scores.items():
            low, high = confidence_interval(values) or (None, None)
            row = {"learner": name, "iqm": float(interquartile_mean(values)), "low": low, "high": high}
            row["area"] = float(self.areas[name].mean()) if single else None
            if name != self.first:
                row["improves"] = probability_of_improvement(values, scores[self.first])
                ends = improvement_interval(values, scores[self.first]) or (None, None)
                row["improves_low"], row["improves_high"] = ends
            rows.append(row)
        return rows

    def by_env(self) -> list[tuple[str, str, float, ConfidenceInterval | None]]:
        """Environment, learner, and the interquartile mean of the final return with its interval."""
        return [
            (env, name, float(interquartile_mean(column)), confidence_interval(column))
            for i, env in enumerate(self.envs)
            for name, column in ((name, scores[:, i]) for name, scores in self.scores.items())
        ]

    def table(self) -> str:
        """The comparison as text."""
        width = max(18, *map(len, self.scores)) + 2
        unit = "final return" if len(self.envs) == 1 else "normalised final return"
        lines = [f"{', '.join(self.envs)} · {len(self.seeds)} seeds · {unit}, 95 % intervals over seeds"]
        lines.append(f"{'learner':<{width}}{'IQM':>10}  {'interval':<24}P(better than {self.first})")
        for row in self.rows():
            better = ""
            if "improves" in row:
                better = f"{row['improves']:.2f} {_bounds(row, 'improves_low', 'improves_high', '.2f')}"
            missing = "needs 2 seeds" if len(self.seeds) < 2 else "none: scores do not differ"
            interval = _bounds(row, "low", "high", ".4g") or missing
            lines.append(f"{row['learner']:<{width}}{row['iqm']:>10.4g}  {interval:<24}{better}".rstrip())
        lines.append(f"Final return: {self.measured}.")
        return "\n".join([*lines, self.scale] if self.scale else lines)

    def to_json(self) -> str:
        """Everything as JSON, which `read` understands; curves are thinned."""
        curves = {
            name: {env: {"steps": x.tolist(), "returns": _with_null(y)} for env, (x, y) in each.items()}
            for name, each in self.curves.items()
        }
        data = {
            "envs": self.envs,
            "seeds": self.seeds,
            "measured": self.measured,
            "command": self.command,
            "scores": {name: s.tolist() for name, s in self.scores.items()},
            "areas": {name: s.tolist() for name, s in self.areas.items()},
            "rows": self.rows(),
            "curves": curves,
        }
        return json.dumps(data, indent=2)

    def save(self, folder: Path) -> Path:
        """Write `comparison.json`, its page `report.html`, `scores.csv` and `table.tex` to a folder; returns the
        page's path."""
        from surefoot.evaluate.pages import comparison

        (folder / FILE).write_text(self.to_json(), encoding="utf-8")
        (folder / "scores.csv").write_text(comparison.csv(self), encoding="utf-8")
        (folder / "table.tex").write_text(comparison.latex(self), encoding="utf-8")
        return comparison.page(self).write(folder / "report.html")


def read(path: Path) -> Comparison:
    """The comparison of a `comparison.json`.

    Raises:
        UsageError: it cannot be read, or its contents are inconsistent.
    """
    data = figures(path)
    try:
        envs, seeds = tuple(map(str, data["envs"])), tuple(map(int, data["seeds"]))
        tables = [{str(n): _table(x, len(seeds), len(envs)) for n, x in data[k].items()} for k in ("scores", "areas")]
        curves = {
            str(name): {str(env): _curve(one, len(seeds)) for env, one in each.items()}
            for name, each in data.get("curves", {}).items()
        }
        if not envs or not seeds or not tables[0] or tables[0].keys() != tables[1].keys() or curves.keys() - tables[0]:
            raise ValueError("its learners differ from part to part")
        scores, areas = tables
        return Comparison(envs, seeds, scores, areas, str(data["measured"]), curves, str(data.get("command", "")))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(
            f"{path} is not a comparison ({error!r}); remove it, and run surefoot compare again: finished runs are "
            "reused."
        ) from error


def _table(rows: Any, *shape: int) -> np.ndarray:
    table = np.array([[np.nan if x is None else float(x) for x in row] for row in rows])
    if table.shape != shape or (np.abs(table) > LARGEST).any():
        raise ValueError(f"a table has shape {table.shape} instead of {shape}, or numbers too large to plot")
    return table


def _curve(one: Mapping[str, Any], seeds: int) -> Curve:
    steps = _table([one["steps"]], 1, len(one["steps"]))[0]
    return steps, _table(one["returns"], seeds, len(steps))


def _with_null(table: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(x) else x for x in row] for row in table.tolist()]


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


def check_comparable(named: Sequence[tuple[str, Method]]) -> None:
    """Raise `UsageError` for methods by name whose runs have no return, or none that means the same."""
    if silent := [name for name, method in named if getattr(method, "samples", 1) == 0]:
        raise UsageError(
            f"{', '.join(silent)} generates no completions in training (samples=0), so it has no return to compare; "
            "leave it out, and compare the result of surefoot evaluate for its run."
        )
    objectives = {str(method.objective()) for _, method in named if loop(method.loop).env_argument == "data"}
    if len(objectives) > 1:
        raise UsageError(
            f"{', '.join(name for name, _ in named)} minimise different objectives of the rows, whose values do not "
            "compare; compare what surefoot evaluate --data FILE says of their runs, or solvers of one objective."
        )


def told_of(name: str, steps: int, progress: Callable[[str], None] | None) -> list[Callback]:
    """A callback that tells of a run's progress, about ten times; none without `progress`."""
    if progress is None:
        return []
    told: list[int] = []

    def tell(learner: Any, rows: list[dict[str, Any]]) -> None:
        tenth = 10 * learner.steps // steps
        if tenth > len(told) or not told:
            told.extend([tenth] * max(1, tenth - len(told)))
            returns = [row["return_mean"] for row in rows if "return_mean" in row]
            said = f" · return {sum(returns) / len(returns):,.4g}" if returns else ""
            progress(f"{name}: {min(learner.steps, steps):,} of {steps:,} steps{said}")

    return [tell]


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
    curves = {name: _curves(each, rows, next(iter(seeds))) for name, each in runs.items()}
    return Comparison(next(iter(envs.values())), next(iter(seeds)), scores, areas, "; ".join(measured), curves)


def _curves(
    runs: Sequence[Run], rows: Mapping[Path, Sequence[Mapping[str, Any]]], seeds: Sequence[int]
) -> dict[str, Curve]:
    """The learning curves of one learner by environment, at most `POINTS` of them, at the steps of all its runs."""
    found: dict[str, dict[int, dict[float, float]]] = {}
    for run in runs:
        those, steps, *returns = training_returns(rows[run.path])
        means = sliding_mean(*returns)
        by_seed = {seed: dict(zip(steps.tolist(), line.tolist())) for seed, line in zip(those, means)}
        found.setdefault(run.config["env"]["env"], {}).update(by_seed)
    curves = {}
    for env, each in found.items():
        shared = sorted(set.intersection(*(set(line) for line in each.values())))
        kept = shared[::-1][:: -(-len(shared) // POINTS)][::-1]
        curves[env] = np.array(kept), np.array([[each[seed][step] for step in kept] for seed in seeds])
    return curves


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

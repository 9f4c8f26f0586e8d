"""A stress test: a policy over a grid of perturbations, and its return in the worst cell.

The protocol is that of RRLS (arXiv:2406.08406) on any environment and any perturbation: play the same episode seeds in
every cell of a grid, average within a cell, and report the minimum and the mean over cells. The grid is closed, so it
includes the corners; `grid="rrls"` is the published half-open one.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import pickle
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from surefoot.cluster import spread, width
from surefoot.envs import make_single
from surefoot.envs.entrance import named_figures
from surefoot.envs.perturbed import settable
from surefoot.errors import UsageError
from surefoot.evaluate import plots
from surefoot.evaluate.acting import Smoothed
from surefoot.evaluate.deployed import boundaries
from surefoot.evaluate.effects import axis_facts, identical_cells
from surefoot.evaluate.foreign import SB3Policy
from surefoot.evaluate.rollout import EnvLike, Episode, Played, episode_seeds, fitted, play_all, record, resolve
from surefoot.evaluate.statistics import (
    ConfidenceInterval,
    confidence_band,
    confidence_interval,
    cvar,
    in_brackets,
    mean,
    worst_interval,
)
from surefoot.hyperparameters import check_count
from surefoot.perturbations import Cell, Perturbation
from surefoot.perturbations.attacks import Target, aimed


@dataclasses.dataclass(frozen=True, eq=False)
class StressReport:
    """Returns of one policy over a grid of perturbations, with statistics and figures."""

    policy: str  # its name
    env: str
    perturbation: str
    grid: str
    axes: tuple[str, ...]  # names of the dimensions
    coordinates: np.ndarray  # [cells, dimensions]
    returns: np.ndarray  # [cells, episodes], undiscounted
    nominal_returns: np.ndarray  # [episodes], unperturbed
    seeds: tuple[int, ...]  # [episodes], the same in every cell
    nominal_point: tuple[float | None, ...] = ()  # unperturbed value of every dimension, None if unknown
    units: tuple[str, ...] = ()  # unit of every dimension, empty if unknown
    deterministic: bool = True  # whether the policy took its most likely action or sampled one
    lengths: np.ndarray | None = None  # [1 + cells] mean episode length, unperturbed and in every cell
    infos: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)  # means of info numbers, likewise

    @property
    def cell_means(self) -> np.ndarray:
        """Mean return of every cell, `[cells]`."""
        return self.returns.mean(axis=1)

    @property
    def changes(self) -> np.ndarray:
        """The return of each episode minus that of the unperturbed one with the same seed, `[cells, episodes]`."""
        return self.returns - self.nominal_returns

    @property
    def worst(self) -> float:
        """The least cell mean. As a minimum of noisy means it is biased low for the worst cell of the grid; between and
        beyond the cells the return may be lower still."""
        return float(self.cell_means.min())

    @property
    def best(self) -> float:
        """The greatest cell mean."""
        return float(self.cell_means.max())

    @property
    def mean(self) -> float:
        """The mean over all cells."""
        return float(self.cell_means.mean())

    @property
    def nominal(self) -> float:
        """The mean return without perturbation."""
        return float(self.nominal_returns.mean())

    @property
    def worst_cell(self) -> dict[str, float]:
        """The coordinates of the worst cell."""
        return dict(zip(self.axes, self.coordinates[self.cell_means.argmin()].tolist()))

    def cvar(self, level: float) -> float:
        """Mean of the worst share `level` of cell means: the minimum as `level` goes to 0, the mean at 1."""
        return cvar(self.cell_means, level)

    def normalised(self, low: float, high: float) -> StressReport:
        """The same report on the scale where reference `low` is 0 and reference `high` is 1."""
        if not low < high:
            raise UsageError(
                f"low={low!r}, high={high!r} is not allowed; the reference for 1 must be above that for 0."
            )
        scaled = {name: (getattr(self, name) - low) / (high - low) for name in ("returns", "nominal_returns")}
        return dataclasses.replace(self, **scaled)

    def intervals(self, level: float = 0.95, *, tail: float = 0.1) -> dict[str, ConfidenceInterval | None]:
        """Intervals over episodes of "nominal", "mean", "best", "worst", "cvar" (of share `tail`), of the changes from
        nominal paired by seed, "mean change" and "worst change", and of "cells", arrays `[cells]` with NaN for none.

        Student's t, exact for normal returns; those of "worst", "cvar" and "best" also account for the selection of the
        cells by their means. `None` if returns do not differ.
        """
        if len(self.seeds) < 2:
            raise UsageError("An interval needs at least 2 episodes per cell; this report has 1. Use episodes=10.")
        cells, distinct = len(self.returns), len(np.unique(self.returns, axis=0))
        picked = functools.partial(worst_interval, level=level, distinct=distinct)
        best = picked(-self.returns.T, 1 / cells)
        return {
            "nominal": confidence_interval(self.nominal_returns, mean, level=level),
            "mean": confidence_interval(self.returns.mean(axis=0), mean, level=level),
            "best": None if best is None else ConfidenceInterval(-best.high, -best.low),
            "worst": picked(self.returns.T, 1 / cells),
            "cvar": picked(self.returns.T, tail),
            "mean change": confidence_interval(self.changes.mean(axis=0), mean, level=level),
            "worst change": picked(self.changes.T, 1 / cells),
            "cells": confidence_band(self.returns.T, level=level),
        }

    def figures(self, tail: float = 0.1, form: str = ".6g") -> list[tuple[str, float, str, str]]:
        """Name, value, interval as text (empty for none) and remark of every statistic, for tables."""
        bounds = self.intervals(tail=tail) if len(self.seeds) > 1 else {}
        values = {
            "nominal": (self.nominal, f"at {self.place(self.nominal_point)}" if any(self._known) else ""),
            "mean": (self.mean, "over all cells"),
            "best": (self.best, ""),
            "worst": (self.worst, f"at {self.place(self.worst_cell.values())}"),
            "cvar": (self.cvar(tail), f"mean of the worst {tail:.0%} of cells"),
            "mean change": (self.mean - self.nominal, "mean - nominal, paired by seed"),
            "worst change": (self.worst - self.nominal, "worst - nominal, paired by seed"),
        }
        return [(name, value, in_brackets(bounds.get(name), form), remark) for name, (value, remark) in values.items()]

    @property
    def _known(self) -> list[bool]:
        return [value is not None for value in self.nominal_point]

    def place(self, values: Iterable[float | None]) -> str:
        """Coordinates in words, without those that are unknown."""
        return ", ".join(f"{name}={value:.6g}" for name, value in zip(self.axes, values) if value is not None)

    @property
    def _labels(self) -> list[str]:
        units = self.units or ("",) * len(self.axes)
        return [f"{name} ({unit})" if unit else name for name, unit in zip(self.axes, units)]

    @property
    def notes(self) -> list[str]:
        """Notes needed to interpret the statistics."""
        cells, episodes = self.returns.shape
        actions = "deterministic" if self.deterministic else "sampled"
        notes = [
            f"{cells} cells ({self.grid} grid), {episodes} episode{'s'[: episodes > 1]} per cell with {actions} "
            "actions, the same seeds in every cell: "
            f"{', '.join(map(str, self.seeds[:10]))}{', …' if episodes > 10 else ''}.",
            f"The worst cell's mean is a minimum of {cells} noisy means, hence biased low, more so with fewer"
            " episodes. But points between and beyond the cells may be worse: it is not a bound for the whole range.",
            "Intervals are 95 % t-intervals over the episodes of this one policy, not over training seeds; those of"
            " worst, cvar and best allow for the choice among the cells."
            if episodes > 1
            else "One episode says nothing about the spread, so there are no intervals; use episodes=10.",
        ]
        if any(self.units):
            notes.append(f"Axes: {', '.join(self._labels)}.")
        return notes + self.warnings

    @property
    def warnings(self) -> list[str]:
        """Notes on cells that changed nothing."""
        return identical_cells(self.axes, self.coordinates, self.returns, self.nominal_returns)

    def table(self, tail: float = 0.1) -> str:
        """The report as text."""
        lines = [f"{self.policy} on {self.env} under {self.perturbation}", ""]
        for name, value, interval, remark in self.figures(tail):
            lines.append(f"{name:<12} {value:>12.6g}  {interval:<24} {remark}".rstrip())
        return "\n".join([*lines, "", *self.notes])

    @property
    def _varying(self) -> list[int]:
        return [i for i in range(len(self.axes)) if len(np.unique(self.coordinates[:, i])) > 1]

    @property
    def varying(self) -> int:
        """The number of dimensions that vary."""
        return len(self._varying)

    @property
    def nominal_inside(self) -> bool:
        """Whether the nominal point lies within the ranges of the one or two dimensions that vary."""
        known = [(self.nominal_point[i] if self.nominal_point else None, self.coordinates[:, i]) for i in self._varying]
        return 0 < len(known) < 3 and all(x is not None and c.min() <= x <= c.max() for x, c in known)

    def plot(self, path: str | Path | None = None, *, of: Literal["return", "change"] = "return") -> Figure:
        """A heat map over two varying dimensions, a curve over one, the sorted cells over more; the worst cell
        and, if it is inside the figure, the nominal point are marked.

        of: the return, or its change against the same episodes undisturbed, as a share of the nominal return.
        """
        varying, table, said = self._varying, self.returns, "return"
        if of == "change":
            share = 100 / abs(self.nominal) if self.nominal else 1.0
            table, said = self.changes * share, f"change{' (% of nominal)' if self.nominal else ''}"
        title, means = f"{self.env}: {self.perturbation}", table.mean(axis=1)
        nominal = self.nominal_point or (None,) * len(self.axes)
        if len(varying) == 2:
            (x, i), (y, j) = (np.unique(self.coordinates[:, k], return_inverse=True) for k in varying)
            values = np.empty((len(x), len(y)))
            values[i, j] = means
            names = {"xlabel": self._labels[varying[0]], "ylabel": self._labels[varying[1]], "label": said}
            known = [nominal[k] for k in varying]
            at = None if known[0] is None or known[1] is None else (known[0], known[1])
            figure = plots.heat_map(x, y, values, nominal=at, title=title, **names)
        else:
            one = len(varying) == 1
            x = self.coordinates[:, varying[0]] if one else np.arange(len(means))
            order = np.argsort(x if one else means)
            band = confidence_band(table.T) if len(self.seeds) > 1 else None
            shown = (band.low[order], band.high[order]) if band else None
            label = self._labels[varying[0]] if one else "cells, from worst to best"
            where, at = (x[order], nominal[varying[0]]) if one else (x, None)
            level = self.nominal if of == "return" else 0.0
            names = {"title": title, "xlabel": label, "ylabel": said}
            figure = plots.curve(where, means[order], shown, nominal=level, nominal_at=at, **names)
        if path is not None:
            figure.savefig(path)
        return figure

    def to_json(self) -> str:
        """Everything, exactly; `from_json` reads it back."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in fields.items()})

    @classmethod
    def from_json(cls, text: str) -> StressReport:
        """The report that `to_json` wrote."""
        fields = json.loads(text)
        arrays = {name: np.array(fields[name]) for name in ("coordinates", "returns", "nominal_returns")}
        if fields.get("lengths") is not None:  # older reports have none
            arrays["lengths"] = np.array(fields["lengths"])
        arrays["coordinates"] = arrays["coordinates"].reshape(len(arrays["returns"]), -1)
        tuples = {name: tuple(fields.get(name, ())) for name in ("axes", "seeds", "nominal_point", "units")}
        own = {f.name for f in dataclasses.fields(StressReport)}  # a report of pairs has more
        return StressReport(**{**{name: x for name, x in fields.items() if name in own}, **arrays, **tuples})


def stress(
    policy: Any,
    env: EnvLike,
    perturb: Perturbation | str = "rrls:2d",
    episodes: int = 10,
    seed: int = 0,
    points: int = 10,
    grid: str = "closed",
    workers: int = 1,
    *,
    slots: int = 16,
    deterministic: bool = True,
    on: str = "",
) -> StressReport:
    """Play a policy in every cell of a perturbation's grid, and unperturbed.

    `policy`: a Stable-Baselines3 model, anything with the same `predict`, or a callable `observations -> actions` on
    NumPy batches. `env`: an id or a factory of single environments. `perturb`: "rrls:1d|2d|3d|rarl" on the six robust
    MuJoCo tasks, or any perturbation or its text, "observation-noise:0.2", "param:length=0.25..2 + action-delay:3".
    `points`: grid values per dimension. `slots`: environments stepped in parallel, each modified from cell to cell.
    `workers`: processes; above 1 the policy and the factory must be picklable. `on`: a cluster in their place (see
    `surefoot.cluster`). Raises `UsageError` before any work.
    """
    seeds = episode_seeds(seed, episodes)
    check_count("workers", workers)
    ready, attack, cells, facts = _prepared(policy, env, perturb, points, grid)
    jobs = [Episode(cell, s) for cell in (None, *(c.perturbation for c in cells)) for s in seeds]
    played = play_in_processes(policy, ready, jobs, slots, deterministic, workers, on)
    table, lengths = (array.reshape(len(cells) + 1, len(seeds)) for array in (played.returns, played.lengths))
    means = [named_figures(played.figures[i : i + len(seeds)]) for i in range(0, len(jobs), len(seeds))]
    return StressReport(
        policy=called(policy),
        env=env if isinstance(env, str) else getattr(env, "__qualname__", type(env).__qualname__),
        perturbation=str(attack),
        grid=grid,
        axes=tuple(name for name, _ in cells[0].coordinates),
        coordinates=np.array([[value for _, value in cell.coordinates] for cell in cells]),
        returns=table[1:],
        nominal_returns=table[0],
        seeds=tuple(seeds),
        nominal_point=tuple(value for value, _ in facts),
        units=tuple(unit for _, unit in facts),
        deterministic=deterministic,
        lengths=lengths.mean(1),
        infos={name: [each.get(name) for each in means] for name in sorted({n for each in means for n in each})},
    )


def _prepared(
    policy: Any, env: EnvLike, perturb: Perturbation | str, points: int, grid: str
) -> tuple[EnvLike, Perturbation, list[Cell], list[tuple[float | None, str]]]:
    """The environment that can be perturbed, the perturbation as it fits, its cells, and the facts of its axes."""
    attack = resolve(perturb, env)
    ready = settable(env, attack)
    single = make_single(ready)
    try:
        player, single = fitted(policy, single)
        attack.check_env(single)
        attack = aimed(attack, Target(player, single.observation_space, single.action_space))
        return ready, attack, attack.fitted(single).grid(points, grid), axis_facts(attack, single)
    finally:
        single.close()


def film_worst(
    policy: Any,
    env: EnvLike,
    report: StressReport,
    perturb: Perturbation | str,
    stem: Path,
    *,
    points: int = 10,
    grid: str = "closed",
    deterministic: bool = True,
    **_: Any,
) -> list[Path]:
    """Film the first episode of a stress test undisturbed and in its worst cell: `<stem>-nominal.mp4` and
    `<stem>-worst.mp4`. The other arguments are those of the test."""
    cell = _prepared(policy, env, perturb, points, grid)[2][int(report.cell_means.argmin())]
    paths = []
    for name, attack in (("nominal", None), ("worst", cell.perturbation)):
        paths.append(stem.with_name(f"{stem.name}-{name}.mp4"))
        record(policy, env, paths[-1], 1, [report.seeds[0]], attack, deterministic=deterministic)
    return paths


def called(policy: Any) -> str:
    """The name of a policy: an agent's method and training seed, otherwise its name or that of its type."""
    if isinstance(policy, Smoothed):
        return f"{called(policy.policy)}, smoothed with sigma {policy.sigma:g}"
    policy = policy.model if isinstance(policy, SB3Policy) else policy
    facts = getattr(policy, "facts", None) or {}
    if "method" in facts:
        return f"{facts['method']} (seed {facts['seed']})"
    return (policy if hasattr(policy, "__qualname__") else type(policy)).__qualname__


def play_in_processes(
    policy: Any, env: EnvLike, jobs: list[Episode], slots: int, deterministic: bool, workers: int, on: str = ""
) -> Played:
    """`play_all`; with several workers in as many processes, or on a cluster, each with a contiguous piece of the
    episodes."""
    workers = max(workers, width(on))
    if workers == 1 and not on:
        return play_all(policy, env, jobs, slots, deterministic)
    for name, thing in (("policy", policy), ("env", env)):
        try:
            pickle.dumps(thing)
        except Exception as error:
            raise UsageError(
                f"workers={workers} sends the {name} to other processes, but it cannot be pickled ({error})."
                " Use workers=1, or define it at the top level of a module."
            ) from error
    places = boundaries(policy, [job.perturbation for job in jobs])
    ends = np.array(places)[np.linspace(0, len(places) - 1, min(workers, len(places) - 1) + 1).astype(int)]
    pieces = [(policy, env, jobs[a:b], slots, deterministic) for a, b in zip(ends, ends[1:])]
    returns, lengths, final = zip(*(spread(play_all, pieces, on) if on else _in_processes(pieces)))
    return Played(np.concatenate(returns), np.concatenate(lengths), [info for piece in final for info in piece])


def _in_processes(pieces: list[tuple[Any, ...]]) -> list[Played]:
    """`play_all` of every piece, in a process of its own."""
    kinds = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    context.set_forkserver_preload([__name__])  # torch is imported once, not by every worker
    with ProcessPoolExecutor(len(pieces), context) as pool:
        return [done.result() for done in [pool.submit(play_all, *piece) for piece in pieces]]

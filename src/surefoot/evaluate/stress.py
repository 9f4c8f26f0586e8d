"""A policy over a whole grid of perturbations, and what remains of its return in the worst cell.

The protocol is that of RRLS (arXiv:2406.08406) on any environment and any perturbation: play the same episode seeds in
every cell of a grid, average within a cell, and look at the least and the mean over cells. The grid is closed, so the
corners are in it; `grid="rrls"` is the published half-open one.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from surefoot.envs import make_single
from surefoot.errors import UsageError
from surefoot.evaluate import plots
from surefoot.evaluate.rollout import EnvLike, Episode, actor, check_policy, episode_seeds, play, prepared, resolve
from surefoot.evaluate.statistics import ConfidenceInterval, cvar, fraction, tail_weights
from surefoot.hyperparameters import check_count
from surefoot.perturbations import Perturbation
from surefoot.seeding import numpy_stream


@dataclasses.dataclass(frozen=True, eq=False)
class StressReport:
    """Returns of one policy over a grid of perturbations, and the figures and pictures made of them."""

    policy: str  # what it is called
    env: str
    perturbation: str
    grid: str
    axes: tuple[str, ...]  # names of the dimensions
    coordinates: np.ndarray  # [cells, dimensions]
    returns: np.ndarray  # [cells, episodes], undiscounted
    nominal_returns: np.ndarray  # [episodes], unperturbed
    seeds: tuple[int, ...]  # [episodes], the same in every cell

    @property
    def cell_means(self) -> np.ndarray:
        """Mean return of every cell, `[cells]`."""
        return self.returns.mean(axis=1)

    @property
    def worst(self) -> float:
        """The least cell mean: a minimum of noisy means, hence below the true worst case on average."""
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
        """Where the worst cell lies."""
        return dict(zip(self.axes, self.coordinates[self.cell_means.argmin()].tolist()))

    def cvar(self, level: float) -> float:
        """Mean of the worst share `level` of cell means: the worst as `level` goes to 0, the mean at 1."""
        return cvar(self.cell_means, level)

    def normalised(self, low: float, high: float) -> StressReport:
        """The same report on the scale where reference `low` is 0 and reference `high` is 1."""
        if not low < high:
            raise UsageError(
                f"low={low!r}, high={high!r} is not allowed; the reference for 1 must be above that for 0."
            )
        scaled = {name: (getattr(self, name) - low) / (high - low) for name in ("returns", "nominal_returns")}
        return dataclasses.replace(self, **scaled)

    def intervals(
        self, level: float = 0.95, *, tail: float = 0.1, resamples: int = 2000, seed: int = 0
    ) -> dict[str, ConfidenceInterval]:
        """Bootstrap intervals, over episodes, of "worst", "cvar" (of share `tail`), "mean", "best", "nominal", "cells".

        Cells share their seeds, so an episode is resampled in all of them at once. "cells" holds arrays `[cells]`.
        """
        episodes, level = len(self.seeds), fraction("level", level)
        if episodes < 2:
            raise UsageError(
                "An interval needs at least 2 episodes a cell; this report has 1. Stress with episodes=10."
            )
        self.cvar(tail)
        counts = numpy_stream(seed, "stress bootstrap").multinomial(
            episodes, np.full(episodes, 1 / episodes), resamples
        )
        cells = np.sort(counts @ self.returns.T / episodes, axis=1)
        samples = {
            "worst": cells[:, 0],
            "cvar": cells @ tail_weights(cells.shape[1], tail),
            "mean": cells.mean(axis=1),
            "best": cells[:, -1],
            "nominal": counts @ self.nominal_returns / episodes,
            "cells": counts @ self.returns.T / episodes,
        }
        ends = [(1 - level) / 2, (1 + level) / 2]
        return {name: ConfidenceInterval(*np.quantile(drawn, ends, axis=0)) for name, drawn in samples.items()}

    @property
    def notes(self) -> list[str]:
        """What a reader must know to judge the figures."""
        cells, episodes = self.returns.shape
        return [
            f"{cells} cells ({self.grid} grid), {episodes} episodes a cell, the same seeds in every cell:"
            f" {', '.join(map(str, self.seeds[:10]))}{', …' if episodes > 10 else ''}.",
            f"The worst of the grid is a minimum of {cells} noisy means: it lies below the true worst case on average,"
            " the more so the fewer the episodes.",
            "Intervals are 95 % bootstraps over the episodes of this one policy, not over training seeds.",
        ]

    def table(self, tail: float = 0.1) -> str:
        """The figures as text."""
        bounds = self.intervals(tail=tail) if len(self.seeds) > 1 else {}
        rows = {
            "nominal": self.nominal,
            "mean": self.mean,
            "best": self.best,
            "worst": self.worst,
            "cvar": self.cvar(tail),
        }
        where = ", ".join(f"{name}={value:g}" for name, value in self.worst_cell.items())
        comments = {"worst": f"at {where}", "cvar": f"mean of the worst {tail:.0%} of cells"}
        lines = [f"{self.policy} on {self.env} under {self.perturbation}", ""]
        for name, value in rows.items():
            interval = f"[{bounds[name].low:.6g}, {bounds[name].high:.6g}]" if bounds else ""
            lines.append(f"{name:<8} {value:>12.6g}  {interval:<24} {comments.get(name, '')}".rstrip())
        return "\n".join([*lines, "", *self.notes])

    def plot(self, path: str | Path | None = None) -> Figure:
        """A heat map over two varying dimensions, a curve over one, the sorted cells over more; the worst is marked."""
        varying = [i for i in range(len(self.axes)) if len(np.unique(self.coordinates[:, i])) > 1]
        title, means = f"{self.env}: {self.perturbation}", self.cell_means
        band = self.intervals()["cells"] if len(self.seeds) > 1 else None
        if len(varying) == 2:
            (x, i), (y, j) = (np.unique(self.coordinates[:, k], return_inverse=True) for k in varying)
            values = np.empty((len(x), len(y)))
            values[i, j] = means
            names = {"xlabel": self.axes[varying[0]], "ylabel": self.axes[varying[1]]}
            figure = plots.heat_map(x, y, values, title=title, label="mean return", **names)
        else:
            one = len(varying) == 1
            x = self.coordinates[:, varying[0]] if one else np.arange(len(means))
            order = np.argsort(x if one else means)
            shown = (band.low[order], band.high[order]) if band else None
            label = self.axes[varying[0]] if one else "cells, from worst to best"
            where = x[order] if one else x
            figure = plots.curve(where, means[order], shown, nominal=self.nominal, title=title, xlabel=label)
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
        arrays["coordinates"] = arrays["coordinates"].reshape(len(arrays["returns"]), -1)
        return cls(**{**fields, **arrays, "axes": tuple(fields["axes"]), "seeds": tuple(fields["seeds"])})


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
) -> StressReport:
    """Play a policy in every cell of a perturbation's grid, and unperturbed.

    `policy`: a Stable-Baselines3 model, anything with the same `predict`, or a callable `observations -> actions` on
    NumPy batches. `env`: an id or a factory of single environments. `perturb`: "rrls:1d|2d|3d|rarl" on the six robust
    MuJoCo tasks, or any perturbation or its text, "observation-noise:0.2", "param:length=0.25..2 + action-delay:3".
    `points`: grid values a dimension. `slots`: environments stepped side by side, each mutated from cell to cell.
    `workers`: processes; above 1 the policy and a factory must be picklable. Raises `UsageError` before any work.
    """
    seeds = episode_seeds(seed, episodes)
    check_count("workers", workers)
    attack = resolve(perturb, env)
    ready = prepared(env, attack)
    actor(policy)
    single = make_single(ready)
    try:
        check_policy(policy, single)
        attack.check_env(single)
        cells = attack.fitted(single).grid(points, grid)
    finally:
        single.close()
    jobs = [Episode(cell, s) for cell in (None, *(c.perturbation for c in cells)) for s in seeds]
    if workers == 1:
        played = play(policy, ready, jobs, slots, deterministic)
    else:
        played = _spread(policy, ready, jobs, slots, deterministic, workers)
    table = played.reshape(len(cells) + 1, len(seeds))
    return StressReport(
        policy=_called(policy),
        env=env if isinstance(env, str) else getattr(env, "__qualname__", type(env).__qualname__),
        perturbation=str(attack),
        grid=grid,
        axes=tuple(name for name, _ in cells[0].coordinates),
        coordinates=np.array([[value for _, value in cell.coordinates] for cell in cells]),
        returns=table[1:],
        nominal_returns=table[0],
        seeds=tuple(seeds),
    )


def _called(policy: Any) -> str:
    """Of an agent the method and the seed that it was trained with, of anything else its name or that of its type."""
    facts = getattr(policy, "facts", None) or {}
    if "method" in facts:
        return f"{facts['method']} (seed {facts['seed']})"
    return (policy if hasattr(policy, "__qualname__") else type(policy)).__qualname__


def _spread(
    policy: Any, env: EnvLike, jobs: list[Episode], slots: int, deterministic: bool, workers: int
) -> np.ndarray:
    """`play` in several processes, each with a contiguous piece of the episodes."""
    for name, thing in (("policy", policy), ("env", env)):
        try:
            pickle.dumps(thing)
        except Exception as error:
            raise UsageError(
                f"workers={workers} sends the {name} to other processes, but it cannot be pickled ({error})."
                " Use workers=1, or define it at the top level of a module."
            ) from error
    ends = np.linspace(0, len(jobs), min(workers, len(jobs)) + 1).astype(int)
    kinds = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    context.set_forkserver_preload([__name__])  # torch is imported once, not by every worker
    with ProcessPoolExecutor(len(ends) - 1, context) as pool:
        pieces = [pool.submit(play, policy, env, jobs[a:b], slots, deterministic) for a, b in zip(ends, ends[1:])]
        return np.concatenate([piece.result() for piece in pieces])

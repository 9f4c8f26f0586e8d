"""The audit of a policy: how much of its return it keeps under a battery of perturbations, and a rating of each family.

Every cell of the battery is played with the episode seeds of the nominal one. The result of a cell is the share of the
nominal return that is kept (`evaluate.kept`), with its paired 95 % interval. A family is rated by the interval of its
worst cell: by the grades of both its ends, which are one where the number of episodes is large enough.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from surefoot.envs.vector import EnvError
from surefoot.errors import UsageError, message_of
from surefoot.evaluate.battery import FAMILIES, Cell, NotRun, fitting, sweeps
from surefoot.evaluate.films import Film, check_filmable, films
from surefoot.evaluate.kept import ALL, episodes_for, kept, kept_interval, worst_kept
from surefoot.evaluate.periodic import env_name, keep
from surefoot.evaluate.player import player_of, refuse_language
from surefoot.evaluate.rollout import Episode, Played, episode_seeds
from surefoot.evaluate.statistics import ConfidenceInterval, confidence_interval, mean
from surefoot.evaluate.stress import called, play_in_processes
from surefoot.hyperparameters import check_count
from surefoot.loops.common.lock import evaluation
from surefoot.loops.common.run import Run
from surefoot.seeding import check_seed, derive

GRADES = {"holds": 0.95, "mild": 0.8, "degraded": 0.5, "falls": -math.inf}  # shares kept from which each is given
LOST = GRADES["mild"]
WORST = "worst"
ROUNDING = 1e-9  # relative: steps that are added up in another order give another sum


class Result(NamedTuple):
    """The share kept by the worst of some cells."""

    kept: float
    interval: ConfidenceInterval
    cell: Cell

    @property
    def rating(self) -> str:
        """The grades of the ends of the interval, one if they agree; "unclear" if nothing is known."""
        if self.interval == ALL or math.isnan(self.kept):
            return "unclear"
        low, high = (next(name for name, least in GRADES.items() if end >= least) for end in self.interval)
        return low if low == high else f"{low} to {high}"


class Verdict(NamedTuple):
    """A requirement and what was found."""

    name: str
    least: float
    result: Result

    @property
    def met(self) -> bool:
        """Whether the interval lies at or above the requirement."""
        return self.result.interval.low >= self.least - ROUNDING

    @property
    def words(self) -> str:
        if self.met:
            return "met"
        return "not met" if self.result.interval.high < self.least else "not shown (more episodes may)"


@dataclasses.dataclass(frozen=True, eq=False)
class AuditReport:
    """Returns of one policy under a battery of perturbations, with ratings and requirements."""

    policy: str  # its name
    env: str
    points: int  # values of every sweep
    seeds: tuple[int, ...]  # [episodes], the same in every cell
    deterministic: bool
    nominal_returns: np.ndarray  # [episodes], undiscounted
    cells: tuple[Cell, ...]
    returns: np.ndarray  # [cells, episodes]
    not_run: tuple[NotRun, ...]
    command: Callable[[str], str]  # from the text of a perturbation, the command that plays its sweep
    require: Mapping[str, float] = dataclasses.field(default_factory=dict)
    steps: int = 0  # of the policy, in all episodes
    seconds: float = 0.0
    width: float | None = None  # of intervals for which the number of episodes was chosen
    films: tuple[Film, ...] = ()

    @property
    def families(self) -> dict[str, Result]:
        """The worst cell of every family that was played."""
        return {f: self._worst(lambda c, f=f: c.family == f) for f in dict.fromkeys(c.family for c in self.cells)}

    @property
    def worst(self) -> Result:
        """The worst cell of all."""
        return self._worst(lambda cell: True)

    def sweep(self, text: str) -> list[int]:
        """The places of the cells of a sweep, in its order."""
        return [i for i, cell in enumerate(self.cells) if cell.sweep == text]

    @functools.cached_property
    def kept(self) -> list[tuple[float, ConfidenceInterval | None]]:
        """The share kept in every cell, and its interval, `None` where episodes do not differ."""
        pairs = [(one, self.nominal_returns) for one in self.returns]
        return [(kept(*pair), kept_interval(*pair)) for pair in pairs]

    @property
    def unchanged(self) -> np.ndarray:
        """Whether every episode of a cell has its nominal return, up to rounding, `[cells]`."""
        return np.all(np.isclose(self.returns, self.nominal_returns, rtol=ROUNDING, atol=0), axis=1)

    def lost_from(self, text: str) -> str:
        """The mildest strengths of a sweep of one dimension whose interval lies below 0.8, such as ">= 2"."""
        places = self.sweep(text)
        neutral = self.cells[places[0]].neutral
        if len(self.cells[places[0]].at) > 1 or neutral is None:
            return ""
        ends = {self.cells[i].at[0]: (self.kept[i][1] or (self.kept[i][0],) * 2)[1] for i in places}
        lost = [at for at, high in ends.items() if high < LOST]
        low, high = [at for at in lost if at < neutral], [at for at in lost if at > neutral]
        said = [f"<= {max(low):.4g}" if low else "", f">= {min(high):.4g}" if high else ""]
        return ", ".join(filter(None, said))

    def verdicts(self, require: Mapping[str, float] | str | None = None) -> list[Verdict]:
        """Every requirement with the worst of the cells that it names: "worst" (all), a family, a perturbation or a
        parameter, or a word of one's name, such as "delay"."""
        wanted = requirements(self.require if require is None else require)
        _check_names(wanted, self.cells, self.not_run)
        return [Verdict(name, x, self._worst(lambda c, n=name: n in names(c))) for name, x in wanted.items()]

    def passed(self, require: Mapping[str, float] | str | None = None) -> bool:
        """Whether all requirements are met: the interval of the share kept lies at or above what is required."""
        return all(verdict.met for verdict in self.verdicts(require))

    def _worst(self, belongs: Callable[[Cell], bool]) -> Result:
        places = [i for i, cell in enumerate(self.cells) if belongs(cell)]
        value, interval, worst = worst_kept([self.returns[i] for i in places], self.nominal_returns)
        return Result(value, interval, self.cells[places[worst]])

    def table(self) -> str:
        """The audit as text."""
        from surefoot.evaluate.pages.audit import text

        return text(self)

    def markdown(self) -> str:
        """The audit as Markdown, for a pull request."""
        from surefoot.evaluate.pages.audit import markdown

        return markdown(self)

    def html(self) -> str:
        """The audit as one self-contained page."""
        from surefoot.evaluate.pages.audit import page

        return page(self)

    def json(self) -> str:
        """Everything, with the command that plays each cell alone; numbers that are not finite are null."""

        def ends(interval: ConfidenceInterval | None) -> list[float | None] | None:
            return None if interval is None else [x if math.isfinite(x) else None for x in interval]

        def worst(one: Result) -> dict[str, Any]:
            found = {"kept": None if math.isnan(one.kept) else one.kept, "interval": ends(one.interval)}
            return {"rating": one.rating, **found, "cell": one.cell.label, "command": self.command(one.cell.text)}

        cells = []
        for cell, row, (value, interval) in zip(self.cells, self.returns.tolist(), self.kept):
            found = {"family": cell.family, "sweep": cell.sweep, "perturbation": cell.text, "cell": cell.label}
            found |= {"kept": None if math.isnan(value) else value, "interval": ends(interval)}
            cells.append({**found, "returns": row, "command": self.command(cell.text)})
        nominal = confidence_interval(self.nominal_returns, mean)
        top = {name: getattr(self, name) for name in ("policy", "env", "points", "deterministic", "steps", "seconds")}
        top |= {"seeds": list(self.seeds), "nominal": {"mean": float(self.nominal_returns.mean())}}
        top["nominal"] |= {"interval": ends(nominal), "returns": self.nominal_returns.tolist()}
        checked = {v.name: {"least": v.least, "met": v.met, **worst(v.result)} for v in self.verdicts()}
        top |= {"passed": self.passed(), "requirements": checked}
        top |= {"families": {name: worst(one) for name, one in self.families.items()}, "worst": worst(self.worst)}
        top |= {"width": self.width, "films": [{"file": one.file, "caption": one.caption} for one in self.films]}
        top |= {"cells": cells, "not_run": [dataclasses.asdict(one) for one in self.not_run]}
        return json.dumps(top, indent=2)

    def save(self, folder: str | Path) -> None:
        """Write `audit.json`, `audit.md`, `audit.html` and the films to a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for film in self.films:
            keep(Path(folder) / film.file, film.data)
        for ending, text in (("json", self.json()), ("md", self.markdown()), ("html", self.html())):
            keep(Path(folder) / f"audit.{ending}", text)


def names(cell: Cell) -> set[str]:
    """The names by which a requirement may mean a cell."""
    return {WORST, cell.family, cell.sweep, cell.name, *re.split(r"[^a-zA-Z0-9]+", cell.name)} - {""}


def requirements(given: Mapping[str, float] | str | None) -> dict[str, float]:
    """Requirements as a mapping, or as text: "worst=0.7,delay=0.8"."""
    pairs: Any = given or {}
    if isinstance(given, str):
        pairs = {name.strip(): least for name, _, least in (part.partition("=") for part in given.split(",") if part)}
    found = {}
    for name, least in pairs.items():
        try:
            found[name] = float(least)
        except (TypeError, ValueError):
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise UsageError(
                f"require: {name}={least!r} is not allowed; give the share of the nominal return that must be kept, "
                "such as worst=0.7,delay=0.8."
            )
    return found


def _check_names(wanted: Mapping[str, float], cells: Sequence[Cell], not_run: Sequence[NotRun]) -> None:
    """Raise `UsageError` for a requirement that no cell belongs to."""
    known = set[str]().union(*map(names, cells))
    for name in wanted:
        if name not in known:
            reasons = [
                f"{one.what}: {one.reason}" for one in not_run if name in (one.family, one.sweep.partition(":")[0])
            ]
            raise UsageError(
                f"require: {name!r} is not among what is played here"
                f"{' (' + '; '.join(reasons[:2]) + ')' if reasons else ''}. Known: worst; the families "
                f"{', '.join(dict.fromkeys(c.family for c in cells))}; "
                f"{', '.join(dict.fromkeys(c.name for c in cells))}; or a word of these, such as delay."
            )


@evaluation
def audit(
    policy: Any, env: Any = None, require: Mapping[str, float] | str | None = None, **settings: Any
) -> AuditReport:
    """Play a policy under a battery of perturbations, and rate every family of them.

    `policy` and `env` are those of `surefoot.evaluate`. `require`: least shares of the nominal return to be kept, by
    name: {"worst": 0.7, "delay": 0.8} or "worst=0.7,delay=0.8"; `report.passed()` says whether they are. `out`: a
    folder for `audit.json`, `audit.md` and `audit.html`, which a run keeps in its own folder too. The other `settings`
    are those of `audited`. Raises `UsageError` before any work.
    """
    out = settings.pop("out", None)
    report, folder = audited(policy, env, require, **settings)
    for target in (folder, out):
        if target is not None:
            report.save(target)
    return report


def audited(
    policy: Any,
    env: Any = None,
    require: Mapping[str, float] | str | None = None,
    *,
    families: Sequence[str] = FAMILIES,
    battery: Mapping[str, Sequence[str]] | None = None,
    episodes: int = 10,
    points: int = 5,
    seed: int = 0,
    workers: int = 1,
    slots: int = 16,
    deterministic: bool = True,
    width: float | None = None,
    max_episodes: int = 100,
    video: bool = False,
    algo: str | None = None,
    trust: bool = False,
) -> tuple[AuditReport, Path | None]:
    """The audit, of which nothing is written, and the folder of the run if that is what was given.

    `algo` and `trust` are those of `surefoot.evaluate`. `families`: some of "sensors", "actuators", "timing",
    "physics", "adversarial"; or `battery`: sweeps of your own by family, {"wind": ["force:1..5"]}, texts as for
    `stress`. `episodes` per cell, `points` per dimension of a sweep. `workers`: processes; above 1 the policy and a
    factory must be picklable. `video` films an episode, nominal and in the worst cell.

    `width`: how wide the interval of a cell's share may be. A pilot of `episodes` per cell then says how many are
    needed, between that and `max_episodes`; they are other episodes, so that the intervals mean what they say.
    """
    wanted = requirements(require)
    for name, value in (("episodes", episodes), ("points", points)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 2:
            raise UsageError(f"{name}={value!r} is not allowed; an audit needs a whole number of at least 2.")
    check_count("workers", workers)
    _check_width(width, episodes, max_episodes)
    player, place, folder = player_of(policy, env, algo, trust)
    refuse_language(player, "audit", "perturbations apply to environments; evaluate it on other tasks")
    chosen = sweeps(place, families) if battery is None else battery
    began = time.perf_counter()
    ready, cells, refused = fitting(chosen, place, player, points)
    if not cells:
        raise UsageError("nothing can be played: " + "; ".join(f"{one.what}: {one.reason}" for one in refused))
    _check_names(wanted, cells, refused)
    if video:
        check_filmable(place)
    play = functools.partial(
        play_in_processes, player, ready, slots=slots, deterministic=deterministic, workers=workers
    )
    steps = 0
    if width is not None:
        pilot = episode_seeds(derive(check_seed(seed), "audit pilot"), episodes)
        first, played, refused = _stage(play, cells, pilot, refused)
        cells = [cell for cell, _ in played]
        episodes = max(
            [episodes, *(episodes_for(one.returns, first.returns, width, max_episodes) for _, one in played)]
        )
        steps = _steps(first, played)
    seeds = episode_seeds(seed, episodes)
    nominal, played, refused = _stage(play, cells, seeds, refused)
    report = AuditReport(
        policy=called(player),
        env=env_name(place),
        points=points,
        seeds=tuple(seeds),
        deterministic=deterministic,
        nominal_returns=nominal.returns,
        cells=tuple(cell for cell, _ in played),
        returns=np.array([one.returns for _, one in played]).reshape(-1, len(seeds)),
        not_run=tuple(refused),
        command=_command(policy, env, algo, trust, {"points": points, "episodes": episodes, "seed": seed}),
        require=wanted,
        steps=steps + _steps(nominal, played),
        seconds=time.perf_counter() - began,
        width=width,
    )
    return dataclasses.replace(report, films=films(player, place, report)) if video else report, folder


def _check_width(width: float | None, episodes: int, max_episodes: int) -> None:
    if width is None:
        return
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0 < width < math.inf:
        raise UsageError(
            f"width={width!r} is not allowed; give the width of an interval of the share kept, such as 0.1."
        )
    check_count("max_episodes", max_episodes)
    if max_episodes < episodes:
        raise UsageError(f"max_episodes={max_episodes} is below episodes={episodes}, which the pilot alone has.")


def _steps(nominal: Played, played: Sequence[tuple[Cell, Played]]) -> int:
    return int(nominal.lengths.sum() + sum(one.lengths.sum() for _, one in played))


def _stage(
    play: Callable[..., Played], cells: Sequence[Cell], seeds: Sequence[int], refused: list[NotRun]
) -> tuple[Played, list[tuple[Cell, Played]], list[NotRun]]:
    """The episodes of the seeds without a perturbation, those of every cell that can be played, and what cannot."""
    nominal = play(jobs=[Episode(None, s) for s in seeds])
    played, refused = _play_all(play, cells, seeds, refused)
    if not played:
        raise UsageError("no cell could be played: " + "; ".join(f"{one.what}: {one.reason}" for one in refused[:3]))
    return nominal, played, refused


def _play_all(
    play: Callable[..., Played], cells: Sequence[Cell], seeds: Sequence[int], refused: list[NotRun]
) -> tuple[list[tuple[Cell, Played]], list[NotRun]]:
    """The cells with their episodes. A cell in which the environment fails is found by halving, and not run."""
    try:
        found = play(jobs=[Episode(cell.perturbation, s) for cell in cells for s in seeds])
    except (EnvError, UsageError) as error:
        if len(cells) == 1:
            return [], [*refused, NotRun(cells[0].family, cells[0].sweep, cells[0].text, message_of(error))]
        half = len(cells) // 2
        first, refused = _play_all(play, cells[:half], seeds, refused)
        second, refused = _play_all(play, cells[half:], seeds, refused)
        return first + second, refused
    n = len(seeds)
    returns, lengths, final = found
    parts = [Played(returns[i : i + n], lengths[i : i + n], final[i : i + n]) for i in range(0, n * len(cells), n)]
    return list(zip(cells, parts)), refused


def _command(policy: Any, env: Any, algo: str | None, trust: bool, settings: Mapping[str, int]) -> Callable[[str], str]:
    """From the text of a perturbation, the command that plays its sweep: in a shell, or in Python without a file."""
    path = policy.path if isinstance(policy, Run) else policy
    if isinstance(path, (str, Path)) and (env is None or isinstance(env, str)):
        flags = [f"--{name} {value}" for name, value in settings.items()]
        flags += [f"--{name} {shlex.quote(value)}" for name, value in (("env", env), ("algo", algo)) if value]
        end = " ".join([*flags, *["--trust"] * trust])
        return lambda text: f"surefoot stress {shlex.quote(str(path))} --perturb {shlex.quote(text)} {end}"
    where = repr(env) if isinstance(env, str) else "env"
    end = ", ".join(f"{name}={value}" for name, value in settings.items())
    return lambda text: f"surefoot.stress(policy, {where}, {text!r}, {end})"

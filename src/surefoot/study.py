"""Tuning: an Optuna study of a method's hyperparameters, whose result is measured on random seeds it has not seen.

A trial trains several seeds at once with hyperparameters that Optuna's TPE draws from the ranges that the method
declares, reports their mean evaluation as it goes, and is pruned where that is below the median of earlier trials.
The study is kept in a journal file in its folder, so that it can be interrupted and resumed, or made longer: what a
trial draws depends on the trials that are complete, not on the process, so a resumed study is the one that was never
interrupted. With `at_once`, several trials are drawn before any of them is run, each as if those before it had turned
out badly (Optuna's constant liar), and none is pruned by another of them, so that they may run on a cluster.

The value of the best trial is the best of many noisy numbers, and so too good. Therefore the best hyperparameters and
the method's defaults are trained once more on fresh seeds and evaluated on other episodes; only those numbers count.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from surefoot import api
from surefoot.cluster import spread, width
from surefoot.configfile import ABOUT, as_text
from surefoot.configure import kind_of, make_method, method_class, option_names, options_of, place_of, whole_steps
from surefoot.errors import UsageError, message_of
from surefoot.evaluate import statistics
from surefoot.evaluate.statistics import in_brackets
from surefoot.files import read_json, write_whole
from surefoot.hyperparameters import check_count
from surefoot.loops.common.folder import Run, agent_folder, short_name
from surefoot.loops.common.run import dated, env_name
from surefoot.search import Dimension, dimensions
from surefoot.seeding import check_seed, derive

STARTUP = 10  # trials drawn at random before TPE, and 5 before any is pruned
TAKEN = ("seed", "num_seeds", "run_dir", "evaluate_every", "callbacks", "loggers", "keep_best", "time_limit", "start")


class PrunedError(Exception):
    """A trial was stopped because it does worse than the median."""


@dataclass(frozen=True)
class Trial:
    """A trial of a study: its number, hyperparameters, mean evaluation over its seeds, and how it ended."""

    number: int
    hyperparameters: Mapping[str, Any]
    value: float | None
    state: str  # "complete", "pruned" or "failed"
    reason: str = ""


@dataclass(frozen=True)
class Tuned:
    """The result of a study: its trials, the best hyperparameters, and what they are worth on fresh seeds."""

    path: Path
    trials: tuple[Trial, ...]
    best: Trial
    fresh_seeds: tuple[int, ...] = ()
    final: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # "tuned", "default": one number a seed

    @property
    def config(self) -> Path:
        """The configuration file of the best hyperparameters, for `surefoot train --config`."""
        return self.path / "best.json"

    def table(self, rows: int = 10) -> str:
        """The result as text: the fresh seeds first, then the best trials."""
        lines = []
        for name, values in self.final.items():
            interval = in_brackets(statistics.confidence_interval(values, statistics.mean), ".4g")
            lines.append(f"{name:<8} {np.mean(values):.4g}  {interval}".rstrip())
        if self.final:
            seeds = f"{len(self.fresh_seeds)} fresh seeds ({self.fresh_seeds[0]} to {self.fresh_seeds[-1]})"
            pair = self.final["tuned"], self.final["default"]
            better = statistics.probability_of_improvement(*pair)
            ends = in_brackets(statistics.improvement_interval(*pair), ".2f")
            lines.insert(0, f"mean evaluation on {seeds}, 95 % intervals over seeds")
            lines += [f"P(tuned better than default) {better:.2f}  {ends}".rstrip(), ""]
        ended = [f"{sum(t.state == s for t in self.trials)} {s}" for s in ("complete", "pruned", "failed")]
        lines.append(f"{len(self.trials)} trials: {', '.join(ended)}; the best of them, by a value that is too good:")
        scored = [t for t in self.trials if t.state == "complete" and t.value is not None]
        for trial in sorted(scored, key=lambda t: -float(t.value or 0))[:rows]:
            words = " ".join(f"{name}={_short(value)}" for name, value in trial.hyperparameters.items())
            lines.append(f"  {trial.number:>4}  {trial.value:<10.4g} {words}")
        return "\n".join([*lines, "", f"train it: surefoot train --config {self.config}"])

    def __repr__(self) -> str:
        return f"Tuned({str(self.path)!r}: {len(self.trials)} trials, best {self.best.value:.6g})"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace(" ", "")


def tune(
    method: str,
    env: Any = None,
    trials: int = 50,
    steps: int | None = None,
    *,
    task: Any = None,
    seeds: int = 3,
    seed: int = 0,
    evaluations: int = 10,
    evaluate_episodes: int = 10,
    final_seeds: int = 5,
    only: Iterable[str] = (),
    space: Mapping[str, Any] | None = None,
    at_once: int = 1,
    out: str | Path | None = None,
    on: str = "",
    progress: Callable[[str], None] = lambda line: None,
    **fixed: Any,
) -> Tuned:
    """Tune the hyperparameters of a method with Optuna (extra `tune`), and measure the result on fresh seeds.

    Args:
        method: a slug, or `"module:Class"`.
        env, task: what to train in, as for `train`.
        trials: number of trials in all, pruned and failed ones included; a study found in `out` is continued up to it.
        steps: steps of every trial and of the final runs; the method's own number if not given.
        seeds: random seeds of every trial, from `seed`; the same for all trials.
        evaluations: evaluations in a trial, at which it may be pruned, of `evaluate_episodes` episodes and seed.
        final_seeds: seeds after those of the trials, on which the best and the default hyperparameters are trained and
            evaluated at the end; 0 leaves that out.
        only, space: names of hyperparameters to tune, if not all that declare a range; and ranges of your own:
            `{"learning_rate": (1e-5, 1e-3, "log"), "epochs": [4, 10]}`.
        at_once: trials that are drawn together, before any of them is run. The result depends on it.
        out: folder of the study: `study.journal`, `trials.csv`, `best.json` (a configuration), `final.json`, and the
            runs.
        on: a cluster for trials that are drawn together and for the final runs (see `surefoot.cluster`); the result
            does not depend on it.
        progress: called with a line about every trial.
        fixed: hyperparameters that are not tuned, and options of `train`.

    Raises:
        UsageError: Optuna is missing, an argument cannot work, or the folder has another study.
    """
    optuna = _optuna()
    for name, value in (("trials", trials), ("seeds", seeds), ("evaluations", evaluations), ("at_once", at_once)):
        check_count(name, value)
    width(on)  # a cluster that cannot be reached is refused before any work
    if isinstance(final_seeds, bool) or not isinstance(final_seeds, int) or final_seeds < 0 or final_seeds == 1:
        raise UsageError(f"final_seeds={final_seeds!r} is not allowed; it must be 0 or a whole number of at least 2.")
    if taken := sorted({*TAKEN} & {*fixed}):
        raise UsageError(f"{taken[0]}={fixed[taken[0]]!r} is not allowed: tune sets it for every run.")
    searched, options = dimensions(method_class(method), only, space, fixed), option_names(method)
    beside = (*options, "compile", "checkpoint_every")
    made = make_method(method, **{k: v for k, v in fixed.items() if k not in beside})[0]
    place, length = place_of(made, env=env, task=task), whole_steps(steps) or made.default_steps
    plan = _Plan(method, place, length, check_seed(seed), seeds, evaluations, evaluate_episodes, at_once, fixed)
    name = f"tune-{short_name(method)}-{env_name(place).replace('/', '-')}"
    folder = Path(out or Path("runs") / dated(name))
    described = kind_of(method).describe(place, **options_of(method, dict(fixed)))
    study = _opened(optuna, folder, plan.about(described, searched))
    while len(done := _trials(study, searched)) < trials:
        if len(done) >= STARTUP and all(one.state == "failed" for one in done):
            raise UsageError(f"the first {len(done)} trials failed, the last one with: {done[-1].reason}")
        count = min(at_once, trials - len(done))
        _some_trials(optuna, study, plan, searched, folder, range(len(done), len(done) + count), on)
        for one in _trials(study, searched)[-count:]:
            progress(_line(one))
    write_whole(folder / "trials.csv", _csv(done, [one.name for one in searched]))
    complete = [t for t in done if t.state == "complete" and t.value is not None and math.isfinite(t.value)]
    if not complete:
        raise UsageError(f"none of {len(done)} trials was completed; the last one: {_line(done[-1])}")
    best = max(complete, key=lambda t: (t.value, -t.number))
    write_whole(folder / "best.json", as_text({**plan.configuration(described), **best.hyperparameters}))
    fresh, final = tuple(range(seed + seeds, seed + seeds + final_seeds)), {}
    if fresh:
        arms = {"tuned": best.hyperparameters, "default": {}}
        pieces = [(folder / "final" / f"{arm}-{best.number}", fresh, values) for arm, values in arms.items()]
        final = dict(zip(arms, spread(plan.measured, pieces, on)))
    for arm, found in final.items():
        progress(f"{arm} on fresh seeds: {np.mean(found):.6g}")
    write_whole(folder / "final.json", json.dumps({"seeds": fresh, **final}, indent=2))
    return Tuned(folder, tuple(done), best, fresh, final)


@dataclass(frozen=True)
class _Plan:
    """What is the same in all runs of a study."""

    method: str
    place: Any
    steps: int
    seed: int
    seeds: int
    evaluations: int
    episodes: int
    at_once: int
    fixed: Mapping[str, Any]

    def about(self, described: Mapping[str, Any], searched: Sequence[Dimension]) -> dict[str, Any]:
        """What must be the same where a study is continued."""
        names = ("method", "steps", "seed", "seeds", "evaluations", "episodes", "at_once", "fixed")
        same = {name: getattr(self, name) for name in names}
        return {**same, "env": {**described}, "space": [*map(str, searched)]}

    def configuration(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `train` besides the tuned hyperparameters."""
        kind = kind_of(self.method)
        recorded = {k: v for k, v in described.items() if k not in ABOUT and k != "env"}
        return {
            "method": self.method,
            kind.env_argument: described["env"],
            "steps": self.steps,
            **recorded,
            **self.fixed,
        }

    def groups(self, seeds: Sequence[int]) -> list[Sequence[int]]:
        """The seeds of each run: all at once where the loop can."""
        return [seeds] if kind_of(self.method).many_seeds else [(one,) for one in seeds]

    def train(self, folder: Path, seeds: Sequence[int], values: Mapping[str, Any], **more: Any) -> Run:
        """A run on some seeds with these hyperparameters, in a folder that is emptied before."""
        shutil.rmtree(folder, ignore_errors=True)
        given = {"loggers": (), "run_dir": folder, "seed": seeds[0], "num_seeds": len(seeds), **more}
        return api.train(self.method, self.place, self.steps, **given, **self.fixed, **values)

    def value(self, trial: Any, folder: Path, values: Mapping[str, Any]) -> float:
        """The last mean evaluation of a trial over its seeds, which is told of every one."""
        every, last = max(1, self.steps // self.evaluations), []
        for number, group in enumerate(self.groups(range(self.seed, self.seed + self.seeds))):
            watcher = Watcher(None if number else trial)
            more: Any = {"evaluate_every": every, "evaluate_episodes": self.episodes, "callbacks": watcher}
            self.train(folder / str(group[0]), group, values, **more)
            if watcher.pruned:
                raise PrunedError
            if not watcher.values:
                raise UsageError(f"steps={self.steps} is too short for an evaluation; give more.")
            last.append(watcher.values[-1])
        return float(np.mean(last))

    def measured(self, folder: Path, seeds: Sequence[int], values: Mapping[str, Any]) -> tuple[float, ...]:
        """The mean evaluation of agents trained on some seeds, on episodes that no trial was evaluated on; runs that
        are there already are taken up."""
        found = list[float]()
        for group in self.groups(seeds):
            run = Run(folder / str(group[0]))
            if not (run.started and run.finished):
                self.train(run.path, group, values)
            named = isinstance(self.place, (str, type)) and "<" not in run.config["env"]["env"]
            for one in group:
                agent, env = agent_folder(run.path, group, one), None if named else self.place
                found.append(api.evaluate(agent, env, self.episodes, seed=derive(self.seed, "final"))["mean"])
        return tuple(found)


def _some_trials(
    optuna: Any, study: Any, plan: _Plan, searched: Sequence[Dimension], folder: Path, counts: range, on: str
) -> None:
    """Draw trials, of which as many as `counts` begins with are over, and run and record them."""
    drawn = []
    for count in counts:
        study.sampler = optuna.samplers.TPESampler(
            seed=derive(plan.seed, "tuning", count), n_startup_trials=STARTUP, constant_liar=plan.at_once > 1
        )
        trial = study.ask()
        drawn.append((plan, folder, trial.number, {one.name: one.suggest(trial) for one in searched}))
    for (*_, number, _), (value, reason) in zip(drawn, spread(_run_trial, drawn, on)):
        state = "COMPLETE" if value is not None else "FAIL" if reason else "PRUNED"
        study.tell(number, value, state=optuna.trial.TrialState[state])


def _run_trial(plan: _Plan, folder: Path, number: int, values: Mapping[str, Any]) -> tuple[float | None, str]:
    """The value of a trial, None if it was pruned or failed, and then why it failed."""
    optuna = _optuna()
    study = _study(optuna, folder)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP // 2, n_warmup_steps=plan.steps // 5)
    trial = optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)
    try:
        return plan.value(trial, folder / "trials" / f"{number:04d}", values), ""
    except PrunedError:
        return None, ""
    except UsageError as error:  # such as a combination that is not allowed, or weights that are not finite
        trial.set_user_attr("reason", message_of(error))
        return None, message_of(error)


class Watcher:
    """Collects the mean evaluation over the seeds of a run, and tells a trial of it, which may end the run."""

    def __init__(self, trial: Any) -> None:
        self.trial, self.values, self.pruned = trial, list[float](), False

    def __call__(self, learner: Any, rows: Sequence[Mapping[str, Any]]) -> bool:
        found = [row["evaluation_mean"] for row in rows if "evaluation_mean" in row]
        if not found:
            return False
        self.values.append(float(np.mean(found)))
        if self.trial is not None:
            self.trial.report(self.values[-1], learner.steps)
            self.pruned = self.trial.should_prune()
        return self.pruned


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError("tune needs Optuna; install it with: pip install 'surefoot[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _opened(optuna: Any, folder: Path, about: Mapping[str, Any]) -> Any:
    """The study in a folder, new or continued. A trial that was interrupted is queued again as it was drawn."""
    about, file = json.loads(json.dumps(about, default=str)), folder / "tune.json"
    if file.exists():
        begun = read_json(file)
        if differs := sorted(k for k in about.keys() | begun.keys() if about.get(k) != begun.get(k)):
            raise UsageError(
                f"{folder} has a study with {differs[0]}={begun.get(differs[0])!r}, not {about.get(differs[0])!r}. "
                "Give another out, or the same arguments (only trials, final_seeds and on may change)."
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(about, indent=2))
    study = _study(optuna, folder)
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)
    return study


def _study(optuna: Any, folder: Path) -> Any:
    """The study kept in a folder, which several processes may read and write."""
    journal = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    storage = optuna.storages.JournalStorage(journal)
    return optuna.create_study(storage=storage, study_name="tune", direction="maximize", load_if_exists=True)


def _finished(study: Any) -> list[Any]:
    """The trials that are over; not those that were interrupted, which have no reason to fail."""
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and _state(t) is not None]


def _state(trial: Any) -> str | None:
    named = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name)
    return named or ("failed" if "reason" in trial.user_attrs else None)


def _trials(study: Any, searched: Sequence[Dimension]) -> list[Trial]:
    found, by_name = [], {one.name: one for one in searched}
    for trial in _finished(study):
        values = {name: by_name[name].read(value) for name, value in trial.params.items() if name in by_name}
        last = max(trial.intermediate_values.items(), default=(0, None))[1]
        value = trial.value if trial.state.name == "COMPLETE" else last
        found.append(Trial(trial.number, values, value, str(_state(trial)), trial.user_attrs.get("reason", "")))
    return found


def _line(trial: Trial) -> str:
    value = "" if trial.value is None else f" {trial.value:.6g}"
    words = " ".join(f"{name}={_short(x)}" for name, x in trial.hyperparameters.items())
    return f"trial {trial.number}: {trial.state}{value}  {words}{'  ' * bool(trial.reason)}{trial.reason}"


def _csv(trials: Sequence[Trial], names: Sequence[str]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", "state", "value", *names, "reason"])
    for trial in trials:
        table.writerow(
            [trial.number, trial.state, trial.value, *(trial.hyperparameters.get(name) for name in names), trial.reason]
        )
    return text.getvalue()

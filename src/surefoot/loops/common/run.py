"""A run: a folder that says what was asked, what happened, and holds what it takes to go on."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surefoot.envs.names import same_name
from surefoot.errors import UsageError
from surefoot.hyperparameters import check, hyperparameter
from surefoot.loops.common import checkpoint, distributed
from surefoot.loops.common.kinds import Method, loop
from surefoot.loops.common.logs import Row, Sink, check_loggers, read_rows, sinks
from surefoot.loops.common.train import Callback, Trainable, train
from surefoot.models.saved import holds_agent, load_agent
from surefoot.seeding import MAX_SEED, check_seed

FORMAT = "surefoot-run-1"
NEEDED = {"id", "method", "hyperparameters", "env", "steps", "seeds", "compile", "loggers", "threads"}
NEEDED |= {"checkpoint_every", "evaluate_every", "evaluate_episodes"}  # what resuming reads in config.json
# Options of how a run is computed, which may change on resuming.
FREE = {"backend", "engine", "sharding", "patience", "step_timeout", "generation_batch"}
PAYS_OFF = 6_000  # gradient steps from which compiling them takes less time than it saves (see benchmarks/)


@dataclass(frozen=True)
class Settings:
    """How long a run goes on, and what it keeps on the way."""

    steps: int | None = hyperparameter(
        None, low=1, help="Steps of each seed, of its environments or iterations; the method's own number if not given."
    )
    compile: str = hyperparameter(
        "auto", choices=("auto", "on", "off"), help="Whether the gradient step is compiled; auto: where it pays off."
    )
    loggers: tuple[str, ...] = hyperparameter(
        ("tensorboard",), help="Besides metrics.jsonl: tensorboard, wandb, trackio."
    )
    evaluate_every: int | None = hyperparameter(None, low=1, help="Steps between deterministic evaluations.")
    evaluate_episodes: int = hyperparameter(10, low=1, help="Episodes of each evaluation.")
    checkpoint_every: int | None = hyperparameter(
        None, low=1, help="Steps between checkpoints; a tenth of the run if not given."
    )
    time_limit: float | None = hyperparameter(None, above=0, help="Seconds after which a run ends, with a checkpoint.")

    def __post_init__(self) -> None:
        check(self)
        check_loggers(self.loggers)


@dataclass(frozen=True)
class Run:
    """A finished or unfinished run; reading it needs neither its environment nor its method."""

    path: Path

    @property
    def config(self) -> dict[str, Any]:
        """What was asked: method, hyperparameters, environment, seeds, versions."""
        try:
            config = json.loads((self.path / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.path} is not the folder of a run: its config.json cannot be read ({error})."
            ) from error
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise UsageError(f"{self.path}/config.json is not of the format {FORMAT!r}; it is not a run of Surefoot.")
        return config

    def metrics(self) -> list[Row]:
        """All rows of `metrics.jsonl`: one an iteration and seed."""
        return read_rows(self.path / "metrics.jsonl")

    @property
    def started(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return checkpoint.latest(self.path) is not None

    @property
    def finished(self) -> bool:
        """Whether every seed was trained to the end and its agent kept."""
        config = self.config
        agents = [agent_folder(self.path, config["seeds"], seed) / "agent.json" for seed in config["seeds"]]
        return all(p.exists() and json.loads(p.read_text())["steps"] >= config["steps"] for p in agents)

    def curve(self, metric: str = "return_mean") -> tuple[np.ndarray, np.ndarray]:
        """Steps `[iterations]` and a metric `[seeds, iterations]`, NaN where a row does not have it."""
        rows = self.metrics()
        seeds, steps = self.config["seeds"], sorted({row["step"] for row in rows})
        table = np.full((len(seeds), len(steps)), np.nan)
        for row in rows:
            if isinstance(value := row.get(metric), (int, float)):
                table[seeds.index(row["seed"]), steps.index(row["step"])] = value
        return np.array(steps), table

    def agent(self, seed: int | None = None) -> Any:
        """The trained policy; of a run with several seeds, the first one's unless another is asked for."""
        seeds = self.config["seeds"]
        chosen: int = seeds[0] if seed is None else seed
        if chosen not in seeds:
            raise UsageError(f"seed={seed!r} is not in this run; it has the seeds {', '.join(map(str, seeds))}.")
        folder = agent_folder(self.path, seeds, chosen)
        if not holds_agent(folder) and self.started:
            raise UsageError(
                f"{self.path} was cut off before it kept an agent; go on with it: surefoot train --resume {self.path}."
            )
        return load_agent(folder)


def as_json(method: Method) -> dict[str, Any]:
    """The hyperparameters as JSON holds them; `surefoot.configure.make_method` reads them back."""
    values = dataclasses.asdict(method)  # type: ignore[call-overload]
    sets = {name: one for name in values if hasattr(one := getattr(method, name), "to_dict")}
    return {**values, **{name: one.to_dict() for name, one in sets.items()}}


def spoken(env: Any) -> str:
    """What folders and reports call an environment."""
    names = (getattr(env, name, None) for name in ("__qualname__", "name"))
    return env if isinstance(env, str) else next(filter(None, names), type(env).__name__)


def agent_folder(run: Path, seeds: Sequence[int], seed: int) -> Path:
    """Where the agent of a seed lies."""
    return run / "agent" if len(seeds) == 1 else run / "agent" / f"seed-{seed}"


def versions() -> dict[str, str]:
    """What a result may depend on."""
    packages = ("surefoot", "torch", "numpy", "gymnasium", "mujoco", "envpool")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def seeds_from(seed: int, num_seeds: int) -> list[int]:
    """`num_seeds` consecutive seeds from `seed` on."""
    seed = check_seed(seed)
    most = MAX_SEED - seed
    if isinstance(num_seeds, bool) or not isinstance(num_seeds, (int, np.integer)) or not 1 <= num_seeds <= most:
        raise UsageError(f"num_seeds={num_seeds!r} is not allowed from seed={seed} on; it must be in [1, {most}].")
    return list(range(seed, seed + num_seeds))


def compiles(setting: str, method: Method, total_steps: int) -> str:
    """Whether the gradient step is compiled: as set, but "off" for "auto" where it does not pay off or there is no C++
    compiler."""
    worth = method.gradient_steps(total_steps) >= PAYS_OFF and shutil.which("g++") is not None
    return "off" if setting == "auto" and not worth else setting


def make_learner(method: Method, env: Any, seeds: Sequence[int], steps: int, **options: Any) -> Any:
    """A fresh learner of the method's kind; see `Loop.learner`."""
    return loop(method.loop).learner(method, env, seeds, steps, **options)


def start(
    method: Method,
    slug: str,
    env: Any,
    settings: Settings,
    *,
    seeds: Sequence[int],
    run_dir: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    env_options: Mapping[str, Any] | None = None,
) -> Run:
    """Train in a new folder; one that breaks off before its first checkpoint leaves no folder behind.

    Raises:
        UsageError: the folder is taken, or anything asked for cannot work; before any work.
    """
    options, number = dict(env_options or {}), uuid.uuid4().hex[:8]
    path = Path(run_dir or Path("runs") / dated(f"{slug}-{spoken(env).replace('/', '-')}-{seeds[0]}", number))
    if path.is_file():
        raise UsageError(f"run_dir={str(path)!r} is a file; a run needs a folder of its own.")
    if path.is_dir() and any(path.iterdir()):
        raise _taken(path)
    steps = settings.steps or method.default_steps
    compile = compiles(settings.compile, method, steps)
    config = {
        "format": FORMAT,
        "id": number,
        "method": slug,
        "hyperparameters": as_json(method),
        "objective": str(method.objective()),
        "env": loop(method.loop).describe(env, **options),
        "steps": steps,
        "seeds": list(seeds),
        "compile": compile,
        "loggers": list(settings.loggers),
        "evaluate_every": settings.evaluate_every,
        "evaluate_episodes": settings.evaluate_episodes,
        "checkpoint_every": settings.checkpoint_every or max(steps // 10, method.pace),
        "threads": torch.get_num_threads(),
        "command": " ".join(sys.argv),
        "versions": versions(),
    }
    text = json.dumps(config, indent=2)
    learner = make_learner(method, env, seeds, steps, compile=compile, log=path / "actions.bin", **options)
    writes = distributed.rank() == 0  # known now: processes find each other when the learner is made
    if writes:
        with _closing_if_broken([learner]):
            _claim(path, text)
    try:
        return _go(learner, Run(path), json.loads(text), callbacks, settings.time_limit)
    except BaseException:
        if writes and checkpoint.latest(path) is None:
            shutil.rmtree(path, ignore_errors=True)
        raise


def dated(name: str, number: str | None = None) -> str:
    """The name of a folder that nothing else has: with the time and a random number."""
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{number or uuid.uuid4().hex[:8]}"


def _claim(path: Path, config: str) -> None:
    """Makes the folder of a run with its `config.json`, which only one run can write first."""
    with checkpoint.writing(path, path):
        path.mkdir(parents=True, exist_ok=True)
        try:
            with open(path / "config.json", "x") as file:
                file.write(config)
        except FileExistsError as error:
            raise _taken(path) from error


def _taken(path: Path) -> UsageError:
    return UsageError(
        f"The folder {path} exists and is not empty. Go on with that run by `surefoot train --resume {path}`, give "
        "another run_dir, or remove the folder."
    )


def check_same_method(run: Run, method: Method, slug: str) -> None:
    """Raise `UsageError` where a method is not the one that a run was begun with."""
    mine, other = json.loads(json.dumps(as_json(method))), run.config["hyperparameters"]
    if slug != run.config["method"]:
        raise UsageError(f"{run.path} was begun with {run.config['method']!r}, not with {slug!r}; leave method out.")
    if differ := sorted(name for name in mine.keys() | other.keys() if mine.get(name) != other.get(name)):
        begun, given = (", ".join(f"{n}={values.get(n)!r}" for n in differ) for values in (other, mine))
        raise UsageError(
            f"{run.path} was begun with {begun}, given is {given}; a run goes on as it began. Leave method out, or "
            "start a new run."
        )


def resume(
    method: Method,
    run: Run,
    *,
    env: Any = None,
    callbacks: Sequence[Callback] = (),
    time_limit: float | None = None,
    env_options: Mapping[str, Any] | None = None,
) -> Run:
    """Go on with a run from its newest checkpoint, to the bit as if it had never stopped.

    `env` and `env_options` are needed only where the run was given something that cannot be made again by name: a
    ready vector environment, a lambda.
    """
    config = run.config
    check_loggers(config["loggers"])
    place = checkpoint.latest(run.path)
    if place is None:
        raise UsageError(f"{run.path} holds no checkpoint, so there is nothing to go on from; start a new run.")
    state, facts = checkpoint.read(place)
    if missing := {"iteration", "logged"} - set(facts):
        raise UsageError(f"{place}/meta.json lacks {', '.join(sorted(missing))}; {checkpoint.instead(place)}")
    foreign = {k: facts.get(k) for k in ("method", "env", "seeds") if facts.get(k) != config[k]}
    if foreign:
        raise UsageError(
            f"{place} is not a checkpoint of this run: it was written for {foreign}, config.json says "
            f"{ {k: config[k] for k in foreign} }. Put the files of the run back as they were, or start a new run."
        )
    torch.set_num_threads(config["threads"])
    options = {**config["env"], **(env_options or {})}
    name = options.pop("env")
    if env is not None or env_options:
        described = loop(method.loop).describe(env or name, **options)
        if env is not None and not same_name(described["env"], name):
            raise UsageError(
                f"env={described['env']!r} is not what this run began in, {name!r}; give the same again, or a new run."
            )
        for option in sorted((env_options or {}).keys() - FREE):
            given, begun = described.get(option), config["env"].get(option)
            if given != begun:
                raise UsageError(
                    f"{option}={given!r} is not what this run began with, {begun!r}; leave it out, or start a new run."
                )
    log, compile = run.path / "actions.bin", config["compile"]
    learner = make_learner(method, env or name, config["seeds"], config["steps"], compile=compile, log=log, **options)
    with _closing_if_broken([learner]):
        learner.load(state, facts["iteration"], facts["logged"])
    return _go(learner, run, config, callbacks, time_limit)


def _go(
    learner: Trainable,
    run: Run,
    config: Mapping[str, Any],
    callbacks: Sequence[Callback],
    time_limit: float | None,
) -> Run:
    """Train to the end. Of several processes one writes the files."""
    opened, writes = list[Sink](), distributed.rank() == 0
    with _closing([learner], run), _closing(opened, run):
        with checkpoint.writing(run.path / "metrics", run.path):
            for sink in sinks(config["loggers"], run.path, config, learner.iteration) if writes else ():
                opened.append(sink)
        reason = train(
            learner,
            run.path,
            config["steps"],
            sinks=opened,
            callbacks=callbacks,
            checkpoint_every=config["checkpoint_every"],
            time_limit=time_limit,
            facts={"method": config["method"], "env": config["env"]},
        )
        for index, seed in enumerate(learner.seeds):
            facts = {
                "method": config["method"],
                "env": config["env"],
                "steps": learner.steps,
                "seed": seed,
                "ended": reason,
            }
            folder, agent = agent_folder(run.path, learner.seeds, seed), learner.agent(index, **facts)
            if writes:
                with checkpoint.writing(folder, run.path):
                    agent.save(folder)
    distributed.wait()
    return run


@contextmanager
def _closing_if_broken(things: Sequence[Any]) -> Iterator[None]:
    """When something breaks, that is what is told, not what closing then runs into."""
    try:
        yield
    except BaseException:
        for thing in things:
            with suppress(Exception):
                thing.close()
        raise


@contextmanager
def _closing(things: Sequence[Any], run: Run) -> Iterator[None]:
    """Closes all things in the end, whatever happens."""
    with _closing_if_broken(things):
        yield
    for thing in things:
        with checkpoint.writing(run.path, run.path):
            thing.close()

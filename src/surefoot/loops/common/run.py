"""Starting and resuming a run, whose folder holds its configuration, its metrics and what is needed to resume it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surefoot.envs.names import same_name
from surefoot.errors import UsageError
from surefoot.files import is_draft, write_whole
from surefoot.hyperparameters import check_count, check_threads
from surefoot.loops.common import checkpoint, distributed, lock
from surefoot.loops.common.begin import begin
from surefoot.loops.common.best import keeper
from surefoot.loops.common.card import card
from surefoot.loops.common.folder import KINDS, Run, agent_folder, short_name
from surefoot.loops.common.game import opponents
from surefoot.loops.common.kinds import Method, loop
from surefoot.loops.common.logs import Sink, check_loggers, sinks
from surefoot.loops.common.settings import Settings, as_json, configuration, env_name, repeating
from surefoot.loops.common.train import Callback, Trainable, check_ended, train
from surefoot.seeding import MAX_SEED, check_seed

MAY_DIFFER = ("id", "threads", "command", "versions", "machine")  # entries that may differ in a second start
# Options of how a run is computed, which may be changed when it is resumed.
FREE = {
    *("backend", "data", "reward_data", "device", "engine", "server", "sharding"),
    *("patience", "step_timeout", "generation_batch"),
}
MOST_SEEDS = 10_000  # trained in parallel by one run


def seeds_from(seed: int, num_seeds: int) -> list[int]:
    """`num_seeds` consecutive seeds starting at `seed`."""
    seed = check_seed(seed)
    most = min(MOST_SEEDS, MAX_SEED - seed)
    if isinstance(num_seeds, bool) or not isinstance(num_seeds, (int, np.integer)) or not 1 <= num_seeds <= most:
        raise UsageError(f"num_seeds={num_seeds!r} is not allowed with seed={seed}; it must be in [1, {most}].")
    return list(range(seed, seed + num_seeds))


def make_learner(method: Method, env: Any, seeds: Sequence[int], steps: int, /, **options: Any) -> Any:
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
    source: Any = None,
) -> Run:
    """Train in a new folder, from the weights of `source` if there is one (see `begin`), or in the folder of the same
    run if it was killed before its first checkpoint. A run that fails before that leaves no folder behind.

    Raises:
        UsageError: the folder is taken, or an argument cannot work; raised before any work.
        KeyboardInterrupt, SystemExit: a signal ended the run, after it was saved.
    """
    options, number = dict(env_options or {}), uuid.uuid4().hex[:8]
    loop(method.loop).check_method(method, env, **options)
    name = f"{short_name(slug)}-{env_name(env).replace('/', '-')}-{seeds[0]}"
    path = Path(run_dir or Path("runs") / dated(name, number))
    config = configuration(method, slug, env, settings, seeds, options, number, source)
    config = json.loads(json.dumps(config))
    _check_free(path, config)
    more = {"compile": config["compile"], "log": path / "actions.bin", **options}
    learner = make_learner(method, env, seeds, config["steps"], **more)
    writes = distributed.rank() == 0  # known now: processes connect when the learner is made
    with _closing_if_broken([learner]), ExitStack() as held:
        if source is not None:
            config["start"] = begin(learner, source)
        if writes:
            held.enter_context(_new_folder(path, config))
        try:
            return _train(learner, Run(path), config, callbacks, settings.time_limit)
        except BaseException:
            if writes and not checkpoint.found(path):
                shutil.rmtree(path, ignore_errors=True)
            raise


def dated(name: str, number: str | None = None) -> str:
    """A unique folder name, with the time and a random number."""
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{number or uuid.uuid4().hex[:8]}"


@contextmanager
def _new_folder(path: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Create the folder of a run with its `config.json`, and hold its lock."""
    with ExitStack() as held:
        with checkpoint.writing(path, path):
            path.mkdir(parents=True, exist_ok=True)
            held.enter_context(lock.training(path))
            _check_free(path, config)  # again, now that it is locked
            (path / "actions.bin").unlink(missing_ok=True)
            write_whole(path / "config.json", json.dumps(config, indent=2))
        yield


def _check_free(path: Path, config: Mapping[str, Any]) -> None:
    """Raise `UsageError` for a folder that is taken: neither empty nor that of the same run before a checkpoint."""
    if path.is_file():
        raise UsageError(f"run_dir={str(path)!r} is a file; a run needs a folder of its own.")
    if not path.is_dir() or all(p.name == lock.NAME or is_draft(p) for p in path.iterdir()):
        return
    with suppress(UsageError):
        begun = Run(path).config
        if untrained(path) and all(
            begun.get(name) == value for name, value in config.items() if name not in MAY_DIFFER
        ):
            return
    raise UsageError(
        f"The folder {path} exists and is not empty. Resume the run in it with `surefoot train --resume {path}`, give "
        "another run_dir, or remove the folder."
    )


def untrained(path: Path) -> bool:
    """Whether a run stopped before its first checkpoint, so that restarting it loses nothing."""
    rows = path / "metrics.jsonl"
    return not checkpoint.found(path) and not (path / "agent").exists() and not (rows.exists() and rows.stat().st_size)


def check_same_method(run: Run, method: Method, slug: str) -> None:
    """Raise `UsageError` if a method is not the one that a run was started with."""
    config = run.config_with("hyperparameters")
    mine, other = json.loads(json.dumps(as_json(method))), config["hyperparameters"]
    if config["method"] not in (slug, short_name(slug)):  # older versions recorded the short name
        raise UsageError(f"{run.path} was started with {config['method']!r}, not with {slug!r}; leave method out.")
    if begun := differing(other, mine):
        raise UsageError(
            f"{run.path} was started with {begun}, not with {differing(mine, other)}; resuming cannot change it. "
            "Leave method out, or start a new run."
        )


def differing(some: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """The entries that differ between two mappings, with the values of the first."""
    names = sorted(name for name in some.keys() | others.keys() if some.get(name) != others.get(name))
    return ", ".join(f"{name}={some.get(name)!r}" for name in names)


def checked(run: Run) -> dict[str, Any]:
    """The configuration of a run that is to be resumed, checked as on a fresh start.

    Raises:
        UsageError: an entry is missing, has the wrong type, or is out of range.
    """
    config = run.config_with(*KINDS)
    settings: dict[str, Any] = {f.name: config[f.name] for f in dataclasses.fields(Settings) if f.name in config}
    try:
        Settings(**{**settings, "loggers": tuple(config["loggers"])})
        check_threads(config["threads"])
    except UsageError as error:
        raise UsageError(f"{run.path}/config.json: {error} Restore the original file.") from error
    return config


def resume(
    method: Method,
    run: Run,
    *,
    env: Any = None,
    steps: int | None = None,
    callbacks: Sequence[Callback] = (),
    time_limit: float | None = None,
    env_options: Mapping[str, Any] | None = None,
) -> Run:
    """Resume a run from its newest complete checkpoint, bit for bit as if it had not been interrupted; from the start
    if it was killed before its first checkpoint.

    `env` and `env_options` are needed only where the run was given something that cannot be remade from a name: a
    ready vector environment, a lambda. `steps` are added to those of the run, which then goes on as one of that length
    would: to the bit, except for what follows the length of a run (`Method.scheduled`), of which a warning tells.

    Raises:
        UsageError: the folder is in use or damaged, or an argument differs from the run's own.
        KeyboardInterrupt, SystemExit: a signal ended the run, after it was saved.
    """
    config = checked(run)
    check_loggers(config["loggers"])
    if steps is not None:
        check_count("steps", steps)
        config["steps"] += int(steps)
        config["command"] = repeating(config, method, config.get("start", {}).get("from")) or config["command"]
        _say_schedules(method, config["steps"])
    torch.set_num_threads(config["threads"])
    options = {**config["env"], **(env_options or {})}
    name = options.pop("env")
    loop(method.loop).check_method(method, env or name, **(env_options or {}))
    if env is not None or env_options:
        described = loop(method.loop).describe(env or name, **options)
        if env is not None and not same_name(described["env"], name):
            raise UsageError(
                f"env={described['env']!r} is not this run's environment, {name!r}; give the same one, or start a new "
                "run."
            )
        for option in sorted((env_options or {}).keys() - FREE):
            given, begun = described.get(option), config["env"].get(option)
            if given != begun:
                raise UsageError(
                    f"{option}={given!r} differs from this run's own {begun!r}; leave it out, or start a new run."
                )
    log, compile = run.path / "actions.bin", config["compile"]
    learner = make_learner(method, env or name, config["seeds"], config["steps"], compile=compile, log=log, **options)
    with _closing_if_broken([learner]), ExitStack() as held:
        if distributed.rank() == 0:
            with checkpoint.writing(run.path, run.path):
                held.enter_context(lock.training(run.path))
        _load(learner, run, config)
        if steps is not None and distributed.rank() == 0:
            with checkpoint.writing(run.path / "config.json", run.path):
                write_whole(run.path / "config.json", json.dumps(config, indent=2))
        return _train(learner, run, config, callbacks, time_limit)


def _say_schedules(method: Method, steps: int) -> None:
    """Warn of hyperparameters that follow the length of a run, if it is changed."""
    scheduled = getattr(method, "scheduled", list)()
    if scheduled:
        warnings.warn(
            f"{' and '.join(scheduled)} of {type(method).__name__} follow the length of the run. From here on they are "
            f"those of a run of {steps:,} steps; until here they were those of a shorter one.",
            stacklevel=4,
        )


def _load(learner: Trainable, run: Run, config: Mapping[str, Any]) -> None:
    """Load the newest complete checkpoint into a learner, if the run has one."""
    found = checkpoint.newest(run.path)
    if found is None:
        if not untrained(run.path):
            raise UsageError(f"{run.path} has no checkpoint, so there is nothing to resume; start a new run.")
        if "start" in config:
            raise UsageError(f"{run.path} was killed before its first checkpoint; start it again as it was started.")
        return
    place, state, facts = found
    about = {name: facts.get(name) for name in ("method", "env", "seeds")}
    if about != (now := {name: config[name] for name in about}):
        raise UsageError(
            f"{place} is not a checkpoint of this run: it was written for {differing(about, now)}, config.json says "
            f"{differing(now, about)}. Restore the original files of the run, or start a new one."
        )
    if (begun := facts.get("hyperparameters")) != (now := config["hyperparameters"]):
        begun = begun if isinstance(begun, dict) else {}
        raise UsageError(
            f"{place} was written with {differing(begun, now)}, config.json says {differing(now, begun)}. Restore "
            "the original config.json, or start a new run."
        )
    if (log := run.path / "actions.bin").exists() and not log.is_file():
        raise UsageError(f"{log} is not a file; restore it, or start a new run.")
    if distributed.rank() == 0:
        with checkpoint.writing(run.path / "checkpoints", run.path):
            checkpoint.set_aside(run.path, facts["iteration"])
    learner.load(state, facts["iteration"], facts["logged"])


def _train(
    learner: Trainable,
    run: Run,
    config: Mapping[str, Any],
    callbacks: Sequence[Callback],
    time_limit: float | None,
) -> Run:
    """Train to the end. Among several processes, one writes the files."""
    opened, writes = list[Sink](), distributed.rank() == 0
    if config.get("keep_best"):
        callbacks = [*callbacks, keeper(run, {name: config[name] for name in ("method", "env")}, config["seeds"])]
    with _closing([learner], run), _closing(opened, run):
        with checkpoint.writing(run.path / "metrics", run.path):
            for sink in sinks(config["loggers"], run.path, config, learner.iteration) if writes else ():
                opened.append(sink)
        about = {"method": config["method"], "env": config["env"]}
        reason = train(
            learner,
            run.path,
            config["steps"],
            sinks=opened,
            callbacks=callbacks,
            checkpoint_every=config["checkpoint_every"],
            time_limit=time_limit,
            facts={**about, "hyperparameters": config["hyperparameters"]},
        )
        for index, seed in enumerate(learner.seeds):
            facts = {**about, "steps": learner.steps, "seed": seed, "ended": reason}
            folder, agent = agent_folder(run.path, learner.seeds, seed), learner.agent(index, **facts)
            if writes:
                with checkpoint.writing(folder, run.path):
                    agent.save(folder)
                    write_whole(folder / "README.md", card(run, facts, loop(agent.loop).measured))
                    for name, other in opponents(learner, index, **facts).items():
                        other.save(agent_folder(run.path, learner.seeds, seed, name))
    distributed.wait()
    check_ended(reason, run.path)
    return run


@contextmanager
def _closing_if_broken(things: Sequence[Any]) -> Iterator[None]:
    """On an error, close all things; errors in closing do not hide the first one."""
    try:
        yield
    except BaseException:
        for thing in things:
            with suppress(Exception):
                thing.close()
        raise


@contextmanager
def _closing(things: Sequence[Any], run: Run) -> Iterator[None]:
    """Close all things at the end, whatever happens."""
    with _closing_if_broken(things):
        yield
    for thing in things:
        with checkpoint.writing(run.path, run.path):
            thing.close()

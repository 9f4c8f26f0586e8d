"""A run: a folder that says what was asked, what happened, and holds what it takes to go on."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from surefoot.envs import describe, env_seeds, make
from surefoot.errors import UsageError
from surefoot.loops import checkpoint
from surefoot.loops.learner import Learner
from surefoot.loops.logs import Row, sinks
from surefoot.loops.on_policy import OnPolicy
from surefoot.loops.train import Callback, train
from surefoot.models.agent import Agent
from surefoot.seeding import MAX_SEED, check_seed

FORMAT = "surefoot-run-1"
PAYS_OFF = 6_000  # gradient steps from which compiling them takes less time than it saves (see benchmarks/)


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
        return [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]

    def curve(self, metric: str = "return_mean") -> tuple[np.ndarray, np.ndarray]:
        """Steps `[iterations]` and a metric `[seeds, iterations]`, NaN where a row does not have it."""
        rows = self.metrics()
        seeds, steps = self.config["seeds"], sorted({row["step"] for row in rows})
        table = np.full((len(seeds), len(steps)), np.nan)
        for row in rows:
            table[seeds.index(row["seed"]), steps.index(row["step"])] = row.get(metric, np.nan)
        return np.array(steps), table

    def agent(self, seed: int | None = None) -> Agent:
        """The trained policy; of a run with several seeds, the first one's unless another is asked for."""
        seeds = self.config["seeds"]
        chosen: int = seeds[0] if seed is None else seed
        if chosen not in seeds:
            raise UsageError(f"seed={seed!r} is not in this run; it has the seeds {', '.join(map(str, seeds))}.")
        return Agent.load(agent_folder(self.path, seeds, chosen))


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
    check_seed(seed)
    if isinstance(num_seeds, bool) or not isinstance(num_seeds, int) or not 1 <= num_seeds <= MAX_SEED - seed:
        raise UsageError(f"num_seeds={num_seeds!r} is not allowed; it must be a whole number of at least 1.")
    return list(range(seed, seed + num_seeds))


def compiles(setting: str, method: OnPolicy, total_steps: int) -> bool:
    """Whether the gradient step is compiled: "on", "off", or "auto": where it pays off and a C++ compiler is there."""
    if setting not in ("auto", "on", "off"):
        raise UsageError(f"compile={setting!r} is not allowed; it must be 'auto', 'on' or 'off'.")
    steps = total_steps * method.epochs / method.minibatch_size
    return setting == "on" or (setting == "auto" and steps >= PAYS_OFF and shutil.which("g++") is not None)


def make_learner(
    method: OnPolicy,
    env: Any,
    seeds: Sequence[int],
    steps: int,
    *,
    compiled: bool = False,
    log: Path | None = None,
    **options: Any,
) -> Learner:
    """A learner on fresh environments; `options` go to `envs.make`. Each seed's environments are those it has alone."""
    if isinstance(env, VectorEnv):
        envs = make(env, method.num_envs * len(seeds))
    else:
        each = [s for seed in seeds for s in env_seeds(seed, method.num_envs)]
        envs = make(env, len(each), seed=each, **options)
    return Learner(method, envs, seeds, steps, log=log, compile=compiled)


def start(
    method: OnPolicy,
    slug: str,
    env: Any,
    steps: int,
    *,
    seeds: Sequence[int],
    run_dir: str | Path | None = None,
    compile: str = "auto",
    loggers: Sequence[str] = ("tensorboard",),
    callbacks: Sequence[Callback] = (),
    checkpoint_every: int | None = None,
    time_limit: float | None = None,
    env_options: Mapping[str, Any] | None = None,
) -> Run:
    """Train in a new folder.

    Raises:
        UsageError: the folder is taken, or anything asked for cannot work; before any work.
    """
    if isinstance(steps, bool) or steps != int(steps) or steps < 1:
        raise UsageError(f"steps={steps!r} is not allowed; it must be a whole number of at least 1.")
    steps, options = int(steps), dict(env_options or {})
    name = env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)
    path = Path(
        run_dir or Path("runs") / f"{slug}-{name.replace('/', '-')}-{seeds[0]}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    if path.exists() and any(path.iterdir()):
        raise UsageError(
            f"The folder {path} exists and is not empty. Go on with that run by `surefoot train --resume {path}`, give "
            "another run_dir, or remove the folder."
        )
    description = describe(env, **options)
    del description["num_envs"], description["seed"]
    compiled = compiles(compile, method, steps)
    path.mkdir(parents=True, exist_ok=True)
    learner = make_learner(method, env, seeds, steps, compiled=compiled, log=path / "actions.bin", **options)
    config = {
        "format": FORMAT,
        "method": slug,
        "hyperparameters": dataclasses.asdict(method),
        "objective": str(method.objective()),
        "env": description,
        "steps": steps,
        "seeds": list(seeds),
        "compiled": compiled,
        "loggers": list(loggers),
        "checkpoint_every": checkpoint_every or max(steps // 10, method.num_envs * method.num_steps),
        "threads": torch.get_num_threads(),
        "command": " ".join(sys.argv),
        "versions": versions(),
    }
    (path / "config.json").write_text(json.dumps(config, indent=2))
    return _go(learner, Run(path), callbacks, time_limit)


def resume(
    method: OnPolicy, run: Run, *, env: Any = None, callbacks: Sequence[Callback] = (), time_limit: float | None = None
) -> Run:
    """Go on with a run from its newest checkpoint, to the bit as if it had never stopped.

    `env` is needed only where the run was given something that cannot be made again by name: a ready vector
    environment, a lambda.
    """
    config = run.config
    place = checkpoint.latest(run.path)
    if place is None:
        raise UsageError(f"{run.path} holds no checkpoint, so there is nothing to go on from; start a new run.")
    state, facts = checkpoint.read(place)
    torch.set_num_threads(config["threads"])
    options = dict(config["env"])
    name = options.pop("env")
    log, compiled = run.path / "actions.bin", config["compiled"]
    learner = make_learner(method, env or name, config["seeds"], config["steps"], compiled=compiled, log=log, **options)
    learner.load(state, facts["iteration"], facts["logged"])
    return _go(learner, run, callbacks, time_limit)


def _go(learner: Learner, run: Run, callbacks: Sequence[Callback], time_limit: float | None) -> Run:
    config, opened = run.config, []
    try:
        opened = sinks(config["loggers"], run.path, config, learner.iteration, config["steps"])
        every = config["checkpoint_every"]
        reason = train(
            learner,
            run.path,
            config["steps"],
            sinks=opened,
            callbacks=callbacks,
            checkpoint_every=every,
            time_limit=time_limit,
        )
        for index, seed in enumerate(learner.seeds):
            facts = {
                "method": config["method"],
                "env": config["env"],
                "steps": learner.steps,
                "seed": seed,
                "ended": reason,
            }
            learner.agent(index, **facts).save(agent_folder(run.path, learner.seeds, seed))
    finally:
        for sink in opened:
            sink.close()
        learner.collector.close()
    return run

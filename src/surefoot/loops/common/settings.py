"""The settings of a run, and what its `config.json` records: all that is needed to run it again."""

from __future__ import annotations

import dataclasses
import platform
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from surefoot.hyperparameters import check, hyperparameter
from surefoot.loops.common.folder import FORMAT, Run
from surefoot.loops.common.kinds import Method, loop
from surefoot.loops.common.logs import check_loggers
from surefoot.loops.common.machine import machine
from surefoot.loops.common.words import command

PAYS_OFF = 6_000  # gradient steps from which compilation saves more time than it takes (see benchmarks/)


@dataclass(frozen=True)
class Settings:
    """The length of a run, and what it logs and saves."""

    steps: int | None = hyperparameter(
        None, low=1, help="Environment steps (or iterations) per seed; by default the method's own number."
    )
    compile: str = hyperparameter(
        "auto", choices=("auto", "on", "off"), help="Compile the gradient step; auto compiles if that saves time."
    )
    loggers: tuple[str, ...] = hyperparameter(
        ("tensorboard",), help="Loggers besides metrics.jsonl: tensorboard, wandb, trackio."
    )
    evaluate_every: int | None = hyperparameter(None, low=1, help="Steps between deterministic evaluations.")
    evaluate_episodes: int = hyperparameter(10, low=1, help="Episodes per evaluation.")
    keep_best: bool = hyperparameter(
        False, help="Keep the agent with the best evaluation in best/; evaluates every tenth of the run if not told."
    )
    checkpoint_every: int | None = hyperparameter(
        None, low=1, help="Steps between checkpoints; by default a tenth of the run."
    )
    time_limit: float | None = hyperparameter(
        None, above=0, help="Time limit in seconds; the run then ends with a checkpoint."
    )

    def __post_init__(self) -> None:
        check(self)
        check_loggers(self.loggers)


def as_json(method: Method) -> dict[str, Any]:
    """The hyperparameters as JSON holds them; `surefoot.configure.make_method` reads them back."""
    values = dataclasses.asdict(method)  # type: ignore[call-overload]
    sets = {name: one for name in values if hasattr(one := getattr(method, name), "to_dict")}
    return {**values, **{name: one.to_dict() for name, one in sets.items()}}


def env_name(env: Any) -> str:
    """The name of an environment in folders and reports."""
    names = (getattr(env, name, None) for name in ("__qualname__", "name"))
    return (env or "data") if isinstance(env, str) else next(filter(None, names), type(env).__name__)


def versions() -> dict[str, str]:
    """The versions of the packages that a result may depend on."""
    packages = ("surefoot", "torch", "numpy", "gymnasium", "mujoco", "envpool")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def compiles(setting: str, method: Method, total_steps: int) -> str:
    """The setting of `compile`, with "auto" replaced by "off" where compiling does not save time or there is no C++
    compiler."""
    worth = method.gradient_steps(total_steps) >= PAYS_OFF and shutil.which("g++") is not None
    return "off" if setting == "auto" and not worth else setting


def checkpoint_interval(method: Method, steps: int) -> int:
    """The steps between checkpoints if a run is not told: a tenth of it."""
    return max(steps // 10, method.pace)


def configuration(
    method: Method,
    slug: str,
    env: Any,
    settings: Settings,
    seeds: Sequence[int],
    options: Mapping[str, Any],
    number: str,
    source: Any = None,
) -> dict[str, Any]:
    """The content of a new run's `config.json`; `number` tells runs apart, `source` is what it starts from."""
    steps = settings.steps or method.default_steps
    config = {
        "format": FORMAT,
        "id": number,
        "method": slug,
        "hyperparameters": as_json(method),
        "objective": str(method.objective()),
        "env": loop(method.loop).describe(env, **options),
        "steps": steps,
        "seeds": list(seeds),
        "compile": compiles(settings.compile, method, steps),
        "loggers": list(settings.loggers),
        "evaluate_every": settings.evaluate_every,
        "evaluate_episodes": settings.evaluate_episodes,
        "keep_best": settings.keep_best,
        "checkpoint_every": settings.checkpoint_every or checkpoint_interval(method, steps),
        "threads": torch.get_num_threads(),
        "command": "",
        "versions": versions(),
        "machine": machine(),
    }
    source = source.path if isinstance(source, Run) else source
    begun = source is None or isinstance(source, (str, Path))
    again = repeating(config, method, None if source is None else str(source)) if begun else None
    script = shlex.join(["python", *sys.argv]) if sys.argv[0].endswith(".py") else ""
    return {**config, "command": again or script}


def repeating(config: Mapping[str, Any], method: Method, source: str | None) -> str | None:
    """The command that repeats a run with this configuration, `None` where something in it has no name."""
    kind, env, seeds, steps = loop(method.loop), config["env"], config["seeds"], config["steps"]
    settings = {name: config[name] for name in ("loggers", "evaluate_every", "evaluate_episodes", "keep_best")}
    usual = {"steps": method.default_steps, "compile": compiles("auto", method, steps)}
    usual["checkpoint_every"] = checkpoint_interval(method, steps)
    settings |= {name: config[name] for name, value in usual.items() if config[name] != value}
    beside = {"start": source, "seed": seeds[0] or None, "num_seeds": len(seeds) if len(seeds) > 1 else None}
    beside["threads"] = config["threads"] if config["threads"] != 1 else None
    changed = [(type(method), config["hyperparameters"]), (kind.options, env), (Settings, settings)]
    return command(config["method"], (kind.env_argument, env["env"]), changed, **beside)

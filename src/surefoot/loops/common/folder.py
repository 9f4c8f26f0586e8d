"""Reading the folder of a run: its configuration, its metrics and its agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.errors import UsageError
from surefoot.files import read_json
from surefoot.loops.common import checkpoint, shown
from surefoot.loops.common.logs import LARGEST, Row, read_rows
from surefoot.models.saved import holds_agent, load_agent, read_facts
from surefoot.seeding import MAX_SEED

FORMAT = "surefoot-run-1"
KINDS: dict[str, tuple[type, ...]] = {  # types of the entries of config.json; some may be None
    "id": (str,),
    "method": (str,),
    "hyperparameters": (dict,),
    "objective": (str,),
    "env": (dict,),
    "steps": (int,),
    "seeds": (list,),
    "compile": (str,),
    "loggers": (list,),
    "evaluate_every": (int, type(None)),
    "evaluate_episodes": (int,),
    "checkpoint_every": (int,),
    "threads": (int,),
    "command": (str,),
    "versions": (dict,),
}
OPTIONAL: dict[str, tuple[type, ...]] = {"keep_best": (bool,), "start": (dict,)}
LAST, BEST = "agent", "best"  # folders of agents
ALWAYS = ("method", "env")  # entries that every run has


@dataclass(frozen=True, repr=False)
class Run:
    """A finished or unfinished run; reading it requires neither its environment nor its method."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))  # a text will do

    @property
    def config(self) -> dict[str, Any]:
        """The configuration: method, hyperparameters, environment, seeds, versions.

        Raises:
            UsageError: it is not the folder of a run, or its `config.json` is damaged.
        """
        try:
            config = read_json(self.path / "config.json")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.path} is not the folder of a run: its config.json cannot be read ({error})."
            ) from error
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise UsageError(f"{self.path}/config.json does not have the format {FORMAT!r}; it is not a Surefoot run.")
        check_entries(config, ALWAYS, self.path)
        return config

    def config_with(self, *names: str) -> dict[str, Any]:
        """The configuration, which must have the entries with these names; a `UsageError` otherwise."""
        config = self.config
        check_entries(config, names, self.path)
        return config

    def metrics(self) -> list[Row]:
        """All rows of `metrics.jsonl`: one per iteration and seed."""
        return read_rows(self.path / "metrics.jsonl")

    @property
    def started(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return checkpoint.latest(self.path) is not None

    @property
    def finished(self) -> bool:
        """Whether every seed was trained to the end and its agent saved."""
        config = self.config_with("seeds", "steps")
        agents = [agent_folder(self.path, config["seeds"], seed) for seed in config["seeds"]]
        return all(holds_agent(p) and read_facts(p).get("steps", 0) >= config["steps"] for p in agents)

    def curve(self, metric: str = "return_mean") -> tuple[np.ndarray, np.ndarray]:
        """Steps `[iterations]` and a metric `[seeds, iterations]`, NaN where a row lacks it."""
        rows = self.metrics()
        seeds, steps = self.config_with("seeds")["seeds"], sorted({row["step"] for row in rows})
        places = {step: index for index, step in enumerate(steps)}
        table = np.full((len(seeds), len(steps)), np.nan)
        for row in rows:
            if row["seed"] not in seeds:
                raise UsageError(f"{self.path}/metrics.jsonl has a row for seed {row['seed']}, not a seed of this run.")
            if isinstance(value := row.get(metric), (int, float)):
                table[seeds.index(row["seed"]), places[row["step"]]] = value
        return np.array(steps), table

    def __repr__(self) -> str:
        return shown.words(self)

    def _repr_html_(self) -> str:
        return shown.html(self)

    def agent(self, seed: int | None = None, best: bool = False) -> Any:
        """The trained policy; for a run with several seeds, that of the first seed unless `seed` names another.

        `best` gives the one with the best evaluation in training, of a run with `keep_best`, instead of the last one.
        """
        seeds = self.config_with("seeds")["seeds"]
        chosen: int = seeds[0] if seed is None else seed
        if chosen not in seeds:
            raise UsageError(f"seed={seed!r} is not in this run; its seeds are {', '.join(map(str, seeds))}.")
        folder = agent_folder(self.path, seeds, chosen, BEST if best else LAST)
        if best and not holds_agent(folder):
            raise UsageError(
                f"{self.path} has no best agent: it was trained without keep_best, or not evaluated yet. Start a run "
                "with keep_best=True, or load the last agent."
            )
        if not holds_agent(folder) and self.started:
            raise UsageError(
                f"{self.path} stopped before it saved an agent; resume it with: surefoot train --resume {self.path}."
            )
        return load_agent(folder)


def short_name(method: str) -> str:
    """The name of a method in folders and tables: its slug, or the class of `module:Class` in lower case."""
    return method.rpartition(":")[2].rpartition(".")[2].lower() if ":" in method else method


def agent_folder(run: Path, seeds: Sequence[int], seed: int, which: str = LAST) -> Path:
    """The folder of a seed's agent: the last one, the best by evaluation, or another player of a game, such as its
    adversary."""
    return run / which if len(seeds) == 1 else run / which / f"seed-{seed}"


def check_entries(config: Mapping[str, Any], needed: Sequence[str], run: Path) -> None:
    """Raise `UsageError` for entries of `config.json` that are missing or of the wrong type."""
    if missing := sorted(set(needed) - config.keys()):
        raise UsageError(f"{run}/config.json lacks {', '.join(missing)}; restore the original file.")
    for name, kinds in {**KINDS, **OPTIONAL}.items():
        if name in config and not (isinstance(config[name], kinds) and _fits(name, config[name])):
            raise UsageError(f"{run}/config.json: {name}={config[name]!r} is not allowed; restore the original file.")


def _fits(name: str, value: Any) -> bool:
    if name == "seeds":
        whole = all(type(seed) is int and 0 <= seed <= MAX_SEED for seed in value)
        return bool(value) and whole and len({*value}) == len(value)
    if name == "env":
        return isinstance(value.get("env"), str)
    if name in OPTIONAL:
        return True
    if name == "loggers":
        return all(isinstance(one, str) for one in value)
    return type(value) is not bool and not (isinstance(value, int) and not 1 <= value <= LARGEST)

"""How a run was made: the settings that differ from the defaults, the command that repeats it, where and when."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from surefoot import catalogue
from surefoot.errors import UsageError
from surefoot.evaluate.pages.page import Block, Code, Facts, Folded, Section, Table, Text
from surefoot.evaluate.readable import duration, flat, number
from surefoot.loops.common.kinds import Loop, loop
from surefoot.loops.common.run import as_json

Config = Mapping[str, Any]
SAID = {"objective", "versions", "command", "machine", "hyperparameters", "env", "format"}


def kind_of(config: Config) -> Loop | None:
    """The kind of loop of a run, if its method is in the catalogue."""
    try:
        return loop(catalogue.method_class(config["method"]).loop)
    except (UsageError, AttributeError):
        return None


def steps_of(config: Config) -> str:
    """What the steps of a run are, for an axis."""
    kind = kind_of(config)
    return {"steps": "environment steps"}.get(kind.measured, kind.measured) if kind else "steps"


def defaults(config: Config) -> dict[str, Any]:
    """The default hyperparameters of a run's method, as JSON holds them; empty if it is not in the catalogue."""
    try:
        return json.loads(json.dumps(as_json(catalogue.method_class(config["method"])())))
    except (UsageError, TypeError, ValueError):
        return {}


def changed(config: Config) -> list[tuple[str, Any, Any]]:
    """Name, value and default of the hyperparameters that differ from the method's defaults."""
    usual, given = defaults(config), config.get("hyperparameters", {})
    return [(name, value, usual[name]) for name, value in given.items() if name in usual and value != usual[name]]


def training_time(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds spent in training, from the pace of every iteration: without evaluations, checkpoints and pauses."""
    seeds = len({row.get("seed", 0) for row in rows}) or 1
    paces: dict[Any, Any] = {
        row["step"]: row.get("steps_per_second") for row in rows if isinstance(row.get("step"), (int, float))
    }
    lengths = np.diff([0, *sorted(paces)])
    spent = [n * seeds / p for n, p in zip(lengths, (paces[s] for s in sorted(paces))) if _positive(p)]
    return float(sum(spent)) if spent else float("nan")


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 0


def finished(rows: Sequence[Mapping[str, Any]]) -> str:
    """When the last row was written."""
    times = [row["time"] for row in rows if _positive(row.get("time")) and row["time"] < 1e11]
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(max(times))) if times else "unknown"


def facts(config: Config, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Seeds, steps, time, speed, date and machine of a run."""
    unit = steps_of(config).split()[-1]
    seeds = config.get("seeds") or list(dict.fromkeys(row.get("seed", 0) for row in rows))
    last = max((row["step"] for row in rows if isinstance(row.get("step"), (int, float))), default=0)
    planned = config.get("steps")
    of = f" of {planned:,}" if isinstance(planned, int) and last < planned else ""
    seconds = training_time(rows)
    pace = last * len(seeds) / seconds if seconds > 0 else float("nan")
    speed = (
        f"{number(pace)} {unit}/s" + (", all seeds together" if len(seeds) > 1 else "") if pace == pace else "unknown"
    )
    machine = config.get("machine")
    where = machine if isinstance(machine, Mapping) else {}
    named = ", ".join(str(where[x]) for x in ("processor", "gpu", "system") if where.get(x))
    threads = f", {config['threads']} of {where['cores']} cores" if where.get("cores") and "threads" in config else ""
    return [
        ("seeds", ", ".join(map(str, seeds[:12])) + (f", … ({len(seeds)})" if len(seeds) > 12 else "")),
        (f"{unit} per seed", f"{number(last)}{of}"),
        ("training time", f"{duration(seconds)}"),
        ("speed", speed),
        ("finished", finished(rows)),
        ("machine", f"{named}{threads}" or "not recorded"),
    ]


def section(config: Config) -> Section:
    """The command, what differs from the defaults, and the rest folded."""
    differs = changed(config)
    blocks: list[Block] = [Code(str(config.get("command") or "The command line cannot say all settings of this run."))]
    if differs:
        rows = [(name, _shown(value), _shown(usual)) for name, value, usual in differs]
        blocks.append(Table(("hyperparameter", "this run", "default"), rows))
    elif defaults(config):
        blocks.append(Text(["All hyperparameters are the method's defaults."]))
    every = [*flat(config.get("hyperparameters", {})), *flat(config.get("env", {}))]
    rest = flat({key: value for key, value in config.items() if key not in SAID})
    blocks.append(Folded("Objective", [Code(str(config.get("objective", "")))]))
    blocks.append(Folded("All settings", [Facts([(n, v) for n, v in (*every, *rest) if n], 2)]))
    about = [*flat(config.get("versions", {})), *flat(config.get("machine", {}))]
    blocks.append(Folded("Versions and machine", [Facts([(n, v) for n, v in about if n], 2)]))
    return Section("How it was made", blocks)


def _shown(value: Any) -> str:
    return next((text for _, text in flat(value)), str(value)) if not isinstance(value, Mapping) else json.dumps(value)

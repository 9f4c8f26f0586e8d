"""Configuration files of `surefoot train --config`: TOML, YAML or JSON, flat or as a run's own `config.json`.

    method = "ppo"                   # a slug, or module:Class
    env = "my_env:MyCart-v0"
    steps = 200_000
    learning_rate = 1e-3             # hyperparameters, settings and options have the names that they have in Python
    [env_kwargs]
    mass = 2

Every key is one of `surefoot train METHOD --help`, with underscores; anything else is refused by its name.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surefoot.configure import kind_of, method_class, revived
from surefoot.envs.names import check_named
from surefoot.errors import UsageError, nearest
from surefoot.files import parsed_json, read_text
from surefoot.hyperparameters import build, check_values, presets
from surefoot.loops.common.kinds import check_trust
from surefoot.loops.common.run import Settings

ABOUT = ("format", "id", "objective", "command", "versions", "machine", "origin", "fingerprint")  # what is no setting
NESTED = ("hyperparameters", "env")  # the tables of a run's config.json
PLACES = ("env", "task", "data")  # names of the argument that takes the environment
STARTING = ("seed", "num_seeds", "run_dir", "threads", "start")


def read(paths: Sequence[Path]) -> dict[str, Any]:
    """The arguments in some configuration files, of which later ones win, as one flat mapping.

    Raises:
        UsageError: a file cannot be read, or is not a table.
    """
    found: dict[str, Any] = {}
    for path in paths:
        found |= _flat(_table(path / "config.json" if path.is_dir() else path), path)
    return found


def _table(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
        if path.suffix in (".yaml", ".yml"):
            table = _yaml(text, path)
        else:
            table = tomllib.loads(text) if path.suffix == ".toml" else parsed_json(text)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"config={str(path)!r} cannot be read ({error}); give a .toml, .yaml or .json file, or a run."
        ) from error
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table):
        raise UsageError(f"config={str(path)!r} is not a table of names and values.")
    return table


def _yaml(text: str, path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise UsageError(
            f"config={str(path)!r} needs the package PyYAML; install it with pip install pyyaml, or write TOML."
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _flat(table: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The table without those of a run's config.json, whose entries move up, and without what says nothing of how to
    train; the seeds of a run are the first one and their number."""
    found = {name: value for name, value in table.items() if name not in ABOUT and name not in NESTED}
    for name in NESTED:
        inner = table.get(name, {})
        if isinstance(inner, Mapping):
            found |= {key: value for key, value in inner.items() if key not in ABOUT}
        else:
            found[name] = inner
    if isinstance(found.get("start"), Mapping):  # a run says from what, and its digest
        found["start"] = found["start"].get("from")
    seeds = found.pop("seeds", None)
    if seeds is not None:
        first = seeds[0] if isinstance(seeds, list) and seeds and isinstance(seeds[0], int) else None
        if first is None or seeds != list(range(first, first + len(seeds))):
            raise UsageError(
                f"config={str(path)!r}: seeds={seeds!r} is not allowed; consecutive numbers, such as [0, 1]."
            )
        found |= {"seed": first, "num_seeds": len(seeds)}
    return found


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A method and the arguments with which files say to train it, by their names in `surefoot.train`."""

    method: str
    values: Mapping[str, Any]


def configuration(paths: Sequence[Path], method: str | None, given: Mapping[str, Any], trust: bool) -> Configuration:
    """What configuration files say; `method` and the options `given` beside them win over it.

    Raises:
        UsageError: a file cannot be read, names something unknown or out of range, or names code as module:name that
            the user has not given, without `trust`.
    """
    values = read(paths)
    named = values.pop("method", None)
    if method is None and not isinstance(named, str):
        raise UsageError(
            f"method={named!r} is not allowed; name a method in the configuration, or give it: train METHOD."
        )
    if method is None and ":" in named and not trust:
        check_named(named, "method")
    slug = method or named
    cls, kind = method_class(slug), kind_of(slug)
    places = [name for name in PLACES if name in values]
    if len(places) > 1:
        raise UsageError(f"the configuration gives {' and '.join(places)}, which are names of one argument; keep one.")
    if places:
        values[kind.env_argument] = values.pop(places[0])
    fields = {source: [f.name for f in dataclasses.fields(source)] for source in (kind.options, Settings, cls)}
    known = {
        kind.env_argument,
        *STARTING,
        *(["preset"] if presets(cls) else []),
        *(n for f in fields.values() for n in f),
    }
    for name in values:
        if name not in known:
            raise UsageError(
                f"the configuration has {name!r}, which train {slug} does not know. {nearest(name, known)}"
            )
    if not trust:
        described = {k: v for k, v in values.items() if k in fields[kind.options] and given.get(k) is None}
        place = None if given.get(kind.env_argument) else values.get(kind.env_argument)
        check_trust(kind, {"env": place, **described}, trust)
    values |= (own := revived(cls, {name: value for name, value in values.items() if name in fields[cls]}))
    check_values(cls, own)
    for source in (kind.options, Settings):
        inner = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items() if n in fields[source]}
        build(source, inner)
        values |= inner
    return Configuration(slug, values)


def as_text(values: Mapping[str, Any]) -> str:
    """A configuration as JSON, for a file that `read` takes."""
    return json.dumps(dict(values), indent=2, default=list) + "\n"

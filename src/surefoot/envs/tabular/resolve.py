"""MDPs from text: a name of the zoo with its numbers, a file, or a Gymnasium environment.

    text     = name [":" argument ("," argument)*] | "gym:" id ("," argument)* | file ("," argument)*
    argument = value | key "=" value

`river-swim` · `garnet:50,4,8,seed=3` · `gym:FrozenLake-v1,map_name=8x8,gamma=0.99` · `model.npz` ·
`model.csv,gamma=0.9`. Every one takes `gamma` and `horizon`; a horizon without a gamma makes the latter 1.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_type_hints

from surefoot.envs.tabular.mdp import TabularMDP
from surefoot.envs.tabular.toy_text import tabular_from_gym
from surefoot.envs.tabular.zoo import ZOO
from surefoot.errors import UsageError, nearest

_FILE = re.compile(r"(.*\.(?:npz|csv))(?:,(.*))?", re.IGNORECASE | re.DOTALL)
_WORDS = {"true": True, "false": False}


def resolve(text: str) -> TabularMDP:
    """The MDP that `text` stands for.

    Raises `UsageError` for an unknown name (with the nearest ones), a wrong argument or a file that is none.
    """
    text = text.strip() if isinstance(text, str) else text
    if not isinstance(text, str) or not text:
        raise UsageError(f"env={text!r} is not allowed; give a name of the zoo, a .npz or .csv file, or gym:ID.")
    if file := _FILE.fullmatch(text):
        from surefoot.envs.tabular.files import load

        positional, named = _arguments(file[2] or "", text)
        return _own(load(file[1]), _bare(positional, named, text), text)
    name, _, rest = text.partition(":")
    if name == "gym":
        identity, _, rest = rest.partition(",")
        positional, named = _arguments(rest, text)
        values = _bare(positional, named, text)
        fields = {key: values.pop(key) for key in ("gamma", "horizon") & values.keys()}
        return _own(replace(tabular_from_gym(identity, **values), name=text), fields, text)
    if name not in ZOO:
        raise UsageError(
            f"env={text!r} is no name of the zoo, no .npz or .csv file and no gym:ID. {nearest(name, ZOO)}"
        )
    values = _typed(ZOO[name], *_arguments(rest, text), text)
    fields = {key: values.pop(key) for key in ("gamma", "horizon") & values.keys()}
    return _own(replace(ZOO[name](**values), name=text), fields, text)


def _own(mdp: TabularMDP, fields: dict[str, Any], text: str) -> TabularMDP:
    """The MDP with another discount or horizon."""
    if unknown := sorted(fields.keys() - {"gamma", "horizon"}):
        raise UsageError(f"{text!r}: a file takes gamma and horizon, not {unknown[0]!r}.")
    if fields.get("horizon") is not None:
        fields = {"gamma": 1, **fields}
    return replace(mdp, **fields) if fields else mdp


def _arguments(rest: str, text: str) -> tuple[list[str], dict[str, str]]:
    positional, named = [], {}
    for argument in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (part.strip() for part in argument.partition("="))
        if not equals and named:
            raise UsageError(f"{text!r}: {argument!r} must come before the arguments with a name.")
        if key in named:
            raise UsageError(f"{text!r} gives {key!r} twice.")
        if equals:
            named[key] = value
        else:
            positional.append(key)
    return positional, named


def _typed(
    factory: Callable[..., TabularMDP], positional: list[str], named: dict[str, str], text: str
) -> dict[str, Any]:
    """The arguments of a factory by name, each of the kind that it is annotated with."""
    hints = get_type_hints(factory)
    fields = list(inspect.signature(factory).parameters)
    if len(positional) > len(fields):
        raise UsageError(f"{text!r} has too many arguments; it takes {', '.join(fields) or 'none'}.")
    first = dict(zip(fields, positional))
    if twice := first.keys() & named.keys():
        raise UsageError(f"{text!r} gives {min(twice)!r} twice.")
    known = {**dict.fromkeys(fields), "gamma": None, "horizon": None}
    if unknown := sorted(named.keys() - known.keys()):
        raise UsageError(f"{text!r}: {unknown[0]!r} is not an argument of it. {nearest(unknown[0], known)}")
    kinds = {"gamma": float, "horizon": int, **hints}
    return {key: _as(value, kinds[key], key, text) for key, value in {**first, **named}.items()}


def _as(value: str, kind: Any, key: str, text: str) -> Any:
    given = _value(value)
    if kind is int and isinstance(given, float) and given.is_integer():
        return int(given)
    if kind is float and isinstance(given, (int, float)) and not isinstance(given, bool):
        return float(given)
    if isinstance(given, kind) and not (kind is int and isinstance(given, bool)):
        return given
    noun = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, f"of type {kind}")
    raise UsageError(f"{text!r}: {key}={value!r} is not allowed; it must be {noun}.")


def _bare(positional: list[str], named: dict[str, str], text: str) -> dict[str, Any]:
    """Arguments of something that does not say of what kind they are."""
    if positional:
        raise UsageError(f"{text!r}: {positional[0]!r} has no name; write name=value, such as gamma=0.9.")
    kinds = {"gamma": float, "horizon": int}
    return {key: _as(v, kinds[key], key, text) if key in kinds else _value(v) for key, v in named.items()}


def _value(text: str) -> Any:
    """A number as Python writes it, true or false, or else the word itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return _WORDS.get(text.lower(), text)

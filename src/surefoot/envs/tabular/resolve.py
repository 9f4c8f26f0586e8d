"""MDPs from text: a name of the zoo with its numbers, a file, or a Gymnasium environment.

    text     = name [":" argument ("," argument)*] | "gym:" id ("," argument)* | file ("," argument)*
    argument = value | key "=" value

`river-swim` · `garnet:50,4,8,seed=3` · `gym:FrozenLake-v1,map_name=8x8,gamma=0.99` · `model.npz` ·
`model.csv,gamma=0.9`. Every one takes `gamma`, `horizon` (without a gamma it makes that 1) and `rewards=expected`,
which averages rewards that depend on the next state. A file that holds no discount needs one of the first two; an
environment of Gymnasium has none, and gets that of `tabular_from_gym` if no other is given.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any, get_type_hints

from torch import Tensor

from surefoot.envs.tabular.files import holds_discount, load
from surefoot.envs.tabular.mdp import Successors, TabularMDP
from surefoot.envs.tabular.toy_text import tabular_from_gym
from surefoot.envs.tabular.zoo import ZOO
from surefoot.errors import UsageError, nearest

_FILE = re.compile(r"(.*\.(?:npz|csv))(?:,(.*))?", re.IGNORECASE | re.DOTALL)
OWN: dict[str, type] = {"gamma": float, "horizon": int, "rewards": str}  # what every MDP takes
_WORDS = {"true": True, "false": False}


def resolve(text: str, *, gamma: float | None = None, horizon: int | None = None) -> TabularMDP:
    """The MDP that `text` stands for; `gamma` and `horizon` go before those of the text.

    Raises `UsageError` for an unknown name (with the nearest ones), a wrong argument or a file that is none.
    """
    text = text.strip() if isinstance(text, str) else text
    if not isinstance(text, str) or not text:
        raise UsageError(f"env={text!r} is not allowed; give a name of the zoo, a .npz or .csv file, or gym:ID.")
    mdp, fields = _found(text)
    fields |= {key: value for key, value in (("gamma", gamma), ("horizon", horizon)) if value is not None}
    if (file := _FILE.fullmatch(text)) and not {"gamma", "horizon"} & fields.keys() and not holds_discount(file[1]):
        raise UsageError(
            f"{file[1]} holds no discount; say it after the name, such as {file[1]},gamma=0.95, or give horizon=H, or "
            "gamma=1 for a total or an average."
        )
    if (rewards := fields.pop("rewards", None)) is not None:
        if rewards != "expected":
            raise UsageError(f"{text!r}: rewards={rewards!r} is not allowed; it must be expected, or left out.")
        mdp = replace(mdp, reward=mdp.expected_reward())
    if "horizon" in fields:
        fields = {"gamma": 1.0, **fields}
    return replace(mdp, **fields) if fields else mdp


def assumes_gamma(text: str) -> bool:
    """Whether nothing but a default says how the MDP of a text is discounted."""
    kind, _, rest = text.strip().partition(":")
    return kind == "gym" and not {"gamma", "horizon"} & _arguments(rest.partition(",")[2], text)[1].keys()


def _found(text: str) -> tuple[TabularMDP, dict[str, Any]]:
    """The MDP, and what the text says of `OWN`."""
    if file := _FILE.fullmatch(text):
        values = _bare(*_arguments(file[2] or "", text), text)
        fields = _fields(values)
        if values:
            raise UsageError(f"{text!r}: a file takes {', '.join(OWN)}, not {min(values)!r}.")
        return load(file[1]), fields
    name, _, rest = text.partition(":")
    if name == "gym":
        identity, _, rest = rest.partition(",")
        values = _bare(*_arguments(rest, text), text)
        fields = _fields(values)
        mdp = tabular_from_gym(identity, **values)
    elif name in ZOO:
        values = _typed(ZOO[name], *_arguments(rest, text), text)
        fields = _fields(values)
        mdp = ZOO[name](**values)
    else:
        raise UsageError(
            f"env={text!r} is no name of the zoo, no .npz or .csv file and no gym:ID. {nearest(name, ZOO)}"
        )
    return replace(mdp, name=text), fields


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """What every MDP takes, out of the arguments."""
    return {key: values.pop(key) for key in OWN if key in values}


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
    known = {*fields, *OWN}
    if unknown := sorted(named.keys() - known):
        raise UsageError(f"{text!r}: {unknown[0]!r} is not an argument of it. {nearest(unknown[0], known)}")
    kinds = OWN | hints
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
    return {key: _as(v, OWN[key], key, text) if key in OWN else _value(v) for key, v in named.items()}


def _value(text: str) -> Any:
    """A number as Python writes it, true or false, or else the word itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return _WORDS.get(text.lower(), text)


def resolved(env: Any, fingerprint: str | None = None) -> TabularMDP:
    """The MDP itself, or the one that a name of the zoo, a file or `gym:ID` stands for.

    Raises:
        UsageError: there is none of that name, or it is not the one of the fingerprint that a run has kept.
    """
    if not isinstance(env, (str, TabularMDP)):
        raise UsageError(f"env={env!r} is not allowed; give a TabularMDP, a name of the zoo, a file or gym:ID.")
    again = "If the run was given an MDP made in Python, give that one again: env=…."
    try:
        mdp = resolve(env) if isinstance(env, str) else env
    except UsageError as error:
        raise error if fingerprint is None else UsageError(f"{error} {again}") from error
    if fingerprint not in (None, digest(mdp)):
        raise UsageError(f"{mdp.name!r} is not the MDP that this run was started with. {again}")
    return mdp


def digest(mdp: TabularMDP) -> str:
    """A hash of all that an MDP holds, by which a resumed run knows that it is the same one."""
    found = hashlib.sha256()
    for one in fields_of(mdp):
        if one.name in ("name", "grid", "states_named", "actions_named"):  # how it is shown
            continue
        value = getattr(mdp, one.name)
        for x in value if isinstance(value, Successors) else (value,):
            tensor = isinstance(x, Tensor)
            found.update(repr((one.name, tuple(x.shape) if tensor else x)).encode())
            found.update(x.contiguous().numpy().tobytes() if tensor else b"")
    return found.hexdigest()[:16]

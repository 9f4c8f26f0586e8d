"""MDPs from text: a built-in MDP with its parameters, a file, or a Gymnasium environment.

    text     = name [":" argument ("," argument)*] | "gym:" id ("," argument)* | file ("," argument)*
    argument = value | key "=" value

`river-swim` · `garnet:50,4,8,seed=3` · `gym:FrozenLake-v1,map_name=8x8,gamma=0.99` · `model.npz` ·
`model.csv,gamma=0.9`. All take `gamma`, `horizon` (which makes gamma 1 by default) and `rewards=expected`, which
averages rewards that depend on the next state. A file without a discount needs one of the first two; a Gymnasium
environment has none, and gets the default of `tabular_from_gym`.
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
OWN: dict[str, type] = {"gamma": float, "horizon": int, "rewards": str}  # arguments of every MDP
_WORDS = {"true": True, "false": False}


def resolve(text: str, *, gamma: float | None = None, horizon: int | None = None) -> TabularMDP:
    """The MDP that `text` describes; `gamma` and `horizon` take precedence over those in the text.

    Raises `UsageError` for an unknown name (with the nearest ones), a wrong argument or an invalid file.
    """
    text = text.strip() if isinstance(text, str) else text
    if not isinstance(text, str) or not text:
        raise UsageError(f"env={text!r} is not allowed; give a built-in MDP's name, a .npz or .csv file, or gym:ID.")
    mdp, fields = _found(text)
    fields |= {key: value for key, value in (("gamma", gamma), ("horizon", horizon)) if value is not None}
    if (file := _FILE.fullmatch(text)) and not {"gamma", "horizon"} & fields.keys() and not holds_discount(file[1]):
        raise UsageError(
            f"{file[1]} has no discount; add it after the name, such as {file[1]},gamma=0.95, or give horizon=H, or "
            "gamma=1 for total or average reward."
        )
    if (rewards := fields.pop("rewards", None)) is not None:
        if rewards != "expected":
            raise UsageError(f"{text!r}: rewards={rewards!r} is not allowed; it must be expected, or left out.")
        mdp = replace(mdp, reward=mdp.expected_reward())
    if "horizon" in fields:
        fields = {"gamma": 1.0, **fields}
    return replace(mdp, **fields) if fields else mdp


def assumes_gamma(text: str) -> bool:
    """Whether the discount of a text's MDP is only a default."""
    kind, _, rest = text.strip().partition(":")
    return kind == "gym" and not {"gamma", "horizon"} & _arguments(rest.partition(",")[2], text)[1].keys()


def _found(text: str) -> tuple[TabularMDP, dict[str, Any]]:
    """The MDP, and the text's values of the arguments in `OWN`."""
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
            f"env={text!r} is neither a built-in MDP nor a .npz or .csv file nor gym:ID. {nearest(name, ZOO)}"
        )
    return replace(mdp, name=text), fields


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """The arguments in `OWN`, with their types."""
    return {key: values.pop(key) for key in OWN if key in values}


def _arguments(rest: str, text: str) -> tuple[list[str], dict[str, str]]:
    positional, named = [], {}
    for argument in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (part.strip() for part in argument.partition("="))
        if not equals and named:
            raise UsageError(f"{text!r}: {argument!r} must come before the named arguments.")
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
    """The arguments of a factory by name, each converted to its annotated type."""
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
    """Arguments of something without annotated types."""
    if positional:
        raise UsageError(f"{text!r}: {positional[0]!r} has no name; write name=value, such as gamma=0.9.")
    return {key: _as(v, OWN[key], key, text) if key in OWN else _value(v) for key, v in named.items()}


def _value(text: str) -> Any:
    """The number or boolean that a text represents, otherwise the text itself."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return _WORDS.get(text.lower(), text)


def resolved(env: Any, fingerprint: str | None = None) -> TabularMDP:
    """The MDP itself, or the one given by the name of a built-in MDP, a file or `gym:ID`.

    Raises:
        UsageError: there is no such MDP, or it does not match the fingerprint recorded by a run.
    """
    if not isinstance(env, (str, TabularMDP)):
        raise UsageError(f"env={env!r} is not allowed; give a TabularMDP, a built-in MDP's name, a file or gym:ID.")
    again = "If the run was given an MDP made in Python, give that one again: env=…."
    try:
        mdp = resolve(env) if isinstance(env, str) else env
    except UsageError as error:
        raise error if fingerprint is None else UsageError(f"{error} {again}") from error
    if fingerprint not in (None, digest(mdp)):
        raise UsageError(f"{mdp.name!r} is not the MDP that this run was started with. {again}")
    return mdp


def digest(mdp: TabularMDP) -> str:
    """A hash of an MDP's content, by which a resumed run recognises the same MDP."""
    found = hashlib.sha256()
    for one in fields_of(mdp):
        if one.name in ("name", "grid", "states_named", "actions_named"):  # only for display
            continue
        value = getattr(mdp, one.name)
        for x in value if isinstance(value, Successors) else (value,):
            tensor = isinstance(x, Tensor)
            found.update(repr((one.name, tuple(x.shape) if tensor else x)).encode())
            found.update(x.cpu().contiguous().numpy().tobytes() if tensor else b"")
    return found.hexdigest()[:16]

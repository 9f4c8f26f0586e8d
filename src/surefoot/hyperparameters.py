"""Hyperparameters as dataclass fields with declared ranges, checked before any work."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np

from surefoot.errors import UsageError, nearest

LIMITS = ("low", "high", "above", "below")
MOST_THREADS = 1024  # for torch


class Range(NamedTuple):
    """Where a number is tuned: uniformly in [low, high], or in its logarithm."""

    low: float
    high: float
    log: bool = False


class Choices(NamedTuple):
    """The values among which a hyperparameter is tuned."""

    values: tuple[Any, ...]


def hyperparameter(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[Any] | None = None,
    help: str = "",
    words: str = "",
    aliases: Mapping[Any, Any] | None = None,
    tune: Range | Choices | None = None,
) -> Any:
    """A dataclass field with a default, an allowed range and a sentence of help.

    `low`/`high` are inclusive bounds, `above`/`below` exclusive ones; for a tuple they apply to every element. `None`
    is allowed only if the annotation includes it or it is the default. `words` names the words of which the command
    line makes a value that is a mapping or a list, and `aliases` other ways to write a value. `tune` is where
    `surefoot.tune` draws it from.
    """
    limits = {"low": low, "high": high, "above": above, "below": below, "choices": choices}
    limits |= {"help": help, "words": words, "aliases": aliases, "tune": tune}
    return dataclasses.field(default=default, metadata={k: v for k, v in limits.items() if v not in (None, "")})


def presets(method: type) -> Mapping[str, Mapping[str, Any]]:
    """The named settings of a method: its own, not those of a class that it extends."""
    return vars(method).get("presets", {})


def allowed(meta: Mapping[str, Any], kind: Any = float) -> str:
    """The allowed values of a field with this metadata and annotation, in words, for messages and `--help`."""
    if "choices" in meta:
        return "one of " + ", ".join(repr(c) for c in meta["choices"])
    return " or ".join(_words(one, meta) for one in _alternatives(kind))


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _words(kind: Any, meta: Mapping[str, Any]) -> str:
    if kind in (int, float):
        noun = "whole number" if kind is int else "number"
        return f"a {noun} in {_range(meta)}" if set(LIMITS) & set(meta) else f"a {noun}"
    if get_origin(kind) is tuple:
        return f"a tuple with each element {_words(get_args(kind)[0], meta)}"
    known = {bool: "True or False", str: "a string", NoneType: "None"}
    return known.get(kind) or f"of type {getattr(kind, '__name__', kind)}"


def span(meta: Mapping[str, Any], kind: Any = float) -> str:
    """The limits of a field as a short sentence for `--help`, such as "At least 1"; empty without any."""
    low, high = meta.get("low", meta.get("above")), meta.get("high", meta.get("below"))
    if low is None and high is None:
        return ""
    below = "" if high is None else f"{'less than' if 'below' in meta else 'at most'} {high:,}"
    above = "" if low is None else f"{'more than' if 'above' in meta else 'at least'} {low:,}"
    words = " and ".join(filter(None, (above, below)))
    if meta.keys() >= {"low", "high"}:
        words = f"from {low:,} to {high:,}"
    words = f"each {words}" if any(get_origin(one) is tuple for one in _alternatives(kind)) else words
    return words[0].upper() + words[1:]


def _range(meta: Mapping[str, Any]) -> str:
    left = f"[{meta['low']}" if "low" in meta else f"({meta['above']}" if "above" in meta else "(-inf"
    right = f"{meta['high']}]" if "high" in meta else f"{meta['below']})" if "below" in meta else "inf)"
    return f"{left}, {right}"


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value has the annotated type: integers are accepted as floats, booleans are not accepted as numbers."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is tuple:
        kinds = arguments[:1] * len(value) if Ellipsis in arguments and isinstance(value, tuple) else arguments
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if kind in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (kind is float and isinstance(value, float) and not math.isnan(value))
    kind = origin or kind
    return kind is Any or not isinstance(kind, type) or isinstance(value, kind)


def _inside(value: Any, meta: Mapping[str, Any]) -> bool:
    if "choices" in meta:
        return value in meta["choices"]
    if isinstance(value, tuple):
        return all(_inside(element, meta) for element in value)
    if not isinstance(value, (int, float)):
        return True  # only numbers have limits
    return (
        ("low" not in meta or value >= meta["low"])
        and ("high" not in meta or value <= meta["high"])
        and ("above" not in meta or value > meta["above"])
        and ("below" not in meta or value < meta["below"])
    )


@cache
def declared(cls: type) -> tuple[tuple[dataclasses.Field[Any], Any], ...]:
    """The fields of a dataclass with their annotated types."""
    hints = get_type_hints(cls)
    return tuple((field, hints[field.name]) for field in dataclasses.fields(cls))


def _plain(value: Any) -> Any:
    """NumPy numbers, which are not `int` or `float` instances, as Python numbers."""
    if isinstance(value, np.generic):
        return value.item()
    numbers = type(value) is tuple and any(isinstance(x, np.generic) for x in value)
    return tuple(map(_plain, value)) if numbers else value


def check_count(name: str, value: Any) -> None:
    """Raise `UsageError` unless the value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise UsageError(f"{name}={value!r} is not allowed; it must be a whole number of at least 1.")


def check_threads(value: Any) -> None:
    """Raise `UsageError` unless the value is an allowed number of threads."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= MOST_THREADS:
        raise UsageError(f"threads={value!r} is not allowed; it must be a whole number in [1, {MOST_THREADS}].")


def check(instance: Any) -> None:
    """Raise `UsageError` for the first field of a dataclass instance that has the wrong type or is outside its declared
    range. NumPy numbers are replaced by Python numbers, and aliases by what they stand for."""
    for field, kind in declared(type(instance)):
        given = getattr(instance, field.name)
        value = _checked(type(instance), field, kind, given)
        if value is not given:
            object.__setattr__(instance, field.name, value)


def check_values(cls: type, values: Mapping[str, Any]) -> None:
    """Raise `UsageError` for values of fields that `check` would refuse in an instance."""
    for field, kind in declared(cls):
        if field.name in values:
            _checked(cls, field, kind, values[field.name])


def _checked(cls: type, field: dataclasses.Field[Any], kind: Any, given: Any) -> Any:
    """The value of a field as an instance holds it."""
    value, aliases = _plain(given), field.metadata.get("aliases", {})
    if type(value) in map(type, aliases) and value in aliases:
        value = aliases[value]
    if value is None and (field.default is None or NoneType in _alternatives(kind)):
        return value
    if not (_fits(value, kind) and _inside(value, field.metadata)):
        default = "" if field.default is dataclasses.MISSING else f" (default {field.default!r})"
        raise UsageError(
            f"{cls.__name__}: {field.name}={value!r} is not allowed; it must be {allowed(field.metadata, kind)}"
            f"{default}. {field.metadata.get('help', '')}".rstrip()
        )
    return value


def check_effects(instance: Any) -> None:
    """Raise `UsageError` for a field that its class names in `without_effect` and that is not at its default."""
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if field.name in instance.without_effect and value != field.default:
            raise UsageError(
                f"{type(instance).__name__}: {field.name}={value!r} has no effect in this method; leave it out."
            )


def build(cls: type, values: Mapping[str, Any]) -> Any:
    """`cls(**values)`; a `UsageError` for an unknown name, with the nearest known ones, and for a missing value."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for name in values:
        if name not in fields:
            raise UsageError(f"{cls.__name__} has no hyperparameter {name!r}. {nearest(name, fields)}")
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{cls.__name__} needs {name}, which has no default; give it a value.")
    return cls(**values)

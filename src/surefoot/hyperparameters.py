"""Hyperparameters as dataclass fields with declared ranges, checked in one voice before any work."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from surefoot.errors import UsageError, nearest


def hyperparameter(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[Any] | None = None,
    help: str = "",
) -> Any:
    """A dataclass field with a default, an allowed range and a sentence of help.

    `low`/`high` are inclusive bounds, `above`/`below` exclusive ones. `None` as a value is allowed
    only where `None` is the default.
    """
    limits = {"low": low, "high": high, "above": above, "below": below, "choices": choices, "help": help}
    return dataclasses.field(default=default, metadata={k: v for k, v in limits.items() if v not in (None, "")})


def allowed(meta: Mapping[str, Any]) -> str:
    """The range of a field in words, for messages and `--help`."""
    if "choices" in meta:
        return "one of " + ", ".join(repr(c) for c in meta["choices"])
    left = f"[{meta['low']}" if "low" in meta else f"({meta['above']}" if "above" in meta else "(-inf"
    right = f"{meta['high']}]" if "high" in meta else f"{meta['below']})" if "below" in meta else "inf)"
    return f"a number in {left}, {right}"


def _inside(value: Any, meta: Mapping[str, Any]) -> bool:
    if "choices" in meta:
        return value in meta["choices"]
    if not {"low", "high", "above", "below"} & set(meta):
        return True
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return False
    return (
        value >= meta.get("low", -math.inf)
        and value <= meta.get("high", math.inf)
        and ("above" not in meta or value > meta["above"])
        and ("below" not in meta or value < meta["below"])
    )


def check(instance: Any) -> None:
    """Raise `UsageError` for the first field of a dataclass instance that is outside its declared range."""
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if value is None and field.default is None:
            continue
        if not _inside(value, field.metadata):
            raise UsageError(
                f"{type(instance).__name__}: {field.name}={value!r} is not allowed; it must be {allowed(field.metadata)}"
                f" (default {field.default!r}). {field.metadata.get('help', '')}".rstrip()
            )


def build(cls: type, values: Mapping[str, Any]) -> Any:
    """`cls(**values)` after misspelled names have been refused with the nearest known ones."""
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    for name in values:
        if name not in known:
            raise UsageError(f"{cls.__name__} has no hyperparameter {name!r}. {nearest(name, known)}")
    return cls(**values)

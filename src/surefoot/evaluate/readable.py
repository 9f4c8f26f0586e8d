"""Numbers, durations and nested settings as people read them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from surefoot.evaluate.statistics import ConfidenceInterval, in_brackets


def number(value: float) -> str:
    """A number in readable form: four digits, k, M and G for large ones."""
    for size, unit, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size <= abs(value) < 1e12:
            return f"{value / unit:.4g}{suffix}"
    return f"{value:.4g}"


def measured(value: float, interval: ConfidenceInterval | None = None) -> str:
    """A number with its interval, if it has one."""
    return f"{value:.4g} {in_brackets(interval, '.4g')}".rstrip()


def duration(seconds: float) -> str:
    """A time span in its two largest units."""
    if not math.isfinite(seconds) or seconds < 0:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 seed, 3 seeds."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested JSON as pairs of dotted name and text."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, float):
        yield name, number(value)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

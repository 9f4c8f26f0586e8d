"""Readers of a run folder's metrics and reports, which validate them first."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from surefoot.errors import UsageError
from surefoot.evaluate.stress import StressReport
from surefoot.files import parsed_json, read_json, read_text
from surefoot.loops.common.logs import check_row

LARGEST = 1e150  # maximum size of numbers to plot and average; their squares are finite


def figures(path: Path) -> Any:
    """The contents of a JSON file; a `UsageError` if it cannot be read."""
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not valid JSON ({error}); restore it, or remove it and write it again.") from error


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`, without numbers too large to plot; a last line truncated by a kill is skipped, and
    there are no rows without the file.

    Raises:
        UsageError: a line is not a row of metrics, or the file cannot be read.
    """
    try:
        lines = read_text(path).splitlines() if path.exists() else []
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); restore it, or remove it.") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            row = parsed_json(line)
        except ValueError as error:
            if number < len(lines):
                raise UsageError(f"{path}, line {number} is not valid JSON ({error}); remove that line.") from error
            break
        try:
            check_row(row)
        except ValueError as error:
            raise UsageError(f"{path}, line {number} is not a row of metrics ({error}); remove that line.") from error
        found.append({k: v for k, v in row.items() if not isinstance(v, (int, float)) or abs(v) <= LARGEST})
    return found


def stress_report(path: Path) -> StressReport:
    """The report of a `stress-….json`.

    Raises:
        UsageError: it cannot be read, or its contents are inconsistent.
    """
    try:
        text = read_text(path)
        _check_stress(parsed_json(text))
        return StressReport.from_json(text)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is not a stress report ({error!r}); remove it, and run surefoot stress again."
        ) from error


def _check_stress(found: Any) -> None:
    """Raise `ValueError` or `KeyError` if arrays, names and seeds are inconsistent."""
    if not isinstance(found, dict):
        raise ValueError("it is not an object")
    for name in ("policy", "env", "perturbation", "grid"):
        _check_text(found[name])
    axes, seeds, returns = found["axes"], found["seeds"], found["returns"]
    if not isinstance(axes, list):
        raise ValueError("its axes are not names")
    for name in axes:
        _check_text(name)
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ValueError("its seeds are not whole numbers")
    if not isinstance(returns, list) or not returns:
        raise ValueError("it has no returns")
    _check_numbers([found["nominal_returns"]], len(seeds))
    _check_numbers(returns, len(seeds))
    _check_numbers(found["coordinates"], len(axes))
    if len(found["coordinates"]) != len(returns):
        raise ValueError("it does not have one place for each cell")
    for name, fits in (("nominal_point", lambda x: x is None or _drawn(x)), ("units", lambda x: isinstance(x, str))):
        given = found.get(name, [])
        if not isinstance(given, list) or len(given) not in (0, len(axes)) or not all(map(fits, given)):
            raise ValueError(f"its {name} does not fit its axes")
    values = [len(set(axis)) for axis in zip(*found["coordinates"])]
    varying = [count for count in values if count > 1]
    if len(varying) == 2 and math.prod(varying) != len(returns):
        raise ValueError("its cells are not a grid")


def _check_text(text: Any) -> None:
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not text")
    text.encode()  # a ValueError for invalid Unicode, which no font can draw


def _check_numbers(table: Any, width: int) -> None:
    if not isinstance(table, list):
        raise ValueError("it lacks a table")
    for row in table:
        if not isinstance(row, list) or len(row) != width or not all(_drawn(x) for x in row):
            raise ValueError(f"a row is not {width} finite numbers")


def _drawn(x: Any) -> bool:
    return type(x) in (int, float) and abs(x) <= LARGEST

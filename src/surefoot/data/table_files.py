"""The columns of data frames and files: .csv and .tsv, .txt (numbers between blanks), .parquet."""

from __future__ import annotations

import csv
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.errors import UsageError
from surefoot.files import read_text

Columns = dict[str, np.ndarray]
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
DELIMITERS = ",;\t"


def columns_of(frame: Any) -> Columns:
    """The columns of a data frame by name."""
    names = [str(name) for name in frame.columns]
    if len({*names}) < len(names):
        raise UsageError(f"the data frame has columns of equal names: {', '.join(names)}. Give each its own name.")
    return {str(name): np.asarray(frame[name]) for name in frame.columns}


def columns_of_file(path: Path) -> Columns:
    """The columns of a file by name; without a header they are called x0, x1, …, and the last one y.

    Raises `UsageError` for a file that is missing, of another kind, or has rows of unequal length.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(
            f"data={str(path)!r} is not allowed; give sklearn:NAME, what is made, such as knapsack:8, or a file: "
            f"{', '.join(SUFFIXES)}."
        )
    if suffix == ".parquet":
        return columns_of(_parquet(path))
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"data={str(path)!r} cannot be read ({error}).") from error
    rows = _cells(text, suffix)
    if not rows:
        raise UsageError(f"{path} is empty.")
    headed = not any(map(_is_number, rows[0]))
    names = [cell.strip() for cell in rows[0]] if headed else [*(f"x{i}" for i in range(len(rows[0]) - 1)), "y"]
    if len({*names}) < len(names):
        raise UsageError(f"{path} has columns of equal names: {', '.join(names)}. Give each its own name.")
    rows = rows[headed:]
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise UsageError(f"{path} has {len(names)} columns, but row {number} has {len(row)} cells.")
    return {name: _typed([row[place] for row in rows]) for place, name in enumerate(names)}


def _cells(text: str, suffix: str) -> list[list[str]]:
    """The cells of every line that is not empty."""
    lines = [line for line in text.lstrip("\ufeff").splitlines() if line.strip()]
    if suffix == ".txt":
        return [line.split() for line in lines]
    delimiter = "\t" if suffix == ".tsv" else max(DELIMITERS, key=lines[0].count) if lines else ","
    return list(csv.reader(lines, delimiter=delimiter))


def _typed(cells: list[str]) -> np.ndarray:
    """Numbers where all cells are numbers or empty, whole ones where they are; texts otherwise."""
    if all(map(_is_whole, cells)):
        return np.array(cells, dtype=np.int64)
    if all(_is_number(cell) or not cell.strip() for cell in cells):
        return np.array([float(cell) if cell.strip() else np.nan for cell in cells])
    return np.array([cell.strip() for cell in cells])


def _is_whole(cell: str) -> bool:
    return cell.strip().lstrip("+-").isdecimal() and len(cell) < 18


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parquet(path: Path) -> Any:
    """A data frame, by whichever package is there."""
    try:
        return import_module("pandas").read_parquet(path)
    except ImportError:
        pass
    except (OSError, ValueError) as error:
        raise UsageError(f"data={str(path)!r} cannot be read ({error}).") from error
    raise UsageError(
        f"data={str(path)!r} needs the packages pandas and pyarrow; install them with: pip install pandas pyarrow"
    )

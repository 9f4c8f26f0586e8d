"""MDPs in files: `.npz` stores a whole MDP, `.csv` is a table of transitions that other tools read and write."""

from __future__ import annotations

import csv
import dataclasses
import math
import warnings
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surefoot.envs.tabular.mdp import TOLERANCE, Successors, TabularMDP
from surefoot.envs.tabular.memory import check_memory
from surefoot.envs.tabular.transitions import from_transitions
from surefoot.errors import UsageError, nearest

COLUMNS = ("state", "action", "next_state", "probability", "reward")
ALSO = {"idstatefrom": "state", "idaction": "action", "idstateto": "next_state"}  # the column names of craam's files
KEYS = {"P": "transition", "R": "reward"}  # common other names
PARTS = ("transition", "successor_state", "successor_probability", "reward", "initial", "legal", "features")
ROUNDED = 2e-4  # largest deviation from one of a pair's rounded probabilities
FACTS = ("gamma", "horizon", "name", "grid", "states_named", "actions_named")


def load(path: str | Path) -> TabularMDP:
    """The MDP in a `.npz` or `.csv` file, by its extension."""
    return from_csv(path) if str(path).lower().endswith(".csv") else from_npz(path)


def holds_discount(path: str | Path) -> bool:
    """Whether a file contains the discount of its MDP; a .csv file cannot."""
    if str(path).lower().endswith(".csv"):
        return False
    with np.load(path) as archive:
        return bool({"gamma", "horizon"} & set(archive.files))


# --- npz -------------------------------------------------------------------------------------------------------------


def to_npz(mdp: TabularMDP, path: str | Path) -> Path:
    """Write a whole MDP, which `from_npz` reads back. Raises `UsageError` for a subclass with more fields."""
    _check_plain(mdp)
    kernel = mdp.transition
    parts: dict[str, Any] = {"transition": kernel}
    if isinstance(kernel, Successors):
        parts = {"successor_state": kernel.state, "successor_probability": kernel.probability}
    parts |= {name: getattr(mdp, name) for name in (*PARTS[3:], *FACTS)}
    arrays: Any = {name: np.asarray(x) for name, x in parts.items() if x is not None and np.size(x)}
    path = Path(path)
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def from_npz(path: str | Path) -> TabularMDP:
    """The MDP of a NumPy archive with arrays `transition` `[S, A, S']` (or `successor_state` and
    `successor_probability` `[S, A, K]`), `reward`, and other fields of `TabularMDP`; `P` and `R` are understood.

    Raises:
        UsageError: it is not such a file, lacks an array, does not fit into memory, or does not contain an MDP.
    """
    path = _existing(path)
    try:
        with zipfile.ZipFile(path) as archive:
            check_memory(3 * sum(entry.file_size for entry in archive.infolist()), str(path))
        with np.load(path) as archive:
            held = {KEYS.get(name, name): archive[name] for name in map(str, archive.files)}
    except UsageError:
        raise
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, OSError) as error:
        raise UsageError(f"{path} is not a readable .npz file: {error}") from error
    if unknown := sorted(held.keys() - {*PARTS, *FACTS}):
        raise UsageError(f"{path} has {unknown[0]!r}, which no MDP has. {nearest(unknown[0], {*PARTS, *FACTS})}")
    pair = [held.pop(name, None) for name in PARTS[1:3]]
    if all(x is not None for x in pair):
        held["transition"] = Successors(torch.from_numpy(pair[0]), torch.from_numpy(pair[1]))
    if missing := [name for name in ("transition", "reward") if name not in held]:
        raise UsageError(f"{path} has no array {missing[0]!r}; surefoot.envs.tabular.to_npz writes such files.")
    facts = {name: held.pop(name) for name in FACTS if name in held}
    return _made(path, **held, **{name: _fact(name, x) for name, x in facts.items()})


def _check_plain(mdp: TabularMDP) -> None:
    more = {field.name for field in dataclasses.fields(mdp)} - {field.name for field in dataclasses.fields(TabularMDP)}
    if more:
        raise UsageError(
            f"{mdp.name!r} is an {type(mdp).__name__}; a file would lose its {', '.join(sorted(more))}. Write those "
            "arrays separately from a TabularMDP of the rest."
        )


def _fact(name: str, value: np.ndarray) -> Any:
    return tuple(value.tolist()) if name in ("grid", "states_named", "actions_named") else value.item()


def _made(path: Path, **fields: Any) -> TabularMDP:
    try:
        return TabularMDP(**{"name": path.stem, **fields})
    except (UsageError, TypeError, ValueError) as error:
        raise UsageError(f"{path} does not contain a valid MDP: {error}") from error


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        near = [other.name for other in path.parent.glob("*") if other.suffix in (".npz", ".csv")]
        hint = nearest(path.name, near) if near else "There is no .npz or .csv file in that folder."
        raise UsageError(f"{path} does not exist. {hint}")
    return path


# --- csv -------------------------------------------------------------------------------------------------------------


def to_csv(mdp: TabularMDP, path: str | Path) -> Path:
    """Write the possible transitions of legal pairs, one per row, under the header `state,action,next_state,…`.

    Names of states and actions replace their numbers. The other fields of an MDP (discount, first state, horizon,
    features) are not written: `to_npz` stores them. Raises `UsageError` for a kernel with steps.
    """
    _check_plain(mdp)
    if mdp.stepped:
        raise UsageError(f"{mdp.name!r} changes with the step, which a .csv file cannot store; write it with to_npz.")
    rows = mdp.rows > 0 if mdp.legal is None else (mdp.rows > 0) & mdp.legal.unsqueeze(-1)
    state, action, column = rows.nonzero().T
    after = mdp.transition.state[state, action, column] if mdp.sparse else column
    reward = mdp.reward[state, action, column] if mdp.reward.ndim == 3 else mdp.reward[state, action]
    states = mdp.states_named or range(mdp.states)
    actions = mdp.actions_named or range(mdp.actions)
    path = Path(path)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        numbers = zip(
            state.tolist(), action.tolist(), after.tolist(), mdp.rows[rows].tolist(), reward.tolist(), strict=True
        )
        writer.writerows((states[s], actions[a], states[n], p, r) for s, a, n, p, r in numbers)
    return path


def from_csv(path: str | Path, **fields: Any) -> TabularMDP:
    """The MDP of a table of transitions with the columns `state,action,next_state,probability,reward`.

    States and actions are whole numbers starting at 0, or names, which are numbered in the order of appearance.
    Pairs without a row are not legal. Probabilities that were rounded when they were written, so that those of a pair
    do not quite sum to one, are divided by their sum, with a warning; values that rounding made negative become 0.
    `fields` are those that the file does not have: `gamma`, `initial`, `horizon` …

    Raises:
        UsageError: a column is missing, or a row is wrong (the message gives its number).
    """
    path = _existing(path)
    check_memory(20 * path.stat().st_size, str(path))
    columns, lines = _read(path)
    rows = {name: _numbers(path, name, columns[name], lines) for name in COLUMNS[3:]}
    if (wrong := np.flatnonzero(rows["probability"] < -TOLERANCE)).size:
        at = wrong[0]
        raise UsageError(f"{path}, row {lines[at]}: probability {rows['probability'][at]:g} is below 0.")
    rows["probability"] = np.maximum(rows["probability"], 0.0)
    state, after, states_named = _labels([columns["state"], columns["next_state"]])
    action, _, actions_named = _labels([columns["action"], []])
    states = 1 + int(max(state.max(), after.max()))
    actions = 1 + int(action.max())
    rows["probability"] = _normalised(path, columns, lines, state * actions + action, rows["probability"])
    if (idle := np.setdiff1d(np.arange(states), state)).size:
        name = states_named[idle[0]] if states_named else idle[0]
        hint = "" if states_named else "States are numbered from 0 without gaps."
        raise UsageError(
            f"{path}: state {name} has no row, so no action is legal there; give it one, such as staying "
            f"there with probability 1 and reward 0.{hint}"
        )
    named = {"states_named": states_named, "actions_named": actions_named, "name": path.stem, **fields}
    return from_transitions(state, action, after, **rows, states=states, actions=actions, **named)


def _read(path: Path) -> tuple[dict[str, list[str]], list[int]]:
    """The columns of a file, and the line number of each row."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            header = [ALSO.get(name.strip().lower(), name.strip().lower()) for name in next(reader, [])]
            if missing := [name for name in COLUMNS if name not in header]:
                raise UsageError(
                    f"{path} has no column {missing[0]!r} in its first row, which is {','.join(header)!r}; it must "
                    f"have {','.join(COLUMNS)}."
                )
            read, lines = [], []
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(header):
                    raise UsageError(
                        f"{path}, row {reader.line_num}: {len(row)} cells, but the header has {len(header)}."
                    )
                read.append(row)
                lines.append(reader.line_num)
        except (UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"{path} is not a readable .csv file: {error}") from error
    if not read:
        raise UsageError(f"{path} has a header but no transitions; give one row per transition.")
    return {name: [row[header.index(name)].strip() for row in read] for name in COLUMNS}, lines


def _numbers(path: Path, name: str, texts: list[str], lines: list[int]) -> np.ndarray:
    try:
        numbers = np.array(texts, dtype=np.float64)
    except ValueError:
        numbers = np.array([_number(text) for text in texts])
    if (wrong := np.flatnonzero(~np.isfinite(numbers))).size:
        raise UsageError(f"{path}, row {lines[wrong[0]]}: {name} {texts[wrong[0]]!r} is not a finite number.")
    return numbers


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _labels(columns: list[list[str]]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The numbers of the labels in two columns, and the labels by number (none if they are numbers)."""
    first, second = columns
    if all(text.isdecimal() for column in columns for text in column):
        return np.array(first, dtype=np.int64), np.array(second, dtype=np.int64), ()
    known = {label: number for number, label in enumerate(dict.fromkeys([*first, *second]))}
    return np.array([known[x] for x in first]), np.array([known[x] for x in second]), tuple(known)


def _normalised(
    path: Path, columns: dict[str, list[str]], lines: list[int], pair: np.ndarray, probability: np.ndarray
) -> np.ndarray:
    """The probabilities, divided by their sum for pairs whose sum deviates from one by no more than rounding explains.

    Raises `UsageError` with the rows of the pair if the deviation is larger.
    """
    _, where = np.unique(pair, return_inverse=True)
    total = np.bincount(where, probability)
    off = np.abs(total - 1) > TOLERANCE
    if not off.any():
        return probability
    unit = np.zeros(len(probability))
    which = np.flatnonzero(off[where])
    unit[which] = [10.0 ** int(Decimal(columns["probability"][row]).as_tuple().exponent) for row in which]
    explained = np.minimum(0.51 * np.bincount(where, unit), ROUNDED)  # half of the last digit of each number
    if (wrong := np.flatnonzero(off & (np.abs(total - 1) > explained))).size:
        rows = np.flatnonzero(where == wrong[0])
        shown = ", ".join(str(lines[row]) for row in rows[:8]) + (" …" if len(rows) > 8 else "")
        pair_named = f"state {columns['state'][rows[0]]}, action {columns['action'][rows[0]]}"
        raise UsageError(
            f"{path}: the probabilities of {pair_named} sum to {total[wrong[0]]:.9g}, not to one (rows {shown}; "
            f"{len(wrong)} such pairs)."
        )
    first = np.flatnonzero(where == np.flatnonzero(off)[0])[0]
    warnings.warn(
        f"{path}: the probabilities of {int(off.sum())} pairs do not exactly sum to one because of rounding; each was "
        f"divided by its sum (the first: state {columns['state'][first]}, action {columns['action'][first]}, "
        f"{total[where[first]]:.9g}).",
        RuntimeWarning,
        stacklevel=3,
    )
    return np.where(off[where], probability / total[where], probability)

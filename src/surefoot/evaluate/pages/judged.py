"""The parts of a run's page that no simulator made: a policy's value by data, a model against its former self."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from surefoot.evaluate.pages.page import Section, Table, Text
from surefoot.evaluate.read_back import LARGEST, figures
from surefoot.evaluate.readable import number
from surefoot.evaluate.statistics import in_brackets

GUESS = (
    "Fitted Q evaluation: discounted returns from the first states of the data. The interval speaks of their chance, "
    "not of what they do not cover: the farther the policy's actions are from those in the data, the more the value "
    "is a guess."
)
WINS = (
    "How often an answer of the trained model was preferred to one of the model before training; a half is no change."
)


def sections(folder: Path) -> Iterator[Section]:
    """What surefoot evaluate kept of `--data` and of `--judge`."""
    if by_data := [one for one in _kept(folder, "fitted-q.json") if _number(one.get("value"))]:
        head = ("data", "episodes", "value", "95 % interval", "the data's own", "distance of actions, deviations")
        rows = [
            (str(one.get("data", "")), _said(one, "episodes"), *_with_interval(one, "value"))
            + tuple(_said(one, name) for name in ("behaviour_value", "distance"))
            for one in by_data
        ]
        yield Section("Evaluation by data alone", [Table(head, rows, frozenset(head[1:])), Text([GUESS], True)])
    if by_judge := [one for one in _kept(folder, "judged-*.json") if _number(one.get("win_rate"))]:
        head = ("judge", "prompts", "win rate", "95 % interval", "KL, nats per answer", "95 % interval ", "worst group")
        rows = [
            (str(one.get("judge", "")), _said(one, "prompts"), *_with_interval(one, "win_rate"))
            + (*_with_interval(one, "kl"), str(one.get("worst_group", "")))
            for one in by_judge
        ]
        yield Section(
            "Against the model before training", [Table(head, rows, frozenset(head[1:6])), Text([WINS], True)]
        )


def _kept(folder: Path, pattern: str) -> list[Mapping[str, Any]]:
    found = [figures(path) for path in sorted(folder.glob(pattern))]
    return [one for one in found if isinstance(one, Mapping)]


def _said(one: Mapping[str, Any], name: str) -> str:
    value: Any = one.get(name)
    return number(value) if _number(value) else ""


def _with_interval(one: Mapping[str, Any], name: str) -> tuple[str, str]:
    ends: Any = one.get(f"{name}_interval")
    whole = isinstance(ends, list) and len(ends) == 2 and all(map(_number, ends))
    interval: Any = (float(ends[0]), float(ends[1])) if whole else None
    return _said(one, name), in_brackets(interval, ".4g")


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST

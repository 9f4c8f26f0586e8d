"""Rows of pairs, as people have them for DPO: a prompt, the answer that was chosen, and the one that was rejected; and
rows of single answers with a label, as they have them for KTO.

The columns of pairs are `chosen` and `rejected` with a `prompt`, or without one if both answers begin with it, as text
or as messages; those of single answers are `prompt`, `completion` and `label`. Other columns, such as `group`, `margin`
or `annotator`, are kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from surefoot.envs.language.task import Example, Task, messages
from surefoot.errors import UsageError

COLUMNS = ("chosen", "rejected")
LABELLED = ("completion", "label")
LABELS = {"true": True, "1": True, "false": False, "0": False}


class Pairs(Sequence[Mapping[str, Any]]):
    """Rows with `prompt`, `chosen` and `rejected` as texts (a prompt may be messages), made of rows in any of the usual
    forms when they are used. The chosen answer is the demonstration too."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], source: str) -> None:
        self.rows, self.source = rows, source

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        row, where = self.rows[place], f"{self.source}, row {place + 1}"
        chosen, rejected = (row.get(name) for name in COLUMNS)
        if not all(isinstance(x, str) or messages(x) for x in (chosen, rejected)):
            raise UsageError(f"{where}: chosen and rejected must both be texts, or lists of messages; remove the row.")
        prompt = row.get("prompt")
        if prompt in (None, "", []):
            prompt, chosen, rejected = _parted(chosen, rejected, where)
        won, lost = _answer(chosen, where), _answer(rejected, where)
        if not won or not lost:
            raise UsageError(f"{where}: the {COLUMNS[bool(won)]} answer is empty; remove the row.")
        if won == lost:
            raise UsageError(f"{where}: chosen and rejected are identical ({won[:40]!r}); remove the row.")
        others = {name: x for name, x in row.items() if name not in ("prompt", *COLUMNS)}
        return {**others, "prompt": prompt, "chosen": won, "rejected": lost, "demonstration": won}


class Labelled(Pairs):
    """Rows with `prompt`, `labelled` (an answer as text) and `label` (whether it is a good one), made of rows with
    `completion` and `label` when they are used. None is a demonstration, as some are bad."""

    def __getitem__(self, place: Any) -> Any:
        row, where = self.rows[place], f"{self.source}, row {place + 1}"
        said, label = (row.get(name) for name in LABELLED)
        if not isinstance(said, str) and not messages(said):
            raise UsageError(f"{where}: the completion must be a text, or a list of messages; remove the row.")
        if not (text := _answer(said, where)):
            raise UsageError(f"{where}: the completion is empty; remove the row.")
        if (good := LABELS.get(str(label).lower())) is None:
            raise UsageError(f"{where}: label={label!r} is not allowed; it must be true or false.")
        return {name: x for name, x in row.items() if name not in LABELLED} | {"labelled": text, "label": good}


def paired(rows: Sequence[Mapping[str, Any]], source: str) -> Sequence[Mapping[str, Any]]:
    """The rows as `Pairs` or as `Labelled` ones if they have their columns, unchanged otherwise."""
    kinds = {COLUMNS: Pairs, LABELLED: Labelled}
    found = [kind for columns, kind in kinds.items() if len(rows) and set(columns) <= set(rows[0])]
    return found[0](rows, source) if found else rows


def turned(example: Example) -> Example:
    """The same pair with its answers in each other's place."""
    won, lost = answers(example)
    shown = lost if example.demonstration == won else example.demonstration
    fields = {name: lost if name == "demonstration" and x == won else x for name, x in example.fields.items()}
    return replace(example, demonstration=shown, fields={**fields, "chosen": lost, "rejected": won})


def answers(example: Example) -> tuple[str, str]:
    """The chosen and the rejected answer of an example.

    Raises:
        UsageError: it has none.
    """
    try:
        return example.fields["chosen"], example.fields["rejected"]
    except KeyError:
        raise UsageError(
            f"the method learns from pairs, but the task has none for {example.prompt!r}; give data with the columns "
            "prompt, chosen and rejected."
        ) from None


def labelled(example: Example) -> list[tuple[str, bool]]:
    """The answers of an example, and whether each is a good one: both of a pair, or the one that has a label.

    Raises:
        UsageError: it has neither.
    """
    if "labelled" in example.fields:
        return [(example.fields["labelled"], example.fields["label"])]
    if "chosen" in example.fields:
        return list(zip(answers(example), (True, False), strict=True))
    raise UsageError(
        f"the method learns from labelled answers, but the task has none for {example.prompt!r}; give data with the "
        "columns prompt, completion and label, or with pairs: prompt, chosen and rejected."
    )


def numbered(task: Task, column: str) -> tuple[list[int], list[str]]:
    """The number of every pair's value in a column, such as its group or its annotator, and the values in their order.

    Raises:
        UsageError: the task is endless, or a pair has no value.
    """
    if task.size is None:
        raise UsageError(f"{task} is endless; the pairs of each {column} are counted, so give a finite set.")
    found = [task.example(i).fields.get(column) for i in range(task.size)]
    if None in found:
        raise UsageError(f'{task.label(found.index(None))} has no {column}; add a column "{column}".')
    names = sorted({str(name) for name in found})
    return [names.index(str(name)) for name in found], names


def _parted(chosen: Any, rejected: Any, where: str) -> tuple[Any, Any, Any]:
    """The common beginning of two answers as their prompt, and the rest of each."""
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise UsageError(f"{where}: one answer is text and the other one messages; give both in the same form.")
    if isinstance(chosen, str):
        common = len(os.path.commonprefix([chosen, rejected]))
    else:
        common = next((i for i, (a, b) in enumerate(zip(chosen, rejected)) if a != b), min(len(chosen), len(rejected)))
    if not common:
        raise UsageError(f"{where} has no prompt, and its answers begin differently; add a column prompt.")
    return chosen[:common], chosen[common:], rejected[common:]


def _answer(given: Any, where: str) -> str:
    if isinstance(given, str):
        return given
    if len(given) != 1 or given[0]["role"] != "assistant" or not isinstance(given[0]["content"], str):
        raise UsageError(f"{where}: an answer must be one message of the assistant; split longer conversations.")
    return given[0]["content"]

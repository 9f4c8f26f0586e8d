"""Tasks by name: Surefoot's own, those of reasoning-gym, and files of prompts."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from surefoot.envs.language import files, sources
from surefoot.envs.language.task import Task
from surefoot.errors import UsageError, nearest

MADE_HERE: dict[str, str] = {
    "arithmetic": "surefoot.envs.language.synthetic:Arithmetic",
    "countdown": "surefoot.envs.language.synthetic:Countdown",
    "sorting": "surefoot.envs.language.synthetic:Sorting",
    "preferences": "surefoot.envs.language.synthetic:Preferences",
    "reasoning_gym": "surefoot.envs.language.reasoning:ReasoningGym",
    "episodes": "surefoot.envs.language.episodes:Episodes",
}


def tasks() -> list[str]:
    """The names of the tasks."""
    return list(MADE_HERE)


def resolve(given: Any, *, test_data: Any = None, held_out: str = "random", max_turns: int | None = None) -> Task:
    """The task itself, or the one named by a text: `name`, `name:field=value,…`, a file of prompts, a data set of the
    hub (`hf:name`), or rows in memory (a list of dictionaries, a data frame, a `datasets.Dataset`, a stream or splits).

    For rows, `test_data` (also a file or rows) is held out; by default the split `validation` or `test` if there is
    one, or a tenth of the rows, chosen at random or the last ones (`held_out`). `max_turns` replaces the number of
    turns of a task of several turns.

    Raises:
        UsageError: there is no such task, or a value is out of range.
    """
    task = _resolved(given, held_out)
    if max_turns is not None:
        task = _of_turns(task, max_turns)
    if test_data is None:
        return task
    if not isinstance(task, files.Rows):
        raise UsageError(
            f"test_data={str(test_data)!r} is not allowed with the task {task}, which has its own held-out examples; "
            "it is for files of prompts."
        )
    return task.tested_on(files.rows(test_data))


def _of_turns(task: Task, max_turns: int) -> Task:
    if not hasattr(task, "max_turns"):
        raise UsageError(
            f"max_turns={max_turns} is not allowed with the task {task}, whose answers are a single turn; it is for "
            "Episodes, Tools and Retries."
        )
    return replace(task, max_turns=max_turns)


def _resolved(given: Any, held_out: str) -> Task:
    if isinstance(given, Task):
        return given
    if not isinstance(given, (str, Path)):
        return files.made(given, held_out)
    text = str(given)
    if text.startswith(sources.HUB):
        return files.made(sources.from_hub(text), held_out, text)
    if files.readable(text):
        return files.read(Path(text), held_out)
    if text.startswith("<"):
        raise UsageError(f"the run was started with {text[1:-1]} given in Python; give them again: env=… or task=….")
    name, _, rest = text.partition(":")
    if name not in MADE_HERE:
        raise UsageError(
            f"task {name!r} is unknown. {nearest(name, MADE_HERE)} A file of prompts ends in one of "
            f"{', '.join(files.READERS)}; a data set of the hub begins with {sources.HUB}."
        )
    module, _, made = MADE_HERE[name].partition(":")
    return getattr(import_module(module), made).from_text(rest)

"""Which examples of a task are short enough for a model, before and during a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from surefoot.envs.language import Example, Task
from surefoot.envs.language.files import LOOKED_AT
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.method import GroupRollout
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.room import check_demonstrations, check_room
from surefoot.models.language.text import check_generation_prompt, is_conversation

TRIED = 64  # examples of an infinite task of which at least one must be short enough


def check_length(model: LanguageModel, example: Example, method: GroupRollout, where: str = "") -> None:
    """Raise `UsageError` for an example that exceeds the model's context: its prompt with the tokens to be generated,
    or with the texts that the method learns from. The message starts with `where`."""
    _check(model, method, *_encoded(model, example, method), where)


def fits(model: LanguageModel, example: Example, method: GroupRollout) -> bool:
    """Whether an example is short enough."""
    encoded = _encoded(model, example, method)
    try:
        _check(model, method, *encoded)
    except UsageError:
        return False
    return True


def fitting(model: LanguageModel, task: Task, method: GroupRollout) -> Callable[[int], bool]:
    """Whether the training example with a number is short enough; those of a finite set are looked at once."""

    def short(index: int) -> bool:
        return fits(model, task.example(index), method)

    return short if task.size is None else cache(short)


Rows = list[list[int]]


def _encoded(model: LanguageModel, example: Example, method: GroupRollout) -> tuple[Rows, Rows, Rows]:
    """The tokens of the prompt, and those of the prompts and texts that the method learns from."""
    learned = method.learned(example)
    asked, texts = [prompt for prompt, _ in learned], [text for _, text in learned]
    return model.encode([example.prompt]), model.encode(asked), model.encode_completions(texts, asked)


def _check(model: LanguageModel, method: GroupRollout, prompt: Rows, asked: Rows, shown: Rows, where: str = "") -> None:
    if method.samples:
        check_room(model, prompt, method.max_tokens, where)
    check_demonstrations(model, asked, shown, where)


def check_task(model: LanguageModel, task: Task, method: GroupRollout) -> None:
    """Raise `UsageError` for the first row of a finite set that is too long, held-out rows included, or if the first
    examples of an infinite task are all too long, or for a chat template that asks for no answer. Later examples of an
    infinite task are skipped."""
    if is_conversation(asked := task.example(0).prompt):
        check_generation_prompt(model.tokenizer, asked, model.settings)
    if task.size is None:
        first = [task.example(i) for i in range(TRIED)]
        if not any(fits(model, example, method) for example in first):
            check_length(model, first[0], method, f"{task}, whose first {TRIED} examples are all too long: ")
        return
    rows = [(i, "train") for i in range(min(task.size, LOOKED_AT))]
    rows += [(i, "test") for i in range(min(task.held_out_size or 0, LOOKED_AT))]
    for index, split in rows:
        check_length(model, task.example(index, split), method, f"{task.label(index, split)}: ")

"""Whether what is to be read and written is no longer than a model reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

from surefoot.errors import UsageError
from surefoot.models.language.model import LanguageModel
from surefoot.models.language.text import refuse_empty

READS = ("max_position_embeddings", "max_seq_len")  # what transformers calls the number of tokens that a model reads
SHOWN = 40  # characters of a prompt in a message


def check_room(model: LanguageModel, prompts: Sequence[Sequence[int]], limit: int, where: str = "") -> None:
    """Raise `UsageError` where a prompt has no token, or with so many more is longer than the model reads; the message
    begins with `where`."""
    refuse_empty(prompts)
    longest, room = max(prompts, key=len), room_of(model)
    left = room - len(longest)
    if left < limit:
        fewer = f"use max_tokens={left} or " if left > 0 else ""
        raise UsageError(
            f"{where}the prompt {_begun(model, longest)} has {len(longest)} tokens and max_tokens={limit} more are "
            f"asked for, but the model reads {room}; {fewer}shorten or remove it."
        )


def check_demonstrations(
    model: LanguageModel, prompts: Sequence[Sequence[int]], shown: Sequence[Sequence[int]], where: str = ""
) -> None:
    """Raise `UsageError` for the first prompt that with its demonstration is longer than the model reads."""
    for prompt, written in zip(prompts, shown, strict=True):
        if (length := len(prompt) + len(written)) > room_of(model):
            raise UsageError(
                f"{where}the prompt {_begun(model, prompt)} and its demonstration have {length} tokens, but the model "
                f"reads {room_of(model)}; shorten or remove them, or take a task with smaller examples."
            )


def room_of(model: LanguageModel) -> float:
    """Tokens that the model reads; infinity where its configuration sets no limit."""
    rooms = (getattr(model.config, name, None) for name in READS)
    return next((room for room in rooms if room is not None), math.inf)


def _begun(model: LanguageModel, prompt: Sequence[int]) -> str:
    """How a prompt begins."""
    (text,) = model.decode([prompt])
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")

"""Text to tokens and back. Tokens that begin or end a text occur once, whichever component added them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surefoot.errors import UsageError, message_of

PROBE = "a"  # a text that every tokenizer can encode
FRAME = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")  # special tokens that are not part of the text
ANSWER = "Surefoot"  # the assistant's message used to find the end of its turn


@dataclass(frozen=True)
class TextSettings:
    """How prompts become tokens, and how generated tokens become text.

    `chat_template_kwargs` are passed to the chat template, such as `{"enable_thinking": False}`. With
    `skip_special_tokens` texts contain no special tokens; without it only those that begin, end or pad a text are
    removed, and others that may be part of an answer, such as `<think>`, remain.
    """

    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    skip_special_tokens: bool = False

    def __post_init__(self) -> None:
        given = self.chat_template_kwargs
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise UsageError(
                f"chat_template_kwargs={given!r} is not allowed; give a dictionary by name, such as "
                "{'enable_thinking': False}."
            )
        try:
            json.dumps(dict(given))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"chat_template_kwargs={given!r} is not allowed ({error}); they are saved as JSON, so give "
                "numbers, texts, booleans, lists and dictionaries."
            ) from error
        if taken := sorted({"add_generation_prompt", "continue_final_message", "tokenize", "return_dict"} & {*given}):
            raise UsageError(f"chat_template_kwargs has {taken[0]!r}, which Surefoot sets; leave it out.")
        if not isinstance(self.skip_special_tokens, bool):
            raise UsageError(f"skip_special_tokens={self.skip_special_tokens!r} is not allowed; give True or False.")


def encode(tokenizer: Any, prompts: Sequence[Any], settings: TextSettings) -> list[list[int]]:
    """Prompts as tokens: texts, or lists of messages through the chat template.

    A text is preceded by the tokenizer's start tokens, such as a beginning-of-sequence token, unless it already starts
    with them. If the last message is the assistant's, it is the beginning of an answer, which is continued.

    Raises:
        UsageError: a prompt is neither, has no token, or does not suit the chat template.
    """
    start, rows = start_of_text(tokenizer), list[list[int]]()
    for i, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            row = tokenizer(prompt, add_special_tokens=False).input_ids
            rows.append(row if row[: len(start)] == start else [*start, *row])
        else:
            rows.append(_messages(tokenizer, i, prompt, settings))
    refuse_empty(rows)
    return rows


def refuse_empty(rows: Sequence[Sequence[int]]) -> None:
    """Raise `UsageError` for a prompt without tokens, which the first generated token could not follow."""
    if empty := [i for i, row in enumerate(rows) if not len(row)]:
        raise UsageError(f"prompt {empty[0]} is empty ({len(empty)} have no token); give it at least one character.")


def start_of_text(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer puts before every text; those that it would append do not belong in a prompt."""
    bare, whole = tokenizer(PROBE, add_special_tokens=False).input_ids, tokenizer(PROBE).input_ids
    places = range(len(whole) - len(bare) + 1)
    return whole[: next((i for i in places if whole[i : i + len(bare)] == bare), 0)]


def _messages(tokenizer: Any, index: int, messages: Any, settings: TextSettings) -> list[int]:
    if not is_conversation(messages):
        raise UsageError(
            f"prompt {index} is {messages!r}; give text, or a list of messages such as "
            "[{'role': 'user', 'content': '…'}]."
        )
    if tokenizer.chat_template is None:
        raise UsageError(
            f"prompt {index} is a list of messages, but the tokenizer has no chat template; give text, or set "
            "tokenizer.chat_template."
        )
    begun = messages[-1]["role"] == "assistant" and bool(messages[-1].get("content"))
    try:
        return tokenizer.apply_chat_template(
            list(messages),
            **settings.chat_template_kwargs,
            add_generation_prompt=not begun,
            continue_final_message=begun,
            tokenize=True,
            return_dict=False,
        )
    except Exception as error:  # a template may raise anything
        raise UsageError(
            f"prompt {index} does not suit the tokenizer's chat template ({message_of(error)}); change the messages, "
            "or chat_template_kwargs."
        ) from error


def check_generation_prompt(tokenizer: Any, messages: Sequence[Any], settings: TextSettings) -> None:
    """Raise `UsageError` if the chat template begins an assistant's message with something that it does not put after
    the messages that are to be answered: the model would continue the user's words. Templates in which nothing stands
    there are no mistake."""
    if messages[-1]["role"] == "assistant" or tokenizer.chat_template is None:
        return
    asked, options = list(messages), {**settings.chat_template_kwargs, "tokenize": False}
    try:
        with_it, without = (
            tokenizer.apply_chat_template(asked, add_generation_prompt=given, **options) for given in (True, False)
        )
        whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": ANSWER}], **options)
    except Exception:  # what does not suit the template is said where the prompt is encoded
        return
    before, found, _ = whole.partition(ANSWER)
    header = before.removeprefix(without).strip() if found and before.startswith(without) else ""
    if with_it == without and header:
        raise UsageError(
            f"the tokenizer's chat template puts {header!r} before an answer, but not after a prompt that is to be "
            "answered: it has no part for add_generation_prompt. Add {% if add_generation_prompt %}"
            f"{header}{{% endif %}} to its end (tokenizer.chat_template), or end the messages with the beginning of "
            "an answer."
        )


def is_conversation(prompt: Any) -> bool:
    """Whether a prompt is a list of messages, each with its role."""
    listed = isinstance(prompt, Sequence) and not isinstance(prompt, (str, bytes)) and len(prompt) > 0
    return listed and all(isinstance(one, Mapping) and "role" in one for one in prompt)


def encode_completions(
    tokenizer: Any, texts: Sequence[str], ends: Collection[int], turns: Sequence[bool], settings: TextSettings
) -> list[list[int]]:
    """Completions as tokens, each with one end token: the end of the assistant's turn in the chat template if `turns`
    is True for it, as the answer to messages, and the tokenizer's end of sequence otherwise."""
    turn = turn_end(tokenizer, ends, settings) if any(turns) else tokenizer.eos_token_id
    rows = []
    for text, in_turn in zip(texts, turns, strict=True):
        row = tokenizer(text, add_special_tokens=False).input_ids
        end = turn if in_turn else tokenizer.eos_token_id
        rows.append(row if row and row[-1] in ends else [*row, end])
    return rows


def encode_answer(
    tokenizer: Any, said: Any, chat: bool, after: int, ends: Collection[int], settings: TextSettings
) -> list[int]:
    """What an environment says between two turns of the model as tokens. In a chat, the end of the model's turn is part
    of what the template writes there; it is left out if `after`, the model's last token, is an end already."""
    if not chat:
        return tokenizer(said, add_special_tokens=False).input_ids
    messages = [{"role": "user", "content": said}] if isinstance(said, str) else list(said)
    asked = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": ANSWER}, *messages]
    try:
        text = tokenizer.apply_chat_template(
            asked, **settings.chat_template_kwargs, add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # a template may raise anything
        raise UsageError(
            f"the environment's answer {messages!r} does not suit the tokenizer's chat template "
            f"({message_of(error)}); give messages that it knows, such as those of a user."
        ) from error
    _, found, behind = text.partition(ANSWER)
    if not found:
        raise UsageError("the tokenizer's chat template does not show the assistant's message; turns cannot be joined.")
    row = tokenizer(behind, add_special_tokens=False).input_ids
    return row[1:] if row and row[0] in ends and after in ends else row


def turn_end(tokenizer: Any, ends: Collection[int], settings: TextSettings) -> int:
    """The model's end token that the chat template puts after the assistant's message; the tokenizer's end of sequence
    if it puts none of them there."""
    if tokenizer.chat_template is None:
        return tokenizer.eos_token_id
    asked = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": ANSWER}]
    try:
        text = tokenizer.apply_chat_template(asked, **settings.chat_template_kwargs, tokenize=False)
    except Exception:  # the template does not support this conversation
        return tokenizer.eos_token_id
    _, found, behind = text.rpartition(ANSWER)
    row = tokenizer(behind, add_special_tokens=False).input_ids if found else []
    return next((token for token in row if token in ends), tokenizer.eos_token_id)


def decode(tokenizer: Any, rows: Sequence[Sequence[int]], ends: Collection[int], settings: TextSettings) -> list[str]:
    """Generated tokens as texts."""
    if not len(rows):
        return []  # some versions of transformers take an empty batch for one empty text
    special = {getattr(tokenizer, f"{name}_token_id", None) for name in FRAME}
    frame = {*ends, *special}
    inner = [[token for token in row if token not in frame] for row in rows]
    return tokenizer.batch_decode(inner, skip_special_tokens=settings.skip_special_tokens)

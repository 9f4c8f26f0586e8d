"""Arguments as words of a command line: KEY=VALUE pairs, wrappers, and the command that repeats a run."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from surefoot.errors import UsageError


def pairs(given: Any, argument: str) -> dict[str, Any]:
    """A mapping from words such as `mass=2`, `name=left`, `sizes=[1,2]`: values are JSON, or text if they are not.

    A mapping is returned as it is, and nothing gives an empty one.
    """
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    found, words = {}, [given] if isinstance(given, str) else given
    for word in words if isinstance(words, (list, tuple)) else [None]:
        name, sign, value = word.partition("=") if isinstance(word, str) else ("", "", "")
        if not (sign and name.isidentifier()):
            raise UsageError(f"{argument}={given!r} is not allowed; give a dictionary, or words such as mass=2.")
        found[name] = _value(value)
    return found


def as_words(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The words that `pairs` reads as this mapping."""
    return tuple(f"{name}={_text(value)}" for name, value in values.items())


def wrapper(word: Any) -> Any:
    """A wrapper from a word such as `frame_stack:n=4`; anything else unchanged."""
    if not isinstance(word, str) or ":" not in word:
        return word
    name, _, rest = word.partition(":")
    return (name, json.loads(rest) if rest.startswith("{") else pairs(rest.split(","), "wrappers"))


def wrapper_words(wrappers: Iterable[Sequence[Any]]) -> tuple[str, ...]:
    """The words that `wrapper` reads as these pairs of a name and arguments."""
    return tuple(name if not kwargs else f"{name}:{json.dumps(kwargs)}" for name, kwargs in wrappers)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    return value if isinstance(value, str) and _value(value) == value else json.dumps(value)


def command(
    slug: str, place: tuple[str, str], changed: Iterable[tuple[type, Mapping[str, Any]]], **beside: Any
) -> str | None:
    """The command that repeats a run, with the options that differ from their defaults.

    Args:
        slug: the method.
        place: the name of the argument that takes the environment, and the environment.
        changed: dataclasses of options with the values of a run.
        beside: more options, None for those to leave out.

    Returns None where something was given that no word can name.
    """
    values = {name: value for name, value in beside.items() if value is not None}
    for kind, given in changed:
        for field in dataclasses.fields(kind):
            plain = field.default if not isinstance(field.default, tuple) else list(field.default)
            value = given.get(field.name, plain)
            value = list(value) if isinstance(value, tuple) else value
            if field.metadata.get("words"):
                value = wrapper_words(value) if field.name == "wrappers" else as_words(dict(value or {}))
                plain = ()
            if isinstance(value, Mapping):
                return None
            if value != plain:
                values[field.name] = value
    words = ["surefoot", "train", slug, *([f"--{place[0]}", place[1]] if place[1] else [])]
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        if name in ("reward", "reward_weights") and isinstance(value, list):
            value = ",".join(map(str, value))
        words += [f"--{flag}", *([str(x) for x in value] if isinstance(value, (list, tuple)) else [str(value)])]
    if any("<" in word for word in words) or any(word.startswith("__main__:") for word in words):
        return None
    return shlex.join(words)

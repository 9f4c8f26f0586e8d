"""Texts that describe a table to be made: a name, and the arguments of a dataclass after a colon."""

from __future__ import annotations

from typing import TypeVar, get_args, get_type_hints

from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import build

T = TypeVar("T")


def arguments(text: str, of: type[T], first: str) -> T:
    """The dataclass `of` of numbers with the arguments of a text `name:value,key=value`; the first one needs no key.

    Raises:
        UsageError: an argument is not known, given twice, no number, or outside its range.
    """
    kinds = {name: int if int in (kind, *get_args(kind)) else float for name, kind in get_type_hints(of).items()}
    found: dict[str, float] = {}
    for place, argument in enumerate(filter(None, (part.strip() for part in text.partition(":")[2].split(",")))):
        key, equals, value = (part.strip() for part in argument.partition("="))
        if not equals and place == 0:
            key, value = first, key
        if key not in kinds or key in found:
            raise UsageError(f"data={text!r}: {argument!r} is not one of its arguments. {nearest(key, kinds)}")
        try:
            found[key] = kinds[key](value)
        except ValueError:
            raise UsageError(f"data={text!r}: {key}={value!r} is not allowed; it must be a number.") from None
    return build(of, found)

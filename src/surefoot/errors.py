"""The error that a user's mistake raises, and how names and text from elsewhere are shown in messages and terminals."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

BIDIRECTIONAL = {*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"}  # they reorder the text around them
LONGEST_MESSAGE = 600  # characters of another library's message


class UsageError(ValueError):
    """An argument cannot work: the message gives its name, its value, what is allowed and what to do."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A sentence that suggests the known names closest to `name`, or lists known names if none is close."""
    known = sorted(known)
    if not known:
        return "There are none."
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    close += [k for k in known if name and (name.lower() in k.lower()) and k not in close][: count - len(close)]
    if close:
        return "Did you mean " + " or ".join(repr(c) for c in close) + "?"
    if len(known) > 40:
        return f"{len(known)} names are known: {', '.join(known[:8])}, …"
    return "Known: " + ", ".join(known) + "."


def printable(text: str) -> str:
    """The text with its control characters written as escapes, so that a terminal shows them instead of acting on them.

    Line feeds and tabs are unchanged, as are letters, marks and symbols of all languages.
    """
    return "".join(c if c in "\n\t" or not _controls(c) else c.encode("unicode_escape").decode() for c in text)


def _controls(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in BIDIRECTIONAL


def message_of(error: BaseException) -> str:
    """The message of another library's error in one paragraph; the middle of a long one is omitted."""
    said = " ".join(printable(str(error)).split()) or type(error).__name__
    if isinstance(error, (KeyError, AttributeError, TypeError, ArithmeticError, LookupError)):
        said = f"{type(error).__name__}: {said}"
    half = LONGEST_MESSAGE // 2
    return said if len(said) <= LONGEST_MESSAGE else f"{said[:half]} … {said[-half:]}"

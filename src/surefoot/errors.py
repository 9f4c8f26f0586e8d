"""The one error that a user's mistake raises, and the nearest-name hint that it carries."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Something the user gave cannot work: the message names it, its value, what is allowed and what to do."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A half-sentence that offers the known names closest to `name`, or lists all when none is close."""
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

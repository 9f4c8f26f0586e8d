"""Ambiguity sets and risk measures from text, for a command line or a file.

    text     = name ["-penalty"] [":" argument ("," argument)*]
    argument = value | field "=" value

`kl:0.1` · `tv:0.2` · `kl-penalty:2` · `hellinger:0.1,support=nominal` · `mean-cvar:0.1,weight=0.3`. Sets with arrays
(a cost, bounds, scenarios) are made in Python.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from surefoot.ambiguity.core import REGISTRY, Ambiguity, Divergence, find
from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import build


def parse(text: str) -> Ambiguity:
    """The set or risk measure that `text` names, such as `parse("kl:0.1")`."""
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"ambiguity={text!r} is not allowed; give a text such as 'kl:0.1' or 'cvar:0.05'.")
    name, _, rest = text.strip().partition(":")
    cls, fields = _kind(name)
    given: dict[str, Any] = {}
    for argument in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (part.strip() for part in argument.partition("="))
        if not equals:
            if len(given) >= len(fields):
                raise UsageError(f"{text!r} has too many arguments; {name} takes {', '.join(fields) or 'none'}.")
            key, value = fields[len(given)], key
        if key in given:
            raise UsageError(f"{text!r} gives {key!r} twice.")
        given[key] = _value(value, text)
    needed = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.name not in given]
    if needed:
        raise UsageError(
            f"{text!r}: {cls.__name__} needs {', '.join(needed)}, which cannot be given as text; make it in Python: "
            f"surefoot.ambiguity.{cls.__name__}({', '.join(f'{one}=…' for one in needed)})."
        )
    if issubclass(cls, Divergence) and not {"radius", "penalty"} & given.keys():
        raise UsageError(f"{text!r} has no size; write {name}:{0.1 if fields[0] == 'radius' else 2}, for instance.")
    return build(cls, given)


def _kind(name: str) -> tuple[type[Ambiguity], list[str]]:
    """The class that a name stands for, and its fields in the order in which bare arguments fill them."""
    plain = name.removesuffix("-penalty")
    known = {alias for cls in REGISTRY.values() for alias in (cls.name, *cls.aliases)}
    if plain not in known:
        raise UsageError(f"ambiguity set {name!r} is unknown. {nearest(name, known)}")
    cls = find(plain)
    fields = [f.name for f in dataclasses.fields(cls) if not f.kw_only]
    if issubclass(cls, Divergence):
        form = "radius" if plain == name else "penalty"
        return cls, [form, *(f for f in fields if f not in ("radius", "penalty"))]
    if plain != name:
        raise UsageError(f"{name!r}: {cls.__name__} has no penalty form; write {plain} alone.")
    return cls, fields


def _value(text: str, whole: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        if text and not text[0].isdigit():
            return text
        raise UsageError(f"{whole!r}: {text!r} is neither a number nor a word.") from None

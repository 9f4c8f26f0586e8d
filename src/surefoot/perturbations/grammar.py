"""One grammar for all perturbations; `parse` reads what they print.

    text     = part ("+" part)*
    part     = name [":" argument ("," argument)*]
    argument = value | key "=" value
    value    = number | number ".." number | word

`observation-noise:0.1`, `action-delay:0..4`, `observation-noise:0.1,law=l2`, `param:length=0.25..2,masscart=1`,
`force:3,body=foot + action-noise:0.1`. `adversary=FOLDER` among the arguments has an adversary make the random choices.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import build, declared
from surefoot.perturbations.core import REGISTRY, Composition, Perturbation
from surefoot.perturbations.driven import Driven
from surefoot.perturbations.dynamics import Parameters
from surefoot.perturbations.interval import Interval

Box = Mapping[str, tuple[float, float]]
_NUMBER = r"[+-]?(?:\d+(?:\.\d+)?|\.\d+|\d+\.)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")


def parse(text: str, boxes: Mapping[str, Callable[[str], Box]] | None = None) -> Perturbation:
    """The perturbation that `text` names.

    `boxes` adds families of parameter boxes that depend on the environment: `{"rrls": f}` makes "rrls:2d" stand for the
    ranges `f("2d")` returns.
    """
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"perturbation={text!r} is not allowed; give a text such as 'observation-noise:0.1'.")
    texts = [part.strip() for part in re.split(r"\s\+\s|\+\s*(?=[a-zA-Z]|$)|^\s*\+", text)]  # not within 1e+5
    if "" in texts:
        raise UsageError(
            f"perturbation={text!r} has a plus sign without a perturbation on one side; write 'one:0.1 + other:0.2'."
        )
    parts = tuple(_part(part, boxes or {}) for part in texts)
    return parts[0] if len(parts) == 1 else Composition(parts)


def several(text: str) -> tuple[str, ...]:
    """The texts in a list of perturbations, `obs-pgd:0.05,force:3,body=foot,rrls:2d,group-shift`: a comma before a name
    and a colon, or before the whole text of a known perturbation, separates two of them, any other an argument."""
    known = "|".join(map(re.escape, REGISTRY))
    return tuple(part.strip() for part in re.split(rf",\s*(?=[a-z][a-z0-9-]*:|(?:{known})\s*(?:,|$))", text))


def _part(text: str, boxes: Mapping[str, Callable[[str], Box]]) -> Perturbation:
    name, _, rest = text.partition(":")
    if name not in REGISTRY or "adversary" not in (f.name for f in dataclasses.fields(REGISTRY[name])):  # type: ignore[arg-type]
        without, adversary = _driver(text)
        if adversary is not None:
            return Driven(_part(without, boxes), adversary)
    if name in boxes:
        return Parameters.of(boxes[name](rest))
    if name not in REGISTRY:
        hint = (
            ""
            if boxes
            else " (Boxes of an environment, such as rrls:2d, need an environment: use them in train and stress.)"
        )
        raise UsageError(f"perturbation {text!r} is not known. {nearest(name, {*REGISTRY, *boxes})}{hint}")
    positional, named = [], {}
    for argument in filter(None, rest.split(",")):
        key, equals, value = argument.partition("=")
        if not equals and named:
            raise UsageError(f"{text!r}: {argument!r} must come before the arguments with a name.")
        if key in named:
            raise UsageError(f"{text!r} gives {key!r} twice.")
        if equals:
            named[key.strip()] = _value(value.strip(), text)
        else:
            positional.append(_value(key.strip(), text))
    cls: Any = REGISTRY[name]
    if cls is Parameters:
        if positional:
            raise UsageError(
                f"{text!r}: {positional[0]!r} has no name; write param:name=value or param:name=low..high."
            )
        return Parameters(tuple(named.items()))
    fields = [field.name for field in dataclasses.fields(cls) if not field.kw_only]
    if len(positional) > len(fields):
        raise UsageError(f"{text!r} has too many arguments; {name} takes {', '.join(fields)}.")
    first = dict(zip(fields, positional))
    if twice := first.keys() & named.keys():
        raise UsageError(f"{text!r} gives {min(twice)!r} twice.")
    values = first | named
    for field, kind in declared(cls):
        if kind is int and isinstance(value := values.get(field.name), float) and value.is_integer():
            values[field.name] = int(value)
    return build(cls, values)


def _driver(text: str) -> tuple[str, str | None]:
    """A perturbation's text without `,adversary=FOLDER`, and the folder; FOLDER ends at the next comma."""
    found = re.search(r"[,:]adversary=([^,]*)", text)
    if found is None:
        return text, None
    if not found[1].strip():
        raise UsageError(
            f"{text!r} names no folder; write adversary=RUN/adversary, the folder of an adversary's agent."
        )
    rest = (text[: found.start()] + text[found.end() :]).strip()
    return (rest if text[found.start()] == "," else rest.replace(",", ":", 1)), found[1].strip()


def _value(text: str, part: str) -> Any:
    if match := _RANGE.fullmatch(text):
        low, high = float(match[1]), float(match[2])
        if low > high:
            raise UsageError(
                f"{part!r}: the range {text} is not allowed; it must have low <= high: {match[2]}..{match[1]}."
            )
        return Interval(low, high)
    return float(text) if re.fullmatch(_NUMBER, text) else text

"""The search space of a tuning study: the hyperparameters of a method with a range to tune in.

A field declares its range once: `hyperparameter(3e-4, …, tune=Range(1e-5, 1e-2, log=True))`, or values to choose from:
`tune=Choices((64, 128, 256))`. A subclass that gives it another default keeps the range.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import Choices, Range, check_values, declared


@dataclass(frozen=True)
class Dimension:
    """A hyperparameter and what to draw it from."""

    name: str
    drawn: Range | Choices
    whole: bool  # a whole number

    def suggest(self, trial: Any) -> Any:
        """A value for an Optuna trial, which draws it."""
        if isinstance(self.drawn, Choices):  # as text, since Optuna keeps no tuples
            return _revived(json.loads(trial.suggest_categorical(self.name, [*map(json.dumps, self.drawn.values)])))
        draw = trial.suggest_int if self.whole else trial.suggest_float
        return draw(self.name, self.drawn.low, self.drawn.high, log=self.drawn.log)

    def read(self, stored: Any) -> Any:
        """The value that a trial's parameter stands for."""
        return _revived(json.loads(stored)) if isinstance(self.drawn, Choices) else stored

    def __str__(self) -> str:
        if isinstance(self.drawn, Choices):
            return f"{self.name}: " + ", ".join(map(str, self.drawn.values))
        return f"{self.name}: {self.drawn.low:g} to {self.drawn.high:g}{' (log)' if self.drawn.log else ''}"


def dimensions(
    method: type,
    only: Iterable[str] = (),
    space: Mapping[str, Any] | None = None,
    fixed: Iterable[str] = (),
) -> list[Dimension]:
    """The hyperparameters to tune: those with a declared range that are not `fixed`, or `only` some of them, and those
    of `space`: `(low, high)`, `(low, high, "log")`, or a list of values.

    Raises:
        UsageError: a name is unknown, has no range, or is fixed; or there is nothing to tune.
    """
    kinds = {field.name: kind for field, kind in declared(method)}
    own = {name: drawn for name in kinds if (drawn := _declared_range(method, name)) is not None}
    given = {name: _range_of(name, value) for name, value in (space or {}).items()}
    wanted = [*only] or [name for name in own if name not in fixed]
    for name in (*wanted, *given):
        if name not in kinds:
            raise UsageError(f"{method.__name__} has no hyperparameter {name!r} to tune. {nearest(name, kinds)}")
        if name in fixed:
            raise UsageError(f"{name} is given a value, so it cannot be tuned; leave one of the two out.")
        if name not in own and name not in given:
            raise UsageError(f"{name} declares no range to tune in; give one: space={{{name!r}: (low, high)}}.")
    drawn = {name: own[name] for name in wanted if name in own} | given
    if not drawn:
        raise UsageError(f"{method.__name__} declares no range to tune in; give space={{name: (low, high)}}.")
    return [Dimension(name, drawn[name], _whole(kinds[name])) for name in drawn]


def _declared_range(method: type, name: str) -> Range | Choices | None:
    """The range of a field, of the class nearest to the method that declares one; none where it has no effect."""
    if name in getattr(method, "without_effect", ()):
        return None
    for base in method.__mro__:
        field = vars(base).get("__dataclass_fields__", {}).get(name)
        if field is not None and "tune" in field.metadata:
            return field.metadata["tune"] if _allowed(method, name, field.metadata["tune"]) else None
    return None


def _allowed(method: type, name: str, drawn: Range | Choices) -> bool:
    """Whether a method takes all values of a range that a base class declares."""
    try:
        for value in drawn.values if isinstance(drawn, Choices) else drawn[:2]:
            check_values(method, {name: value})
    except UsageError:
        return False
    return True


def _range_of(name: str, given: Any) -> Range | Choices:
    if isinstance(given, (Range, Choices)):
        return given
    if isinstance(given, list) and given:
        return Choices(tuple(given))
    numbers = isinstance(given, tuple) and all(isinstance(x, (int, float)) for x in given[:2])
    log = numbers and given[2:] == ("log",)
    if numbers and (log or len(given) == 2) and given[0] < given[1] and (given[0] > 0 or not log):
        return Range(given[0], given[1], log)
    raise UsageError(
        f"space: {name}={given!r} is not allowed; give (low, high), (low, high, 'log') with low above 0, or a list."
    )


def _whole(kind: Any) -> bool:
    kinds = get_args(kind) or (kind,)
    return int in kinds and float not in kinds


def _revived(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def from_words(words: Mapping[str, Any]) -> dict[str, Any]:
    """A space from words of the command line: `learning_rate=1e-5..1e-2:log`, `clip=0.1..0.3`, `epochs=4,10`."""
    found: dict[str, Any] = {}
    for name, value in words.items():
        text, _, scale = str(value).partition(":")
        low, dots, high = text.partition("..")
        try:
            ends = (_number(low), _number(high)) if dots else None
            found[name] = ((*ends, scale) if scale else ends) if ends else [_number(part) for part in text.split(",")]
        except ValueError:
            raise UsageError(
                f"space: {name}={value!r} is not allowed; write low..high, low..high:log or a,b,c."
            ) from None
    return found


def _number(text: str) -> Any:
    value = json.loads(text)
    if isinstance(value, (dict, list)):
        raise ValueError
    return value

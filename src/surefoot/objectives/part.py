"""The base of all parts of an objective: a slot, a formula, and conversion to and from JSON.

A part is a frozen dataclass: its fields are its hyperparameters, calling it computes it on tensors, `str()` prints it
as a formula. Defining a subclass registers it in its slot, so that `config.json` can name it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, TypeVar

from surefoot.errors import UsageError, nearest
from surefoot.hyperparameters import build, check

SLOTS: dict[str, dict[str, type[Part]]] = {}
P = TypeVar("P", bound="Part")


@dataclasses.dataclass(frozen=True)
class Part:
    """Base of every part. `formula` is a format string over the part's own fields."""

    slot: ClassVar[str] = ""
    formula: ClassVar[str] = ""

    def __init_subclass__(cls, *, slot: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if slot is not None:
            cls.slot = slot
            SLOTS.setdefault(slot, {})
            return
        first = SLOTS[cls.slot].setdefault(cls.__name__, cls)
        # A second definition from the same place is the same part: a reloaded module, or a notebook cell run again.
        if (first.__module__, first.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UsageError(
                f"the name {cls.__name__!r} is taken: {first.__module__} has a part of this name in the slot "
                f"{cls.slot!r} already, and {cls.__module__} defines another; rename the new one."
            )
        SLOTS[cls.slot][cls.__name__] = cls

    def __post_init__(self) -> None:
        check(self)

    def __str__(self) -> str:
        return self.formula.format(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    def to_dict(self) -> dict[str, Any]:
        """The part as JSON-ready data: its name and its fields, nested parts included."""
        fields = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Part):
                value = value.to_dict()
            elif isinstance(value, tuple) and value and isinstance(value[0], Part):
                value = [v.to_dict() for v in value]
            fields[field.name] = value
        return {"part": type(self).__name__, **fields}

    @classmethod
    def from_dict(cls: type[P], data: Any) -> P:
        """The part that `to_dict` wrote, for the slot this is called on (e.g. `Advantage.from_dict`)."""
        known = SLOTS[cls.slot]
        if not isinstance(data, dict):
            raise UsageError(f'{cls.slot} {data!r} is not a part; write it as {{"part": name, field: value, …}}.')
        name = data.get("part", "")
        if not isinstance(name, str) or name not in known:
            raise UsageError(f"{cls.slot} part {name!r} is unknown. {nearest(str(name), known)}")
        fields = {}
        for key, value in data.items():
            if isinstance(value, dict) and "part" in value:
                value = cls.from_dict(value)
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                value = tuple(cls.from_dict(v) for v in value)
            if key != "part":
                fields[key] = value
        return build(known[name], fields)

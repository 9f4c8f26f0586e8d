"""Hyperparameters: what a declared field accepts, and what the refusal of anything else says."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.errors import UsageError
from surefoot.hyperparameters import allowed, build, check, hyperparameter


class Thing:
    """A type that is no number."""


@dataclasses.dataclass(frozen=True)
class Settings:
    count: int = hyperparameter(8, low=1, help="How many.")
    rate: float = hyperparameter(0.5, above=0, below=1, help="How fast.")
    free: float = 0.0
    limit: float | None = hyperparameter(None, above=0)
    bound: float | None = hyperparameter(0.5, above=0)
    flag: bool = False
    name: str = "x"
    law: str = hyperparameter("linf", choices=("linf", "l2"))
    hidden: tuple[int, ...] = hyperparameter((64, 64), low=1)
    other: tuple[int, ...] | None = hyperparameter(None, low=1)
    pair: tuple[str, float] = ("a", 1.0)
    thing: Thing | None = None
    either: float | Thing = hyperparameter(1.0, low=0)
    implied: int = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", 1), ("count", 10**400), ("rate", 0.25), ("free", -7), ("free", 10**400), ("free", -1e300),
        ("limit", None), ("limit", 3), ("bound", None), ("flag", True), ("name", ""), ("law", "l2"), ("hidden", ()),
        ("hidden", (1, 2, 3)), ("other", (5,)), ("pair", ("b", 2)), ("thing", Thing()), ("either", Thing()),
        ("either", 0), ("implied", 3),
    ],
)  # fmt: skip
def test_accepts(name, value):
    assert getattr(Settings(**{name: value}), name) is value


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("count", 0, "a whole number in [1, inf) (default 8). How many."),
        ("count", 8.0, "a whole number in [1, inf) (default 8). How many."),
        ("count", True, "a whole number in [1, inf)"),
        ("count", "8", "a whole number in [1, inf)"),
        ("count", None, "a whole number in [1, inf)"),
        ("count", [8], "a whole number in [1, inf)"),
        ("rate", 0, "a number in (0, 1) (default 0.5). How fast."),
        ("rate", 1, "a number in (0, 1)"),
        ("rate", "0.5", "a number in (0, 1)"),
        ("rate", True, "a number in (0, 1)"),
        ("rate", math.nan, "a number in (0, 1)"),
        ("free", math.nan, "a number (default 0.0)."),
        ("free", False, "a number"),
        ("free", 1j, "a number"),
        ("limit", 0, "a number in (0, inf) or None (default None)."),
        ("flag", "False", "True or False (default False)."),
        ("flag", 1, "True or False"),
        ("flag", None, "True or False"),
        ("name", 3, "a string (default 'x')."),
        ("law", "l3", "one of 'linf', 'l2' (default 'linf')."),
        ("law", 2, "one of 'linf', 'l2'"),
        ("hidden", [64, 64], "a tuple with each element a whole number in [1, inf) (default (64, 64))."),
        ("hidden", 64, "a tuple with each element a whole number in [1, inf)"),
        ("hidden", (64, 0), "a tuple with each element a whole number in [1, inf)"),
        ("hidden", (64, -3), "a tuple with each element a whole number in [1, inf)"),
        ("hidden", (64.0,), "a tuple with each element a whole number in [1, inf)"),
        ("hidden", (True,), "a tuple with each element a whole number in [1, inf)"),
        ("hidden", None, "a tuple with each element a whole number in [1, inf)"),
        ("other", (0,), "a tuple with each element a whole number in [1, inf) or None"),
        ("pair", ("a",), "a tuple"),
        ("pair", (1.0, "a"), "a tuple"),
        ("thing", 3, "of type Thing or None (default None)."),
        ("either", "x", "a number in [0, inf) or of type Thing"),
        ("either", -1, "a number in [0, inf) or of type Thing"),
        ("implied", 3.5, "a whole number"),
    ],
)  # fmt: skip
def test_refuses_in_one_voice(name, value, wanted):
    with pytest.raises(UsageError) as refusal:
        Settings(**{name: value})
    message = str(refusal.value)
    assert message.startswith(f"Settings: {name}={value!r} is not allowed; it must be {wanted}")
    assert "\n" not in message


@given(st.floats() | st.integers() | st.booleans() | st.text() | st.none())
def test_a_float_field_takes_exactly_the_numbers_of_its_range(value):
    inside = isinstance(value, float) and 0 < value < 1  # no whole number, and not NaN, lies between 0 and 1
    try:
        Settings(rate=value)
    except UsageError:
        assert not inside
    else:
        assert inside


@given(st.lists(st.integers(-2, 3) | st.floats(-2, 3)))
def test_a_range_holds_for_every_element_of_a_tuple(values):
    fine = all(isinstance(v, int) and v >= 1 for v in values)
    try:
        Settings(hidden=tuple(values))
    except UsageError:
        assert not fine
    else:
        assert fine


def test_a_subclass_is_checked_by_its_own_annotations():
    @dataclasses.dataclass(frozen=True)
    class Wider(Settings):
        extra: int = hyperparameter(1, high=2)

    Wider(extra=-5)
    for wrong in ({"extra": 3}, {"extra": 1.5}, {"count": 0}):
        with pytest.raises(UsageError, match=f"Wider: {next(iter(wrong))}="):
            Wider(**wrong)


def test_a_field_without_default_has_none_in_its_message():
    @dataclasses.dataclass(frozen=True)
    class Bare:
        size: int

        def __post_init__(self) -> None:
            check(self)

    with pytest.raises(UsageError) as refusal:
        Bare("3")  # type: ignore[arg-type]
    assert str(refusal.value) == "Bare: size='3' is not allowed; it must be a whole number."


def test_numbers_of_numpy_become_pythons():
    made = Settings(count=np.int64(3), rate=np.float32(0.5), flag=np.bool_(True), hidden=(np.int32(4), 5))
    assert made == Settings(count=3, rate=0.5, flag=True, hidden=(4, 5))
    assert [type(x) for x in (made.count, made.rate, made.flag, made.hidden[0])] == [int, float, bool, int]
    for wrong in ({"count": np.float64(3)}, {"count": np.int64(0)}, {"rate": np.float32("nan")}):
        with pytest.raises(UsageError, match=f"Settings: {next(iter(wrong))}="):
            Settings(**wrong)


def test_ranges_in_words():
    assert allowed({"low": 0, "high": 1}) == "a number in [0, 1]"
    assert allowed({"above": 0}, int) == "a whole number in (0, inf)"
    assert allowed({"below": 3}) == "a number in (-inf, 3)"
    assert allowed({}, bool) == "True or False"


def test_build():
    @dataclasses.dataclass(frozen=True)
    class Needs:
        size: int
        names: list[str] = dataclasses.field(default_factory=list)
        derived: int = dataclasses.field(default=3, init=False)

    assert build(Needs, {"size": 2}) == Needs(2)
    with pytest.raises(UsageError, match="Needs needs size, which has no default"):
        build(Needs, {"names": []})
    with pytest.raises(UsageError, match="no hyperparameter 'sizes'. Did you mean 'size'"):
        build(Needs, {"sizes": 2})
    with pytest.raises(UsageError, match="no hyperparameter 'derived'"):
        build(Needs, {"size": 2, "derived": 4})


def test_what_is_accepted_goes_through_json():
    values = {f.name: getattr(Settings(), f.name) for f in dataclasses.fields(Settings)}
    json.dumps(values, allow_nan=False)

"""Parts as data: one name a part, required fields, and sums that are sums of advantages."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import pytest

from surefoot.errors import UsageError
from surefoot.objectives import ratios, stabilizers
from surefoot.objectives.advantages import Advantage, gae, monte_carlo, scaled, total
from surefoot.objectives.part import SLOTS


def test_a_missing_required_field_is_named():
    with pytest.raises(UsageError, match="scaled needs term, which has no default"):
        Advantage.from_dict({"part": "scaled", "factor": 2.0})
    with pytest.raises(UsageError, match="total needs terms"):
        Advantage.from_dict({"part": "total"})


def test_a_second_part_of_the_same_name_is_refused():
    before = dict(SLOTS["advantage"])
    with pytest.raises(UsageError, match="name 'gae' is taken: surefoot.objectives.advantages has a part of"):

        @dataclass(frozen=True)
        class gae(Advantage):  # noqa: N801
            pass

    assert SLOTS["advantage"] == before


def test_the_same_definition_twice_is_the_newer_one():
    def define() -> type[Advantage]:
        @dataclass(frozen=True)
        class defined_twice(Advantage):  # noqa: N801
            pass

        return defined_twice

    try:
        define()
        second = define()
        assert SLOTS["advantage"]["defined_twice"] is second
    finally:
        del SLOTS["advantage"]["defined_twice"]


def test_one_name_may_stand_in_two_slots():
    try:

        @dataclass(frozen=True)
        class clip(ratios.Ratio):  # noqa: N801
            pass

        assert SLOTS["ratio"]["clip"] is clip and SLOTS["stabilizer"]["clip"] is stabilizers.clip
    finally:
        del SLOTS["ratio"]["clip"]


def test_a_sum_needs_terms_and_all_of_them_advantages():
    with pytest.raises(UsageError, match=r"total: terms=\(\) is not allowed; .* at least one"):
        total(())
    for other in (1, None, stabilizers.clip()):
        for combine in (operator.add, operator.sub, lambda *both: total(both)):
            with pytest.raises(UsageError, match="is not allowed; it must be .*of type Advantage"):
                combine(gae(), other)
    with pytest.raises(UsageError, match="scaled: factor=nan"):
        float("nan") * gae()


def test_arithmetic():
    combined = 0.5 * gae() - monte_carlo(0.9)
    assert combined == total((scaled(gae(), 0.5), scaled(monte_carlo(0.9), -1.0)))
    assert Advantage.from_dict(combined.to_dict()) == combined

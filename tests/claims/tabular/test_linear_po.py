"""The loop that tempts, by hand."""

from __future__ import annotations

import pytest

from surefoot.claims.tabular.linear_po import pull


def test_turning_off_looks_better_than_walking_on_at_random():
    value = 0.0  # the end of the chain costs nothing
    for left in (2, 3, 4, 5):  # steps left in the states 4 to 1: walk on for ½, or pay 0.45 in each of them
        value = 0.5 * (0.5 + value) + 0.5 * 0.45 * left
    found = pull([0])
    assert found["temptation"] == pytest.approx(0.5 + value - 2.7) and found["temptation"] > 0.05
    assert found["on the spot"] == pytest.approx(0, abs=1e-12) and found["evaluated"] > found["temptation"]

"""What the claim of DR-RPO reads from its measurements."""

from __future__ import annotations

import numpy as np
import pytest

from surefoot.claims.parts import Slope
from surefoot.claims.tabular.dr_rpo import ARMS, LONG, QUARTER, SHIFTS, of_learned, soft


def measured(regret):
    arm = {"return": {f"{q:g}": [0.0] for q in SHIFTS}, "regret, first quarter": [0.0], "regret, last quarter": [0.0]}
    return dict.fromkeys(ARMS, arm) | {"ten times as long": {"regret": [regret]}}


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_the_slope_is_the_power_with_which_regret_adds_up(power):
    total = np.arange(0, LONG + 1, QUARTER) ** power
    found = of_learned(measured(np.diff(total) / QUARTER))
    assert Slope("log cumulative regret", "log K").values(found).tolist() == pytest.approx([power])


def test_the_softmax_has_the_value_of_the_closed_form():
    assert soft([5]) < 1e-9

"""The walk has the numbers that its exact solution has."""

from __future__ import annotations

import numpy as np
import pytest

from surefoot.claims.control import gae


def test_the_walk_is_solved():
    values = gae.true_values()
    for s in range(1, gae.STATES + 1):
        pays = 0.5 if s == gae.STATES else 0.0
        assert values[s] == pytest.approx(pays + gae.GAMMA * 0.5 * (values[s - 1] + values[s + 1]))
    assert gae.true_difference() == pytest.approx(0.14858, abs=1e-5)


def test_bias_falls_and_deviation_grows_with_lambda():
    found = gae.walk([1000])
    bias, deviation = np.array(found["bias"][0]), np.array(found["deviation"][0])
    assert bias[0] == pytest.approx(-0.4 * gae.true_difference(), abs=1e-6)
    assert (np.diff(deviation) > 0).all() and deviation[0] == pytest.approx(0.0, abs=1e-6)
    errors = np.sqrt(bias**2 + deviation**2 / gae.FEW)
    assert errors == pytest.approx([0.0594, 0.0533, 0.0447, 0.0422, 0.0495, 0.0671], abs=0.006)

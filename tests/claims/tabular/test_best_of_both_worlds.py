"""What the claim of BoBW-PO measures: the adversary that the optimist falls for, and powers of T."""

from __future__ import annotations

import numpy as np
import pytest

from surefoot.claims.tabular.best_of_both_worlds import of_one_state, paid
from surefoot.claims.tabular.regret_arms import Optimist, alternation, last, regrets, thinned


@pytest.mark.parametrize("depth", [1, 3])
def test_the_optimist_loses_every_time_and_half_of_it_was_to_be_had(depth):
    regret = regrets(Optimist(), alternation(depth), 60, [0])[0]
    np.testing.assert_allclose(regret[1::2], depth * np.arange(1, 31))


def test_the_root_of_a_doubt_is_what_it_costs():
    """√ε·(1 − ε) + √(1 − ε)·ε at ε = 0.01 is 0.09 + 0.00995."""
    found = paid([0])["tsallis"]
    assert found[0] == pytest.approx(0.1 * 0.99 + 0.995 * 0.01, abs=1e-5)
    assert found[2] / found[3] == pytest.approx(10, rel=0.01)


def test_powers_of_t_are_those_of_each_seed():
    horizons = np.array([100.0, 1000.0, 10_000.0])
    table = [3 * horizons**0.5, 2 * horizons**0.1]
    found = of_one_state({"regret": {"episodes": horizons, "tsallis": table, "fixed rate": table[::-1]}})
    assert found["power of T, tsallis"].tolist() == pytest.approx([0.5, 0.1])
    assert found["power of T, fixed rate"].tolist() == pytest.approx([0.1, 0.5])


def test_a_thinned_curve_ends_where_the_curve_does():
    curve = np.arange(1.0, 601.0)[None]
    found = thinned(curve)
    assert found["episode"][-1] == 600 and last(found).tolist() == [600.0]

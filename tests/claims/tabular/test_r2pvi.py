"""The rows of Figure 1d from the released code's random numbers."""

from __future__ import annotations

import pytest

from surefoot.claims.tabular.american_put import FIGURE_1D, released_draws


def test_every_row_of_the_figure_comes_out():
    found = released_draws([0])
    for arm, row in FIGURE_1D.items():
        assert found[arm] == pytest.approx(row, abs=6e-4)

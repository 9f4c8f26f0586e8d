"""PSPO's claim: a rate at the edge of the grid makes a part void."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.claims.language.pspo import grid


@pytest.mark.parametrize(("rate", "holds"), [(0.3, False), (1.0, True), (3.0, False)])
def test_rates_of_both_arms_must_lie_inside_the_grid(rate, holds):
    summary = {"rate, pspo, sgd, 2 passes": 1.0, "rate, clip, sgd, 2 passes": rate, "rate, clip, sgd, 4 passes": 3.0}
    assert grid(("pspo", "clip"), "sgd", 2).holds(summary) is holds

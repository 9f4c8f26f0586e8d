"""What the claim of ECRM measures: falls and costs of an episode, and the least J."""

from __future__ import annotations

import pytest

from surefoot.claims.tabular.ecrm import least, outcome


@pytest.mark.parametrize(
    ("lam", "falls", "cost"), [(0.0, 0.1358, 0.9686), (0.5, 0.0325, 1.0482), (1.0, 0.0319, 1.0525)]
)
def test_falls_and_cost_of_an_episode_are_those_of_the_exact_solution(lam, falls, cost):
    found = outcome("natural", {}, lam, [0])
    assert found["falls"] == [pytest.approx(falls, abs=5e-5)]
    assert found["cost"] == [pytest.approx(cost, abs=5e-5)]


def test_the_least_risks_grow_with_the_weight_of_the_tail():
    assert list(least([0]).values()) == pytest.approx([0.8925, 1.1121, 1.2675], abs=5e-5)

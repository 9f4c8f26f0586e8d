"""What the claim of robust RVI measures: the exact means of plain estimates, and gains that differ from set to set."""

from __future__ import annotations

import pytest

from surefoot.claims.tabular import robust_average_reward as claim


def test_plain_estimates_lie_above_the_worst_case_the_less_the_more_samples(monkeypatch):
    monkeypatch.setattr(claim, "DRAWS", 10)
    found = claim.estimates([0])
    assert found["from 1"] == pytest.approx(1.72)
    assert found["from 128"] == pytest.approx(1.3283, abs=5e-5)  # the worst case itself is 1.3


def test_the_work_that_pays_depends_on_the_world():
    found = claim.worth([0])
    assert found["nominal"] == pytest.approx([0.8, 0.7], abs=1e-6)
    assert found["worst"] == pytest.approx([0.391810, 0.7], abs=1e-6)


def test_with_the_distances_of_a_line_transport_is_not_total_variation():
    found = claim.five_gains([0])
    assert found["Wasserstein"] > found["total variation"] + 0.01

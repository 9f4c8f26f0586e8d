"""The authors' rings."""

from __future__ import annotations

import pytest
import torch

from surefoot.claims.tabular.rings import RING, ZONE, optimum, ring


def test_the_optimum_of_the_rings():
    """Known from value iteration written apart; on 100 states that one stopped at 2e-5."""
    for p, beta, known in ((0.15, 0.01, 16.697277), (0.15, 1.0, -24.581126), (0.01, 3.0, -24.770206)):
        mdp = ring(RING, p)
        assert float(mdp.initial @ optimum(mdp, beta)) == pytest.approx(known, abs=1e-6)
    mdp = ring(ZONE, 0.15)
    assert float(mdp.initial @ optimum(mdp, 0.1)) == pytest.approx(29.576566, abs=3e-5)


def test_moves_go_round_and_leak_to_both_neighbours():
    rows = ring(RING, 0.15).rows
    assert rows[0, 0, [12, 13, 0]].tolist() == pytest.approx([0.15, 0.7, 0.15])
    torch.testing.assert_close(rows.sum(-1), torch.ones(14, 3, dtype=torch.float64))

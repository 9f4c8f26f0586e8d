"""PAMC's claim: what its intervals cover, and how long it takes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from surefoot.claims.tabular import pamc
from surefoot.methods.tabular.pamc import PAMC


def test_infinite_intervals_cover_and_the_last_stay_counts(monkeypatch):
    """Two unseen rewards of 1, completed as 0: one interval is infinite and covers, the other is too narrow."""
    shares = iter([0.9, 0.5, 0.85, 0.95])
    learner = SimpleNamespace(states=[{"seen": torch.tensor([[1.0, 0.0, 0.0]])}])
    learner.iterate = lambda: [{"return_mean": next(shares)}]
    world = SimpleNamespace(initial=torch.ones(1), reward=torch.ones(1, 3))
    made = SimpleNamespace(reward=torch.zeros(1, 3), width=torch.tensor([[0.0, torch.inf, 0.5]]))
    monkeypatch.setattr(pamc, "world", lambda seed, low_rank: world)
    monkeypatch.setattr(pamc, "solve", lambda mdp: SimpleNamespace(value=torch.ones(1)))
    monkeypatch.setattr(pamc, "TabularLearner", lambda *given: learner)
    monkeypatch.setattr(pamc, "ITERATIONS", 4)
    monkeypatch.setattr(PAMC, "completed", lambda self, state, stream: made)
    found = pamc.run("PAMC", 0, low_rank=True)
    assert (found["coverage"], found["finite"], found["coverage of finite"]) == (0.5, 0.5, 0.0)
    assert found["episodes"] == 30  # above 80 % from the third iteration on
    assert found["area"] == pytest.approx(0.8) and found["share"] == [0.95]

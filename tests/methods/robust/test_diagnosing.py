"""The training side of the diagnostic: the bits of DQN, and what is logged."""

from __future__ import annotations

import gymnasium as gym
import pytest
import torch

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.dqn import DQN
from surefoot.methods.robust.diagnosing import Diagnosing

SMALL = {"hidden": (8,), "learning_starts": 20, "log_every": 40, "train_every": 4, "batch_size": 8}


def run(method):
    learner = make_learner(method, "CartPole-v1", [0, 1], 200)
    return learner, [learner.iterate() for _ in range(4)]


def test_it_trains_to_the_bit_as_dqn_and_logs_the_diagnostic():
    learner, rows = run(Diagnosing(**SMALL, diagnose_every=2, diagnose_states=64))
    plain, others = run(DQN(**SMALL, double=True, dueling=True, prioritized=True))
    assert torch.equal(learner.weights["critic"], plain.weights["critic"])
    assert rows[0] == others[0] and rows[1][0].keys() - others[1][0].keys() == {
        "concentration", "explained_share", "rayleigh", "gradient", "gradient_variation",
    }  # fmt: skip
    for seed in range(2):
        row = rows[3][seed]
        assert 0 <= row["explained_share"] <= row["rayleigh"] <= 1 + 1e-6 and 0 < row["concentration"] <= 1
    assert rows[3][0]["concentration"] != rows[3][1]["concentration"]


def test_observations_that_are_no_arrays_are_refused():
    with pytest.raises(UsageError, match="arrays"):
        Diagnosing().networks(gym.spaces.Dict({"x": gym.spaces.Box(0, 1, (2,))}), gym.spaces.Discrete(2))


def test_explain_shows_both_candidates():
    text = sf.explain("diagnosing")
    assert "λ_max" in text and "tr L(S')" in text and "both forms" in text

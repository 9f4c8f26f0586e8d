"""The worlds of smoothed agents: what noise does to the votes of the windows, and what smoothing at test time keeps."""

from __future__ import annotations

import pytest
import torch
from scipy.special import ndtr

from surefoot.claims.robust.noisy_patterns import Windows, of_patterns
from surefoot.claims.robust.smoothed_training import DENOISED, POLES, smoothed, trained
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.dqn import DQN
from surefoot.models.distributions import Categorical
from surefoot.models.smoothing import votes


def test_most_noisy_copies_of_a_pattern_vote_for_the_third_action():
    torch.manual_seed(0)
    x = torch.ones(40_000, 8) + torch.randn(40_000, 8)
    share = votes(Windows()(x).unsqueeze(1), Categorical((3,)))[0]
    names = ("plain", "denoised", "denoised, PGD", "denoised, S-PGD", "radius, plain", "radius, denoised")
    expected = of_patterns({"patterns": {name: [0.0] for name in names}})["votes for the third action"]
    assert share[2].item() == pytest.approx(expected, abs=0.01) and expected > 0.5
    assert share[1].item() == pytest.approx(ndtr(0.5) - ndtr(-0.5), abs=0.01)
    assert Windows()(torch.ones(1, 8)).argmax(-1).tolist() == [1]
    assert Windows()(-torch.ones(1, 8)).argmax(-1).tolist() == [0]


def test_smoothing_at_test_leaves_the_network_as_it_is():
    (agent,) = trained(DQN(hidden=(8,), learning_starts=20, log_every=40, batch_size=8), POLES, 40, [0])
    other = smoothed(agent, "vote", 0.2)
    assert torch.equal(agent.vector, other.vector) and other.rule.draws == 50 and agent.rule is None
    learner = make_learner(DENOISED["S-DQN"], POLES, [0], 100)
    assert learner.agent().rule.sigma == 0.3
    learner.close()

"""Diagnosing trained policies: a planted spurious input is found, recorded states are what was seen, errors teach."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.evaluate.diagnose import Recorder
from surefoot.evaluate.rollout import Episode, play_all
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.dqn import DQN
from surefoot.methods.control.ppo import PPO


@pytest.fixture(scope="module")
def agent():
    return make_learner(DQN(hidden=(16,)), "CartPole-v1", [0], 100).agent()


def test_a_planted_input_is_found(agent):
    """The pole's speed is added with weight 5 to one action's value: the direction is that input."""
    planted = make_learner(DQN(hidden=(16,)), "CartPole-v1", [0], 100).agent()
    plain = planted.outputs
    spurious = torch.tensor([0.0, 5.0])
    planted.outputs = lambda x: plain(x) + x[:, 3:] * spurious
    found = sf.diagnose(planted, "CartPole-v1", (), episodes=3)
    assert found.direction[3] ** 2 > 0.9 and found.sets[0].concentration > 0.9
    assert found.overlap(sf.diagnose(agent, "CartPole-v1", (), episodes=3))[0] < 1


def test_what_is_recorded_is_what_the_policy_sees(agent):
    recorder = Recorder(agent)
    played = play_all(recorder, "CartPole-v1", [Episode(None, s) for s in (3, 4)], slots=1)
    assert [len(each) for each in recorder.episodes] == played.lengths.tolist()
    env = gym.make("CartPole-v1")
    observation, _ = env.reset(seed=3)
    for seen in recorder.episodes[0]:
        np.testing.assert_array_equal(seen, observation)
        observation, *_ = env.step(int(agent.predict(observation[None], deterministic=True)[0][0]))


def test_the_report(agent):
    found = sf.diagnose(agent, "CartPole-v1", ["observation-noise:0.5", "param:length=2"], episodes=3)
    assert [s.name for s in found.sets] == ["base", "base again", "observation-noise:0.5", "param:length=2"]
    base = found.sets[0]
    assert [base.rayleigh, base.unit_rayleigh] == pytest.approx([1.0, 1.0])
    assert base.explained_share == pytest.approx(base.concentration)
    for s in found.sets:
        assert 0 <= s.explained_share <= s.rayleigh <= 1 + 1e-9
        assert s.explained_share == pytest.approx(s.rayleigh * s.concentration)
    again = sf.diagnose(agent, "CartPole-v1", ["observation-noise:0.5", "param:length=2"], episodes=3)
    assert again.to_json() == found.to_json() and json.loads(found.to_json())["policy"]
    assert "Λ" in found.table() and "base again" in found.table()


def test_continuous_actions():
    gaussian = make_learner(PPO(hidden=(8,)), "Pendulum-v1", [0], 100).agent()
    found = sf.diagnose(gaussian, "Pendulum-v1", (), episodes=1)
    assert found.direction.shape == (3,) and np.linalg.norm(found.direction) == pytest.approx(1.0)


def test_bad_input(agent):
    with pytest.raises(UsageError, match="cannot be diagnosed: gradients"):
        sf.diagnose(lambda observation: np.zeros(len(observation), int), "CartPole-v1")
    recurrent = make_learner(PPO(core="gru", core_size=4, hidden=(4,)), "CartPole-v1", [0], 100).agent()
    with pytest.raises(UsageError, match="memory"):
        sf.diagnose(recurrent, "CartPole-v1")
    with pytest.raises(UsageError, match="episodes=0"):
        sf.diagnose(agent, "CartPole-v1", episodes=0)
    with pytest.raises(UsageError, match="not known"):
        sf.diagnose(agent, "CartPole-v1", "blur:3")

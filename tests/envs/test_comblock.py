"""The combination lock: what opens it, what it pays, and what its demonstrations earn."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

import surefoot.envs  # noqa: F401 (registers)
from surefoot.envs.comblock import ACTIONS, CombinationLock, hadamard
from surefoot.errors import UsageError
from surefoot.recording import record


def played(env, choose, episodes=300):
    """Returns, and rewards by step, of a way to act in the hidden state."""
    rewards = np.zeros((episodes, env.horizon))
    for episode in range(episodes):
        env.reset(seed=episode)
        for h in range(env.horizon):
            _, rewards[episode, h], ended, cut, _ = env.step(20.0 * np.eye(ACTIONS)[choose(h, env.state)])
            assert ended == (h == env.horizon - 1) and not cut
    return rewards


def test_right_actions_open_it_and_pay_once_at_the_end():
    env = CombinationLock(4)
    rewards = played(env, lambda h, z: env.right[h, z], 50)
    assert (rewards[:, :-1] == 0).all() and (rewards[:, -1] == 1).all()


def test_a_wrong_action_pays_a_tenth_half_of_the_time_and_is_the_end_of_all_rewards():
    env = CombinationLock(4)
    rewards = played(env, lambda h, z: (env.right[h, min(z, 1)] + 1) % ACTIONS)
    assert (rewards[:, 1:] == 0).all()
    assert rewards[:, 0].mean() == pytest.approx(0.05, abs=0.01)


def test_a_one_hot_action_is_nearly_always_taken():
    weights = np.exp(np.eye(ACTIONS)[0] / 0.1)
    assert weights[0] / weights.sum() > 0.999  # with a temperature of 1 it would be 0.23


@pytest.mark.parametrize(("horizon", "size"), [(5, 16), (10, 16), (12, 16), (13, 32), (50, 64)])
def test_an_observation_is_as_long_as_the_next_power_of_two_and_ends_with_the_step(horizon, size):
    env = gymnasium.make("surefoot/Comblock5-v0", horizon=horizon)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (size + 1,) and observation[-1] == 0
    assert env.observation_space.high[-1] == horizon
    assert env.step(np.zeros(ACTIONS))[0][-1] == 1


def test_the_state_is_hidden_behind_a_matrix_of_hadamard():
    matrix = hadamard(16)
    assert np.array_equal(matrix @ matrix.T, 16 * np.eye(16))
    env = CombinationLock(5)
    seen = np.stack([env.reset(seed=i)[0][:-1] @ matrix / 16 for i in range(400)])
    assert set(seen[:, :3].round().argmax(1)) == {0, 1}
    assert seen[:, 5].std() == pytest.approx(0.1, rel=0.15)  # the noise of an entry
    assert np.abs(seen[:, 8:]).max() < 1e-6  # past H + 3 there is none


def test_its_demonstrations_succeed_as_often_as_the_paper_says():
    for horizon, share in ((5, 0.375), (10, 0.383)):  # (1 − 1/H)^H = 0.33 and 0.35, and some luck of random actions
        data = record(f"surefoot/Comblock{horizon}-v0", "demonstrated", 2000 * horizon)
        assert (data.returns >= 1).mean() == pytest.approx(share, abs=0.035)
        assert data.terminated.sum() >= data.episodes - 8  # the last of each environment is cut


def test_only_an_environment_that_offers_actions_can_demonstrate():
    with pytest.raises(UsageError, match="offers no actions of its own"):
        record("CartPole-v1", "demonstrated", 10)


def test_a_horizon_that_is_none():
    with pytest.raises(UsageError, match="horizon=0 is not allowed"):
        CombinationLock(0)

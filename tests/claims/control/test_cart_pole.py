"""The cart-pole of whole episodes moves as Gymnasium's, and its batches reach a method one whole episode a pole."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch

from surefoot.claims.control.cart_pole import ANGLE, EDGE, LONGEST, PERIOD, WholeEpisodes, moved
from surefoot.claims.control.gae import CART_POLES
from surefoot.loops.common.run import make_learner


def test_it_moves_as_gymnasiums():
    env: Any = gymnasium.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    state = np.array(env.state)
    assert env.x_threshold == EDGE and np.isclose(env.theta_threshold_radians, ANGLE)
    for action in np.random.default_rng(0).integers(2, size=30):
        env.step(int(action))
        state = moved(state, np.array(10.0 if action else -10.0))
        assert np.allclose(state, env.state, atol=1e-12)


def test_a_pole_that_fell_waits_for_the_longest():
    envs = WholeEpisodes([0, 1], 2)
    envs.reset()
    push = np.array([[1.0], [0.0], [0.0], [0.0]])
    lengths = np.zeros(4)
    for _ in range(LONGEST):
        balance = np.clip(envs.state @ [[1.0], [2.0], [40.0], [8.0]], -10, 10) / 10
        _, reward, terminated, truncated, _ = envs.step(np.where(push == 1, 1.0, balance))
        lengths += reward
    assert lengths[0] < 20 and lengths[1:].tolist() == [LONGEST] * 3
    assert terminated.tolist() == [True, False, False, False] and truncated.tolist() == [False, True, True, True]
    fresh, reward, terminated, truncated, _ = envs.step(push)
    assert np.abs(fresh).max() <= 0.05 and not (terminated | truncated).any() and not reward.any()


def test_a_seed_has_its_own_starts():
    both, second = WholeEpisodes([0, 1], 3), WholeEpisodes([1], 3)
    assert np.array_equal(both.reset()[0][3:], second.reset()[0])


def test_a_batch_is_one_whole_episode_a_pole_and_time_alone_explains_equal_returns():
    method = CART_POLES["time baseline"]
    learner = make_learner(method, WholeEpisodes([0], method.num_envs), [0], 10**6)
    rollout = learner.collect(learner.vector)
    lengths = rollout.valid[:, 0].sum(0)
    ended = (rollout.terminated | rollout.truncated)[:, 0] & rollout.valid[:, 0]
    assert (ended.sum(0) == 1).all() and (ended.int().argmax(0) + 1 == lengths).all()
    assert rollout.reward.sum() == lengths.sum()
    row = learner.episode_rows[0]
    assert row["episodes"] == method.num_envs and row["return"] == float(lengths.double().mean())
    batch = learner.estimate(rollout)
    advantage, valid = (batch[name].view(PERIOD, -1) for name in ("advantage", "valid"))
    assert torch.equal(valid.sum(0), lengths) and not advantage[~valid].any()
    assert advantage.sum(1).abs().max() < 1e-3
    again = learner.collect(learner.vector)
    assert again.starts[0].all() and again.valid[0].all()

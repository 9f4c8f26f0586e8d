"""RARL: what a frozen adversary without force leaves, the two players' advantages, and the games in which they
cycle."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from surefoot.claims.robust.rarl import MATCHING, cycling, saddle
from surefoot.envs.adversary_game import make_adversary_game
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.trpo import TRPO
from surefoot.methods.robust.rarl import RARL
from surefoot.objectives.advantages import gae

SIZES = {"num_envs": 2, "num_steps": 64, "minibatch_size": 64, "hidden": (8,), "epochs": 2}
ENV = "InvertedPendulum-v5"


def test_without_force_the_protagonist_learns_what_trpo_learns_to_the_bit():
    game = make_learner(RARL(**SIZES, fraction=0.0, adversary_turns=0), ENV, [3], 10**5)
    alone = make_learner(TRPO(**SIZES), ENV, [3], 10**5, backend="gymnasium")
    for _ in range(3):
        (row,), (single,) = game.iterate(), alone.iterate()
        assert all(row[name] == value or math.isnan(value) for name, value in single.items())
    assert torch.equal(game.players["protagonist"].vector, alone.vector)
    pushed = make_learner(RARL(**SIZES, fraction=1.0, adversary_turns=0), ENV, [3], 10**5)
    for _ in range(3):
        pushed.iterate()
    assert not torch.equal(pushed.players["protagonist"].vector, alone.vector)


def test_the_adversarys_rewards_and_advantages_are_the_protagonists_negated():
    game = make_learner(RARL(**SIZES), ENV, [0], 10**5)
    rollouts = game.collect()
    own, its = rollouts["protagonist"], rollouts["adversary"]
    assert torch.equal(own.reward, -its.reward) and own.reward.abs().sum() > 0
    assert torch.equal(own.observation, its.observation)
    values = torch.randn(2, *own.reward.shape, generator=torch.Generator().manual_seed(0))
    ends = {"terminated": own.terminated, "truncated": own.truncated, "valid": own.valid}
    part = gae(0.995, 0.97)
    one = part(own.reward, values=values[0], next_values=values[1], **ends)
    other = part(its.reward, values=-values[0], next_values=-values[1], **ends)
    torch.testing.assert_close(other, -one)


def test_both_see_what_the_environment_returns_and_no_force_exceeds_its_bound():
    game = make_learner(RARL(**SIZES, fraction=0.25), ENV, [0], 10**5)
    spaces = [player.observation_space for player in game.players.values()]
    assert spaces[0] == spaces[1] and spaces[0].shape == (4,)
    env = make_adversary_game(ENV, {}, (), "force", 0.25)
    env.reset(seed=0)
    for move in np.random.default_rng(0).normal(0, 30, (50, 2)):
        env.step(np.concatenate([[0.0], move]).astype(np.float32))
        assert np.abs(env.unwrapped.data.xfrc_applied).max() <= 0.25 * 5.0


def test_actions_of_both_are_what_the_environment_gets():
    game = make_learner(RARL(**SIZES), ENV, [0], 10**5)
    rollouts, taken = game.collect(), []
    step = game.collector.envs.step
    game.collector.envs.step = lambda action: (taken.append(action), step(action))[1]
    rollouts = game.collect()
    joint = torch.cat([rollouts[name].action[:, 0] for name in ("protagonist", "adversary")], -1)
    np.testing.assert_array_equal(np.stack(taken), joint.numpy())


def test_simultaneous_steps_leave_the_saddle_and_alternating_ones_stay():
    """f(x, y) = xy: the norm grows by √(1 + η²) a step, or stays bounded."""
    eta, steps = 0.1, 400
    assert saddle(eta, steps, "simultaneous") == pytest.approx((1 + eta**2) ** (steps / 2), rel=1e-9)
    assert 0.8 < saddle(eta, steps, "alternate") < 1.2


def test_alternating_steps_cycle_around_the_equilibrium_and_their_average_is_it():
    assert MATCHING.tolist() == [[2.0, -1.0], [-1.0, 1.0]]
    found = cycling(0.03, 20_000)
    assert found["first distance"] == pytest.approx(found["last distance"], rel=0.2)
    assert found["average"] == pytest.approx((0.4, 0.4), abs=0.01)
    assert found["value"] == pytest.approx(0.2, abs=0.01)

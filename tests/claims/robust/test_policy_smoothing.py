"""The worlds in which certificates are tried: the best attack on the walk, and attacks on cart-poles."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.special import ndtr

from surefoot.claims.robust import attacked_poles
from surefoot.claims.robust.attacked_poles import ATTACKS, gap, returns
from surefoot.claims.robust.policy_smoothing import EDGE, UNITS, least_return, walk_returns
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.ppo import PPO


@pytest.fixture(scope="module")
def agent():
    learner = make_learner(PPO(num_envs=2, num_steps=32, minibatch_size=32, hidden=(8,)), "CartPole-v1", [0], 10_000)
    for _ in range(3):
        learner.iterate()
    yield learner.agent()
    learner.close()


def test_the_best_attack_of_three_steps_is_that_of_all_plans():
    """Every plan that chooses its share of the budget by the moves so far."""

    def lasting(place, step, units, drift, budget):
        if place == EDGE or step == 3:
            return 0.0
        worst = np.inf
        for spent in range(units + 1):
            up = ndtr(drift - budget * (spent / UNITS) ** 0.5)
            ways = [(up, place + 1), (1 - up, place - 1)]
            value = sum(p * ((to != EDGE) + lasting(to, step + 1, units - spent, drift, budget)) for p, to in ways)
            worst = min(worst, value)
        return worst

    for drift, budget in itertools.product((0.0, 0.6), (0.5, 1.5)):
        assert least_return(3, drift, 1.0, budget) == pytest.approx(lasting(0, 0, UNITS, drift, budget))


def test_without_a_budget_the_walk_is_that_which_is_played():
    played = walk_returns(9, 0.3, 1.0, 100_000, np.random.default_rng(0))
    assert least_return(9, 0.3, 1.0, 0.0) == pytest.approx(played.mean(), abs=0.03)


def test_the_poles_are_those_of_gymnasium(agent):
    env, scores = gym.make("CartPole-v1").unwrapped, []
    starts = attacked_poles.numpy_stream(5, "poles").uniform(-0.05, 0.05, (6, 4))
    for start in starts:
        env.reset(seed=0)
        env.state, over, steps = tuple(start), False, 0  # type: ignore[attr-defined]
        while not over and steps < 200:
            seen = torch.tensor([env.state], dtype=torch.float32)  # type: ignore[attr-defined]
            over = env.step(int(gap(agent, seen) > 0))[2]
            steps += 1
        scores.append(steps)
    assert returns(agent, 0.0, 6, 5).tolist() == scores


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_keeps_its_budget_and_changes_what_is_played(agent, name, monkeypatch):
    spent, push = np.zeros(20), ATTACKS[name]
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(attacked_poles, "gap", lambda agent, x: (seen.append(x.detach()), gap(agent, x))[1])
    returns(agent, 0.0, 20, 0, push, 0.5)
    shown = [x for x in seen if x.ndim == 2]
    before = [x.mean(0) for x in seen if x.ndim == 3]  # without noise all draws are alike
    for after, clean in zip(shown, before, strict=True):
        spent += ((after - clean) ** 2).sum(1).numpy()
    assert spent.max() <= 0.25 + 1e-5
    assert spent.max() > 0.01 or push.danger

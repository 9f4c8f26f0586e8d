"""PROTECTED: the card's exact checks of discovery, of the adversary's signs, and of the bandit."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.methods.robust.protected import Protected
from surefoot.methods.robust.protected.adversary import GapAscent, JudgedTwice, signed
from surefoot.methods.robust.protected.table import discover, gap, mixture_gap
from surefoot.models.choosing import Bandit
from surefoot.models.distributions import Gaussian
from surefoot.models.functional import Model
from surefoot.objectives.advantages import standardize

J = np.array([[10, 4, 0], [6, 6, 6], [5, 5, 5], [9, 7, 2]], float)  # A, B, C, D
E = np.array([[8, 6.5, 4.2]])
SMALL = {"num_envs": 4, "num_steps": 4, "minibatch_size": 8, "hidden": (4,), "epochs": 1, "payoff_episodes": 2}


# --- exact checks 2, 3, 4 and 7 --------------------------------------------------------------------------------------


def test_the_worked_discovery():
    assert gap(J, [1]) == (4, 0, 0) and gap(J, [1, 0]) == (1, 3, 1)
    assert discover(J, 1) == ([1, 0, 3], [4, 1, 0])


def test_a_policy_that_is_best_against_a_mixture_only():
    size, attackers = mixture_gap(np.vstack([J, E]), [1, 0, 3], 4)
    assert size == pytest.approx(0.371429, abs=1e-6)
    np.testing.assert_allclose(attackers, [0.571429, 0, 0.428571], atol=1e-6)
    assert gap(np.vstack([J, E]), [1, 0, 3])[0] == 0


def test_the_gap_never_rises_and_vanishes_at_the_best_responses():
    draw = np.random.default_rng(0)
    for _ in range(20):
        returns = draw.normal(size=(7, 4))
        members, gaps = discover(returns, 0)
        assert gaps == sorted(gaps, reverse=True) and gaps[-1] == 0
        assert gap(returns, sorted({*returns.argmax(0).tolist()}))[0] == 0
        assert len(members) <= 5
        with pytest.raises(UsageError, match="at least one"):
            gap(returns, [])


def test_regret_is_at_most_that_of_the_members_and_the_gap_under_mixtures_a_round():
    draw = np.random.default_rng(1)
    for _ in range(40):
        returns, rounds = draw.normal(size=(6, 3)), 50
        attacks, members = draw.integers(3, size=rounds), [0, 3]
        played = returns[draw.choice(members, rounds), attacks].sum()
        totals = returns[:, attacks].sum(1)
        whole, own, best = totals.max(), totals[members].max(), int(totals.argmax())
        size = max(mixture_gap(returns, members, best)[0], 0.0)
        assert whole - played <= rounds * size + (own - played) + 1e-7
    steady = np.array([[2.0, 2], [3, 0], [0, 3]])  # no single attacker shows that the first one helps
    assert gap(steady, [1, 2])[0] == 0 and mixture_gap(steady, [1, 2], 0)[0] == pytest.approx(0.5)


# --- exact check 6: signs --------------------------------------------------------------------------------------------


def test_against_itself_the_adversary_has_no_gradient():
    """The same rollouts with both agents: what is gained with one is lost with the other."""
    half = torch.randn(1, 6)
    label = torch.cat([torch.zeros(1, 6), torch.ones(1, 6)], 1)
    batch = {"advantage": torch.cat([half, half], 1), "observation": torch.stack([torch.zeros(1, 12), label], -1)}
    advantage = standardize(signed(batch)["advantage"][0], torch.ones(12, dtype=torch.bool))
    score = torch.randn(6, 5).repeat(2, 1)  # gradients of the log-probabilities, the same in both halves
    torch.testing.assert_close(advantage @ score, torch.zeros(5), atol=1e-6, rtol=0)
    assert (signed(batch)["advantage"][0, :6] == -half).all() and (signed(batch)["advantage"][0, 6:] == half).all()


def test_the_actor_does_not_see_whom_it_plays_and_each_critic_learns_of_one():
    space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    model = Model(JudgedTwice(space, Gaussian(2), hidden=(5,)))
    vector, seen = torch.randn(model.size), torch.randn(6, 3)
    new, old = (torch.cat([seen, torch.full((6, 1), label)], 1) for label in (0.0, 1.0))
    (params, value, _), (other, second, _) = model(vector, new), model(vector, old)
    torch.testing.assert_close(params, other)
    assert not torch.allclose(value, second)
    slope = torch.func.grad(lambda v: model(v, new)[1].sum())(vector)
    touched = model.mask(lambda name: name.startswith("critic."))
    assert (slope[touched] != 0).any() and (slope[~touched] == 0).all()


def test_the_adversary_raises_the_new_agent_and_lowers_the_member():
    """One state, one step: pushing the observation up makes the new agent's action better and the member's worse."""

    class OneStep(gym.Env):
        observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
        action_space = gym.spaces.Box(-9, 9, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), float(action[0]), True, False, {}

    method = Protected(num_envs=8, num_steps=32, minibatch_size=64, epochs=4, hidden=(8,), payoff_episodes=8,
                       budget=1.0, adversary_learning_rate=0.02, normalize_observations=False)  # fmt: skip
    game = make_learner(method, OneStep, [0], 10**6)
    layout = game.protagonist.model
    parts = layout.unflatten(torch.zeros(layout.size))

    def following(sign: float) -> torch.Tensor:
        """An agent whose action is the sign times tanh of what it sees."""
        made = {name: x.clone() for name, x in parts.items()}
        made["actor.encoder.mlp.0.weight"][0, 0], made["actor.output.weight"][0, 0] = 1.0, sign
        return layout.flatten(made).unsqueeze(0)

    rivals, turns = torch.stack([following(1.0), following(-1.0)], 1), np.eye(2)[(np.arange(8) >= 4).astype(int)]
    for _ in range(8):
        game.learn("adversary", rivals, turns[None])
    theirs = game.adversary.vector.detach()
    assert game.returns(following(1.0), theirs).item() > 0.4 > -0.4 > game.returns(following(-1.0), theirs).item()


# --- the method ------------------------------------------------------------------------------------------------------


def test_members_are_found_one_after_another_and_deployed_with_a_bandit():
    game = make_learner(Protected(**SMALL, budget=0.3, response_steps=16), "surefoot/ContinuousTarget-v0", [0], 10**6)
    assert isinstance(game.adversary.method, GapAscent)
    for _ in range(2):
        game.iterate()
    first = game.agents.clone()
    assert first.shape[1] == 1 and not game.adversaries.any()
    frozen = [x.clone() for x in game.protagonist.scales()[""]]
    (row,) = game.iterate()
    assert game.agents.shape[1] == 2 and torch.equal(game.agents[:, :1], first) and row["members"] == 2
    assert row["gap"] == pytest.approx((game.payoffs[0, 1, 1] - game.payoffs[0, 0, 1]).item())
    game.iterate()
    assert all(torch.equal(x, y) for x, y in zip(frozen, game.protagonist.scales()[""]))
    agent = game.agent(0, method="protected", seed=0)
    assert isinstance(agent.rule, Bandit) and len(agent.members) == 3
    assert agent.rule.low == game.payoffs.min().item() and agent.rule.rounds == 1000

"""GRAD: the card's exact checks, and the game as its two players know it."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from surefoot.claims.robust.drifting_integrator import DoubleIntegrator, scores
from surefoot.claims.robust.grad import ARMS, double_oracle, value, walk
from surefoot.envs import make
from surefoot.loops.common.run import make_learner
from surefoot.loops.population.player import frozen
from surefoot.loops.population.seats import AdversarySeat, AgentSeat, Threat
from surefoot.methods.robust.grad import GRAD
from surefoot.models.choosing import Mixture
from surefoot.models.distributions import Gaussian
from surefoot.models.functional import Model
from surefoot.models.networks import ActorCritic

SMALL = {"num_envs": 2, "num_steps": 8, "minibatch_size": 8, "hidden": (4,), "epochs": 1, "payoff_episodes": 2}


class Ramp(gym.Env):
    """The state counts the steps; the reward is the action. Five steps an episode."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.full(2, self.time, np.float32), float(action[0]), False, self.time == 5, {}


def constant(command):
    return lambda observation, member: np.full((len(observation), np.size(command)), command, np.float32)


# --- exact checks 3 and 5 --------------------------------------------------------------------------------------------


def test_the_double_oracle_solves_rock_paper_scissors_in_three_epochs():
    rock = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    assert double_oracle(rock) == pytest.approx([2, 2, 0], abs=1e-8)


@pytest.mark.parametrize(
    ("size", "change", "place", "expected"),
    [
        (1, 0, 0, 0), (1, 1, 0, -10), (1, 2, 0, -10), (2, 0, 0, 0), (2, 1, 0, -34.39), (2, 2, 0, -37.1), (2, 4, 0,
        -37.1), (1, 0, 2, -1), (1, 1, 2, -20), (2, 0, 2, -1), (2, 1, 2, -37.1), (2, 2, 2, -39),
    ],
)  # fmt: skip
def test_the_coupled_walk(size, change, place, expected):
    assert value(size, change, place) == pytest.approx(expected, abs=1e-9)


def test_a_policy_is_worth_no_more_than_the_best():
    best = walk(2, 1)
    torch.testing.assert_close(walk(2, 1, best.action).value, best.value)
    assert (walk(2, 1, walk(1, 1).action[1]).value <= best.value + 1e-9).all()


# --- the seats -------------------------------------------------------------------------------------------------------


def test_the_agent_sees_a_state_that_drifts_and_starts_anew():
    seat = AgentSeat(make(Ramp, 1), Threat("observation", 1.0, 0.4))
    seat.deviation = np.array([[1.0, 10.0]])
    seat.face(constant([1.0, -1.0]), np.ones((1, 1)))
    seen = [seat.reset()[0]] + [seat.step(np.zeros((1, 1)))[0] for _ in range(7)]
    shifts = [0.4, 0.8, 1, 1, 1, 1, 0.4, 0.8]  # the seventh is a reset
    states = [0, 1, 2, 3, 4, 5, 0, 1]
    np.testing.assert_allclose(np.concatenate(seen), [[s + p, s - 10 * p] for s, p in zip(states, shifts)], rtol=1e-6)


def test_an_agent_without_opponents_sees_the_state():
    seat = AgentSeat(make(Ramp, 1), Threat("observation", 1.0, 0.4))
    assert seat.reset()[0].tolist() == [[0, 0]] and seat.step(np.zeros((1, 1)))[0].tolist() == [[1, 1]]


def test_actions_are_perturbed_in_half_ranges_and_stay_in_their_box():
    seat = AgentSeat(make(Ramp, 1), Threat("action", 0.5, 0.4))
    seat.face(constant([1.0]), np.ones((1, 1)))
    seat.reset()
    rewards = [seat.step(np.array([[a]], np.float32))[1].item() for a in (0.0, 0.0, 0.0, 1.5, 9.0)]
    assert rewards == pytest.approx([0.4, 0.8, 1.0, 2.0, 2.0])


def test_the_adversary_sees_state_shift_and_action_and_is_paid_the_loss():
    seat = AdversarySeat(make(Ramp, 1), Threat("action", 0.5, 0.4, labelled=True))
    seat.mean, seat.deviation = np.ones((1, 2)), np.full((1, 2), 2.0)
    seat.face(lambda observation, member: observation[:, :1] / 10 + 1, np.ones((1, 1)))
    assert seat.reset()[0][0].tolist() == pytest.approx([-0.5, -0.5, 0, 1, 0])
    seen, reward, *_ = seat.step(np.array([[-1.0]]))
    assert seen[0].tolist() == pytest.approx([0, 0, -0.2, 1.1, 0]) and reward.item() == pytest.approx(-0.6)
    watching = AdversarySeat(make(Ramp, 1), Threat("observation", 1.0, 2.0))
    watching.face(lambda observation, member: observation[:, :1], np.ones((1, 1)))
    assert watching.reset()[0].shape == (1, 4)
    assert watching.step(np.array([[-1.0, 0.5]]))[1].item() == pytest.approx(1.0)  # the agent sees −1 and does it


def test_opponents_are_drawn_for_every_episode_and_stay():
    seat = AgentSeat(make(Ramp, 3), Threat("action", 0.5, 2.0))
    seat.seeds = [1, 2, 3]
    met = []
    seat.face(
        lambda observation, member: met.append(member.copy()) or np.zeros((3, 1)), np.tile([0.3, 0.7, 0.0], (3, 1))
    )
    seat.reset()
    for _ in range(240):
        seat.step(np.zeros((3, 1)))
    members = np.array(met)
    assert all((members[6 * i : 6 * i + 5] == members[6 * i]).all() for i in range(40))
    assert (members < 2).all() and np.mean(members == 1) == pytest.approx(0.7, abs=0.12)


def test_frozen_members_act_as_their_networks_do():
    model = Model(ActorCritic(Ramp.observation_space, Gaussian(1), hidden=(4,)))
    vectors, scales = torch.randn(2, 3, model.size), (torch.randn(2, 1, 2), torch.rand(2, 1, 2))
    observation, member = torch.randn(8, 2), np.array([0, 1, 2, 0, 2, 2, 1, 0])
    act = frozen(model, vectors, scales, 4, 2)
    for row, action in enumerate(act(observation.numpy(), member)):
        seed = row // 4
        seen = (observation[row] - scales[0][seed, 0]) * scales[1][seed, 0]
        params = model(vectors[seed, member[row]], seen)[0]
        assert action.item() == pytest.approx(params[0].item(), abs=1e-5)


# --- the method ------------------------------------------------------------------------------------------------------


def test_an_episode_s_opponents_are_the_optimal_mixture_and_the_exploitability_is_that_of_the_answers():
    game = make_learner(GRAD(**SMALL, budget=0.5, response_steps=16), Ramp, [0], 10**6)
    game.iterate()
    assert game.payoffs.shape == (1, 1, 1) and not game.adversaries.any()
    game.iterate()
    (row,) = game.iterate()
    before, u = game.payoffs[0, :1, :1].item(), game.payoffs[0]
    assert game.payoffs.shape == (1, 2, 2)
    assert row["exploitability"] == pytest.approx((u[1, 0] - u[0, 1]).item()) and row["game_value"] == before
    agent = game.agent()
    assert isinstance(agent.rule, Mixture) and sum(agent.rule.weights) == pytest.approx(1)


def test_a_policy_that_joins_never_hurts_its_side():
    from surefoot.solvers.matrix_game import equilibrium

    draw = np.random.default_rng(0)
    for _ in range(20):
        u = draw.normal(size=(4, 4))
        assert equilibrium(u).value >= equilibrium(u[:3]).value - 1e-9
        assert equilibrium(u).value <= equilibrium(u[:, :3]).value + 1e-9


def test_without_a_change_it_may_make_the_adversary_pays_nothing():
    game = make_learner(GRAD(**SMALL, rate=0.0, response_steps=16), Ramp, [0], 10**6)
    for _ in range(5):
        game.iterate()
    assert game.adversaries.any() and not game.adversary.seat.shift.any()
    torch.testing.assert_close(game.payoffs, game.payoffs[:, :, :1].expand_as(game.payoffs))


def test_the_miniature_s_world_and_arms_run():
    env = DoubleIntegrator()
    env.reset(seed=0)
    env.x, env.v = 1.0, 0.5
    seen, reward, *_ = env.step(np.array([-1.0]))
    np.testing.assert_allclose(seen, [1.05, 0.4])
    assert reward == pytest.approx(-(1.05**2 + 0.016 + 0.01))
    assert {arm.channel for arm in ARMS.values()} == {"action"} and isinstance(ARMS["GRAD"], GRAD)


@pytest.mark.parametrize("arm", ARMS)
def test_the_miniature_s_pieces_run(arm, monkeypatch):
    sizes = {"num_envs": 2, "num_steps": 20, "minibatch_size": 20, "epochs": 1, "hidden": (4,), "payoff_episodes": 2}
    for name, method in ARMS.items():
        monkeypatch.setitem(ARMS, name, replace(method, **sizes, response_steps=min(method.response_steps, 40)))
    found = scores(arm, 0, steps=500, attack_steps=40)
    assert set(found) == {"none", "coupled", "slow", "free"} and np.isfinite(list(found.values())).all()

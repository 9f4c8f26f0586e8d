"""Agents of several members: who plays, that the choice learns, and that every evaluation takes them."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.evaluate.acting import Smoothed
from surefoot.evaluate.adversary import adversary_env
from surefoot.evaluate.deployed import Deployment, boundaries, sequences
from surefoot.evaluate.rollout import Episode, play_all, returns
from surefoot.models.agent import Agent, Network
from surefoot.models.choosing import Bandit, BestOf, Mixture
from surefoot.models.ensemble import Ensemble
from surefoot.models.functional import Flat
from surefoot.perturbations import parse

SEEN, DONE = spaces.Box(-9, 9, (1,), np.float32), spaces.Box(-9, 9, (1,), np.float32)


class Wanted(gymnasium.Env):
    """Three steps in which the action 1 is wanted; with `sign` −1, −1 is."""

    observation_space, action_space = SEEN, DONE

    def __init__(self, sign=1.0):
        self.sign = sign

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.zeros(1, np.float32), 1 - abs(float(action[0]) - self.sign), False, self.time == 3, {}


def constant(action: float) -> Agent:
    """An agent that always does the same; what it sees moves it a little."""
    network = Network(hidden=(2,))
    flat = Flat(network.make(SEEN, DONE))
    parts = flat.unflatten(torch.zeros(flat.size))
    parts["actor.output.bias"][:] = action
    parts["actor.encoder.mlp.0.weight"][:] = 1.0
    parts["actor.output.weight"][:] = 0.1
    return Agent(network, SEEN, DONE, flat.flatten(parts), {}, {"method": "constant", "seed": 0})


def several(rule) -> Ensemble:
    return Ensemble([constant(-1.0), constant(1.0)], rule, {"method": "several", "seed": 0})


def test_best_of_plays_each_once_and_then_the_better():
    np.testing.assert_allclose(returns(several(BestOf(1)), Wanted, 5), [-3, 3, 3, 3, 3], atol=1e-6)
    np.testing.assert_allclose(returns(several(BestOf(2)), Wanted, 5), [-3, 3, -3, 3, 3], atol=1e-6)


def test_a_bandit_learns_within_a_deployment_and_every_perturbation_begins_a_new_one():
    rule = Bandit(-3.0, 3.0, rounds=60, rate=5.0)
    episodes = [Episode(p, seed) for p in (None, parse("action-scale:-1")) for seed in range(60)]
    found = play_all(several(rule), Wanted, episodes).returns.reshape(2, 60)
    late = found[:, 30:].mean(1)
    assert (late > 2).all() and found[0, :10].mean() < 0  # the same first draws are wrong here and right there
    again = play_all(several(rule), Wanted, episodes[60:], slots=1).returns
    np.testing.assert_array_equal(again, found[1])  # neither what came before nor the slots matter


def test_members_of_a_mixture_are_drawn_by_the_episode_s_seed():
    found = returns(several(Mixture((0.25, 0.75))), Wanted, 200)
    assert np.mean(found > 0) == pytest.approx(0.75, abs=0.1)
    np.testing.assert_array_equal(found, returns(several(Mixture((0.25, 0.75))), Wanted, 200))
    scaled = returns(several(Mixture((0.25, 0.75))), Wanted, 200, perturbation="action-scale:-1")
    np.testing.assert_array_equal(scaled > 0, found < 0)  # the same members under another perturbation


def test_turns_of_slots():
    ensemble, other = several(BestOf(1)), constant(1.0)
    a, b = parse("action-scale:0.5"), parse("action-scale:0.6")
    assert sequences(other, [None] * 5, 2) == [[0, 2, 4], [1, 3]]
    assert sequences(ensemble, [None, None, a, a, a, b], 2) == [[0, 1, 5], [2, 3, 4]]
    assert boundaries(ensemble, [None, None, a, a, a, b]) == [0, 2, 5, 6] and boundaries(other, [a, a]) == [0, 1, 2]


@pytest.mark.parametrize("rule", [BestOf(1), Mixture((0.5, 0.5)), Bandit(-3.0, 3.0)])
def test_every_rule_works_everywhere(rule, tmp_path):
    folder = several(rule).save(tmp_path / "agent")
    agent = sf.load(folder)
    assert agent.rule == rule and len(agent.members) == 2 and agent.facts["method"] == "several"
    assert len(sf.evaluate(agent, Wanted, episodes=3)["returns"]) == 3
    report = sf.stress(agent, Wanted, "action-scale:0.5..1", episodes=3, points=2)
    assert report.returns.shape == (2, 3) and report.policy == "several (seed 0)"
    pushed = sf.stress(agent, Wanted, "obs-pgd:0..1", episodes=3, points=2)
    np.testing.assert_array_equal(pushed.returns[0], pushed.nominal_returns)
    assert np.isfinite(sf.audit(agent, Wanted, families=("actuators",), episodes=2, points=2).returns).all()
    torch.manual_seed(0)
    actions, state = agent.predict(np.zeros((40, 1), np.float32), deterministic=True)
    kept, _ = agent.predict(np.zeros((40, 1), np.float32), state, np.zeros(40, bool), deterministic=True)
    np.testing.assert_array_equal(actions, kept)  # a member stays for the episode
    assert set(np.round(actions[:, 0]).tolist()) <= {-1.0, 1.0}


def test_an_attack_meets_the_member_that_plays():
    deployment = Deployment(several(BestOf(1)), 2)
    deployment.member[:] = [0, 1]
    seen = torch.tensor([[0.0], [0.0]])
    np.testing.assert_allclose(deployment.respond(seen)[1][:, 0].detach(), [-1, 1], atol=1e-6)
    assert deployment.criticise(seen, seen, None, None).shape == (2,)


def test_an_adversary_is_trained_against_the_mixture():
    env = adversary_env(several(Mixture((0.5, 0.5))), Wanted, "obs-pa-ad:0.5")()
    met = set()
    for seed in range(12):
        env.reset(seed=seed)
        met.add(round(env.step(np.zeros(1))[1]))
    assert met == {1, -1}


def test_what_changes_from_episode_to_episode_is_not_smoothed():
    with pytest.raises(UsageError, match="smooth one of its members"):
        Smoothed(several(BestOf(1)), 0.2)


def test_a_damaged_folder_is_refused(tmp_path):
    folder = several(BestOf(1)).save(tmp_path / "agent")
    text = json.loads((folder / "agent.json").read_text())
    for name, value, words in (
        ("members", 10**9, "members"),
        ("rule", {"name": "none"}, "not known"),
        ("members", 3, "member-2"),
    ):
        (folder / "agent.json").write_text(json.dumps({**text, name: value}))
        with pytest.raises(UsageError, match=words):
            sf.load(folder)
    with pytest.raises(UsageError, match="same spaces"):
        other = Agent(Network(hidden=(2,)), spaces.Box(-9, 9, (2,), np.float32), DONE, torch.zeros(
            Flat(Network(hidden=(2,)).make(spaces.Box(-9, 9, (2,), np.float32), DONE)).size), {})  # fmt: skip
        Ensemble([constant(1.0), other], BestOf(1))

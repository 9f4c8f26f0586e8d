"""Certificates of actions: what is said of agents of every kind, that no attack is beyond, and what is refused."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import surefoot as sf
from surefoot.cli import main
from surefoot.errors import UsageError
from surefoot.evaluate import certify_actions as certifying
from surefoot.evaluate.certify_actions import certify_actions
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.dqn import DQN
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.sac import SAC
from surefoot.methods.control.td3 import TD3
from surefoot.methods.robust.smoothed_agents import SmoothedPPO
from surefoot.methods.robust.smoothed_agents.denoised import SmoothedDQN
from surefoot.models.actors import ActorNetwork
from surefoot.models.agent import Agent
from surefoot.models.functional import Flat

OFF = {"batch_size": 16, "learning_starts": 20, "log_every": 40, "hidden": (16,)}
ON = {"num_envs": 2, "num_steps": 32, "minibatch_size": 32, "epochs": 2, "hidden": (16,)}
AGENTS = {
    "ppo": (PPO(**ON), "CartPole-v1"),
    "ppo, box": (PPO(**ON), "Pendulum-v1"),
    "dqn": (DQN(**OFF, dueling=True), "CartPole-v1"),
    "td3": (TD3(**OFF), "Pendulum-v1"),
    "sac": (SAC(**OFF), "Pendulum-v1"),
    "s-ppo": (SmoothedPPO(**ON, draws=3, sigma=0.3), "Pendulum-v1"),
    "s-ppo, choices": (SmoothedPPO(**ON, draws=3, sigma=0.3, log_std_init=0.0), "CartPole-v1"),
    "s-dqn": (SmoothedDQN(**OFF, base_updates=20, denoiser_hidden=(8,)), "CartPole-v1"),
}


def agent_of(name: str) -> tuple[Agent, str]:
    method, env = AGENTS[name]
    learner = make_learner(method, env, [0], 1000)
    learner.iterate()
    learner.iterate()
    agent = learner.agent()
    learner.close()
    return agent, env


@pytest.mark.parametrize("name", AGENTS)
def test_no_attack_is_beyond_the_bounds(name, monkeypatch):
    monkeypatch.setattr(certifying, "SAMPLES", 300)
    agent, env = agent_of(name)
    found = certify_actions(agent, env, states=12, budgets=(0.01, 0.1))
    assert found.broken == (0, 0) and found.states == 12
    assert found.confidence == (0.95 if name.startswith("s-") else 1.0)
    if found.discrete:
        assert 0 <= found.certified[1] <= found.certified[0] <= 1
    else:
        assert 0 < found.certified[0] <= found.certified[1] and found.attacked[0] <= found.certified[0]
    table = found.table()
    for words in ("broken", "l2 norms", "Not said", found.by):
        assert words in table
    assert json.loads(found.to_json())["certified"] == list(found.certified)
    if agent.rule is None:
        assert found.lipschitz is not None and found.lipschitz[1] <= found.lipschitz[0] * (1 + 1e-9)
        everywhere = certify_actions(agent, env, states=12, budgets=(0.01, 0.1), law="linf")
        assert everywhere.broken == (0, 0) and everywhere.law == "linf"


class Still(gym.Env):
    """Shows (1, 0) for four steps."""

    observation_space, action_space = spaces.Box(-9, 9, (2,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.array([1, 0], np.float32), {}

    def step(self, action):
        self.time += 1
        return np.array([1, 0], np.float32), 0.0, self.time == 4, False, {}


def linear(rows) -> Agent:
    network = ActorNetwork("values", ())
    flat = Flat(network.make(Still.observation_space, Still.action_space))
    weights = torch.tensor([x for row in rows for x in row] + [0.0, 0.0])
    assert flat.size == len(weights)
    return Agent(network, Still.observation_space, Still.action_space, weights, {})


def test_a_linear_choice_is_certified_exactly_up_to_its_boundary():
    """Q = (3x, 4y): the margin at (1, 0) is 3 and ‖(3, −4)‖ = 5, so the l2 radius is 0.6, and the linf one 3/7."""
    agent = linear([[3.0, 0.0], [0.0, 4.0]])
    found = certify_actions(agent, Still, states=5, budgets=(0.59, 0.61))
    assert found.certified == (1.0, 0.0) and found.attacked == (0.0, 1.0) and found.broken == (0, 0)
    assert found.radius == pytest.approx(0.6, rel=1e-6)
    found = certify_actions(agent, Still, states=5, budgets=(0.42, 0.435), law="linf")
    assert found.certified == (1.0, 0.0) and found.attacked == (0.0, 1.0) and found.broken == (0, 0)


def test_a_bound_that_is_wrong_would_be_seen(monkeypatch):
    agent = linear([[3.0, 0.0], [0.0, 4.0]])
    monkeypatch.setattr(certifying, "kept", lambda layers, x, *_: torch.ones(len(x), dtype=torch.bool))
    assert certify_actions(agent, Still, states=5, budgets=(0.61,)).broken == (5,)


def test_the_command_certifies_actions_and_keeps_the_certificate(tmp_path, capsys):
    run = sf.train("ppo", "CartPole-v1", 64, run_dir=tmp_path / "run", loggers=(), **ON)
    main(["certify", str(run.path), "--what", "action", "--budgets", "0.01", "--states", "5", "--law", "linf"])
    assert "bounds by intervals and Lipschitz constants" in capsys.readouterr().out
    kept = json.loads((run.path / "certificate-actions-linf.json").read_text())
    assert kept["budgets"] == [0.01] and kept["states"] == 5 and kept["broken"] == [0]
    with pytest.raises(SystemExit):
        main(["certify", str(run.path), "--what", "action", "--sigma", "0.2"])
    assert "sigma has no effect with what=action" in " ".join(capsys.readouterr().err.split())


def test_returns_of_agents_of_several_draws_are_certified_for_one(tmp_path):
    agent, env = agent_of("s-ppo, choices")
    found = sf.certify(agent, env, episodes=20)
    assert found.sigma == 0.3 and found.draws == 100 and found.normalized
    assert "decides by one draw" in found.table() and "deviations of the policy's normaliser" in found.table()
    with pytest.raises(UsageError, match="adds noise of sigma=0.3 itself"):
        sf.certify(agent, env, sigma=0.1, episodes=20)


@pytest.mark.parametrize(
    ("policy", "settings", "words"),
    [
        (lambda x: x, {}, "has no bounds of its actions"),
        ("linear", {"law": "l1"}, "law='l1'"),
        ("linear", {"budgets": [0.0]}, "budgets has 0.0"),
        ("linear", {"states": 0}, "states=0"),
        ("linear", {"confidence": 1.5}, "confidence=1.5"),
    ],
)
def test_what_has_no_certificate_is_refused(policy, settings, words):
    agent = linear([[3.0, 0.0], [0.0, 4.0]]) if policy == "linear" else policy
    with pytest.raises(UsageError, match=words):
        certify_actions(agent, Still, **settings)

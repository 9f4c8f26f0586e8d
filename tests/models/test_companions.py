"""Critics kept with agents: the files, what they say of an action, the attack along them, and agents without one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file, save_file

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.ddpg import DDPG
from surefoot.methods.control.sac import SAC
from surefoot.methods.control.sac_discrete import DiscreteSAC
from surefoot.methods.control.td3 import TD3
from surefoot.methods.robust.m2td3 import M2TD3
from surefoot.models.agent import Agent
from surefoot.perturbations import parse
from surefoot.perturbations.attacks import Target, aimed
from surefoot.seeding import numpy_stream

SMALL = {"batch_size": 16, "learning_starts": 20, "log_every": 40, "hidden": (16, 8)}
METHODS = {
    "ddpg": (DDPG(**SMALL), "Pendulum-v1"),
    "td3": (TD3(**SMALL), "Pendulum-v1"),
    "sac": (SAC(**SMALL, normalize_observations=True), "Pendulum-v1"),
    "sac-discrete": (DiscreteSAC(**SMALL), "CartPole-v1"),
}
each = pytest.mark.parametrize("name", METHODS)


def trained(name: str):
    method, env = METHODS[name]
    learner = make_learner(method, env, [3, 4], 1000)
    learner.iterate()
    agent = learner.agent(1)
    learner.close()
    return learner, agent


def states(agent: Agent, count: int = 6) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(size=(count, *agent.observation_space.shape)).astype(np.float32))


@each
def test_it_judges_as_the_learner_s_critics_do_and_is_saved(name, tmp_path):
    learner, agent = trained(name)
    x, seen = states(agent), states(agent) + 0.3
    scales = {k: tuple(s[1] for s in pair) for k, pair in learner.scales().items()}
    normal = [((x - scales[""][0]) * scales[""][1]).clamp(-10, 10) if scales else x for x in (x, seen)]
    actor, critic = (learner.functions[k] for k in ("actor", "critic"))
    params = actor(learner.weights["actor"][1], normal[1])
    if name == "sac-discrete":
        values = critic(learner.weights["critic"][1], normal[0]).min(0).values
        wanted = (params.softmax(-1) * values).sum(-1)
    else:
        action = params[..., :1].tanh() if name == "sac" else params
        values = critic(learner.weights["critic"][1], normal[0], action)
        wanted = values if values.dim() == 1 else values.min(0).values
    torch.testing.assert_close(agent.criticise(x, seen, None, None), wanted, rtol=1e-5, atol=1e-6)
    again = sf.load(agent.save(tmp_path))
    assert torch.equal(again.criticise(x, seen, None, None), agent.criticise(x, seen, None, None))
    assert torch.equal(again.companions["critic"].vector, agent.companions["critic"].vector)


@each
def test_the_attack_goes_down_the_critic(name):
    _, agent = trained(name)
    target = Target(agent, agent.observation_space, agent.action_space)
    clean, count = states(agent, 40).numpy(), 40
    value = {}
    for text in ("obs-critic:0.2,unit=raw", "obs-random:0.2,unit=raw"):
        rngs = {row: numpy_stream(0, "attack", row) for row in range(count)}
        attack = aimed(parse(text), target)
        seen = attack.strike(target, clean, None, np.ones(count, bool), np.full(count, 0.2), rngs)
        assert np.abs(seen - clean).max() <= 0.2 * (1 + 1e-6)
        value[text[:8]] = agent.criticise(torch.from_numpy(clean), torch.from_numpy(seen), None, None)
    assert (value["obs-crit"] < value["obs-rand"] + 1e-6).double().mean() > 0.9
    assert value["obs-crit"].mean() < value["obs-rand"].mean()


def test_agents_of_older_versions_load_and_say_that_they_keep_no_critic(tmp_path):
    _, agent = trained("td3")
    agent.save(tmp_path)
    facts = json.loads((tmp_path / "agent.json").read_text())
    assert facts.pop("networks")["critic"]["copies"] == 2
    (tmp_path / "agent.json").write_text(json.dumps(facts))
    tensors = load_file(tmp_path / "agent.safetensors")
    save_file({k: x for k, x in tensors.items() if not k.startswith("networks/")}, tmp_path / "agent.safetensors")
    old = sf.load(tmp_path)
    x = states(agent).numpy()
    assert np.array_equal(old.predict(x, deterministic=True)[0], agent.predict(x, deterministic=True)[0])
    with pytest.raises(UsageError, match="cannot be attacked by its critic: it keeps none.*obs-pgd or obs-mad"):
        aimed(parse("obs-critic:0.1"), Target(old, old.observation_space, old.action_space))


def test_a_critic_that_judges_more_than_the_agent_does_is_not_kept():
    method = M2TD3(**SMALL, set="param:m=0.5..2,l=0.5..2")
    learner = make_learner(method, "Pendulum-v1", [0], 1000)
    assert learner.agent().companions == {}
    learner.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["networks"]["critic"].update(copies=0), "copies=0"),
        (lambda d: d["networks"]["critic"].update(copies=3), "wrong shape"),
        (lambda d: d["networks"]["critic"].update(kind="virus"), "agent.json is damaged"),
        (lambda d: d["networks"]["critic"]["network"].update(hidden=[10**9]), "hidden=.*is not allowed"),
        (lambda d: d["networks"]["critic"]["network"].update(hidden=[60_000, 60_000]), "larger than the weights"),
        (lambda d: d["networks"].update(more=d["networks"]["critic"]), "lacks weights"),
        (lambda d: d.update(networks=3), "agent.json is damaged"),
        (lambda d: d.pop("networks"), "has additional ones"),
    ],
)
def test_damaged_entries_are_refused(change, words, tmp_path):
    _, agent = trained("td3")
    agent.save(tmp_path)
    facts = json.loads((tmp_path / "agent.json").read_text())
    change(facts)
    (tmp_path / "agent.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match=words):
        Agent.load(tmp_path)


def test_a_stress_test_takes_it():
    _, agent = trained("td3")
    report = sf.stress(agent, "Pendulum-v1", "obs-critic:0.1", episodes=2, points=2)
    assert np.isfinite(report.worst)
    assert isinstance(agent.action_space, spaces.Box)

"""Exported files do what the agent does: every kind of agent, in both formats, deterministic and sampled."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import surefoot as sf
from surefoot import cli
from surefoot.errors import UsageError
from surefoot.evaluate import export_check
from surefoot.evaluate.foreign_modules import load_script
from surefoot.evaluate.foreign_signature import METADATA, Fixed
from surefoot.models.actors import ActorNetwork
from surefoot.models.agent import Agent, Network
from surefoot.models.deployed import deployed
from surefoot.models.functional import initial
from surefoot.models.observations import normalized_shapes
from surefoot.models.tabular_agent import TabularAgent

VECTOR = spaces.Box(-np.inf, np.inf, (4,))
BOX = spaces.Box(np.array([-1, -2], np.float32), np.array([2, 1], np.float32))
IMAGE = spaces.Box(0, 255, (40, 44, 3), np.uint8)
ALL = spaces.Dict(
    image=spaces.Box(0, 255, (16, 16, 3), np.uint8),
    vector=spaces.Box(-1, 1, (2,)),
    place=spaces.Discrete(5, start=2),
    action_mask=spaces.MultiBinary(5),
)
PARTS = spaces.MultiDiscrete([2, 3], start=[1, 5])


def made(network, observation_space, action_space, **facts) -> Agent:
    """An agent with random weights and a random normaliser."""
    generator = torch.Generator().manual_seed(0)
    vector = initial(lambda: network.make(observation_space, action_space), generator)
    vector = vector + 0.03 * torch.randn(vector.shape, generator=generator)
    scales = {
        key: (torch.randn(shape, generator=generator), 0.5 + torch.rand(shape, generator=generator))
        for key, shape in normalized_shapes(observation_space).items()
    }
    return Agent(network, observation_space, action_space, vector, scales, facts)


def table(*shape, deterministic=False) -> TabularAgent:
    rows = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    flat = rows.flatten(2) if len(shape) == 4 else rows
    return TabularAgent((flat / flat.sum(-1, keepdim=True)).reshape(shape))


RNN = {"core_size": 8, "hidden": (8,)}
AGENTS = {
    "box": lambda: made(Network(), VECTOR, BOX),
    "squashed": lambda: made(Network(squash=True), VECTOR, BOX),
    "a matrix of actions": lambda: made(Network(), VECTOR, spaces.Box(-1, 1, (2, 3))),
    "recurrent, dict, masked": lambda: made(Network(core="lstm", cnn="impala", **RNN), ALL, PARTS),
    "recurrent": lambda: made(Network(core="gru", **RNN), VECTOR, spaces.Discrete(3, start=4)),
    "images": lambda: made(Network(cnn="nature"), IMAGE, spaces.Discrete(3)),
    "bits": lambda: made(Network(), spaces.MultiDiscrete([3, 4], start=[1, 1]), spaces.MultiBinary(3)),
    "smoothed": lambda: made(Network(), VECTOR, BOX, smoothing=0.2),
    "smoothed bytes": lambda: made(Network(cnn="impala"), ALL, PARTS, smoothing=20.0),
    "ddpg": lambda: made(ActorNetwork(), VECTOR, BOX),
    "sac": lambda: made(ActorNetwork("gaussian"), VECTOR, BOX),
    "sac-discrete": lambda: made(ActorNetwork("categorical"), VECTOR, spaces.Discrete(3)),
    "dqn": lambda: made(ActorNetwork("values", dueling=True, atoms=5), VECTOR, spaces.Discrete(3)),
    "remembers": lambda: made(ActorNetwork(remembers=True), VECTOR, BOX),
    "table": lambda: table(5, 3),
    "table of steps": lambda: table(4, 5, 3),
    "table with memory": lambda: table(2, 5, 3, 2),
}
SURE = ("ddpg", "dqn", "remembers")  # which draw nothing


def check(found) -> None:
    action, parameters, others = found.differences
    assert max(action, parameters) < 1e-4 and others == 0


@pytest.mark.parametrize("name", AGENTS)
def test_torchscript_acts_as_the_agent(name, tmp_path):
    agent = AGENTS[name]()
    for sample in (False, True)[: 1 if name in SURE else 2]:
        found = sf.export(agent, tmp_path / "policy.pt", sample=sample, states=60)
        check(found)
        assert found.states == 60 and found.played == 0 and "give env" in found.without


@pytest.mark.slow  # the exporter takes seconds to start
@pytest.mark.parametrize("name", ["recurrent, dict, masked", "table with memory"])
def test_onnx_acts_as_the_agent(name, tmp_path):
    pytest.importorskip("onnxscript")
    agent = AGENTS[name]()
    check(sf.export(agent, tmp_path / "policy.onnx", sample=True, states=100))


@pytest.mark.parametrize("name", SURE)
def test_sampling_is_refused_where_nothing_is_drawn(name, tmp_path):
    with pytest.raises(UsageError, match="always takes the same action"):
        sf.export(AGENTS[name](), tmp_path / "policy.pt", sample=True)


@pytest.mark.parametrize("name", ["box", "recurrent", "dqn", "table", "smoothed"])
def test_a_file_that_differs_is_found_and_removed(name, tmp_path, monkeypatch):
    agent, other = AGENTS[name](), AGENTS[name]()
    if name == "table":
        other.policy = other.policy.roll(1, -1)
    else:
        other.vector += 0.01
    monkeypatch.setattr("surefoot.evaluate.export.deployed", lambda _, sample: deployed(other, sample))
    with pytest.raises(UsageError, match="differs from the agent"):
        sf.export(agent, tmp_path / "policy.pt", states=60)
    assert list(tmp_path.iterdir()) == []


def test_a_tie_is_not_a_difference(tmp_path, monkeypatch):
    agent, other = table(5, 3), table(5, 3)
    agent.policy[:], other.policy[:] = 0.25, 0.25
    agent.policy[:, 1], other.policy[:, 2] = 0.375, 0.375
    agent.policy[:, 2], other.policy[:, 1] = 0.375 - 1e-9, 0.375 - 1e-9
    monkeypatch.setattr("surefoot.evaluate.export.deployed", lambda _, sample: deployed(other, sample))
    found = sf.export(agent, tmp_path / "policy.pt", states=60)
    assert found.differences.other_actions == 60 and "60 other actions (ties)" in str(found)


def test_zero_noise_is_the_most_likely_action_and_noise_moves_it(tmp_path):
    agent = AGENTS["box"]()
    sf.export(agent, tmp_path / "policy.pt", sample=True, states=20)
    policy = load_script(tmp_path / "policy.pt", Fixed(VECTOR, BOX), trust=True)
    seen = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    sure, _ = policy.predict(seen, deterministic=True)
    np.testing.assert_allclose(sure, agent.predict(seen, deterministic=True)[0], atol=1e-6)
    torch.manual_seed(3)
    drawn = np.stack([policy.predict(seen)[0] for _ in range(400)])
    torch.manual_seed(4)
    wanted = np.stack([agent.predict(seen)[0] for _ in range(400)])
    assert drawn.std(0).min() > 0.1
    np.testing.assert_allclose(drawn.mean(0), wanted.mean(0), atol=0.3)
    np.testing.assert_allclose(drawn.std(0), wanted.std(0), rtol=0.2)


@pytest.mark.slow
def test_a_run_says_in_the_file_how_it_was_made_and_plays_without_its_environment_being_named(tmp_path, capsys):
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    small = {"num_envs": 2, "num_steps": 16, "minibatch_size": 32, "epochs": 1, "hidden": (4,), "loggers": ()}
    run = sf.train("ppo", "CartPole-v1", 32, run_dir=tmp_path / "run", **small)
    file = tmp_path / "policy.onnx"
    cli.main(["export", str(run.path), str(file), "--states", "100"])
    assert (
        "100 states compared with the agent (60 of the environment, 40 random): 0 other actions"
        in capsys.readouterr().out
    )
    model = onnx.load(file)
    said = json.loads({one.key: one.value for one in model.metadata_props}[METADATA])
    assert said["surefoot"] == sf.__version__ and said["method"] == "ppo" and said["env"]["env"] == "CartPole-v1"
    assert said["inputs"] == [{"name": "observation", "dtype": "float32", "shape": ["batch", 4]}]
    assert [port["name"] for port in said["outputs"]] == ["action", "parameters"]
    ours, theirs = sf.evaluate(run, episodes=3, env="CartPole-v1"), sf.evaluate(file, episodes=3)
    assert ours["returns"] == theirs["returns"]
    with pytest.raises(UsageError, match="offers none"):
        sf.stress(file, perturb="obs-pgd:0.1", episodes=2)
    assert sf.stress(file, perturb="obs-random:0.1", episodes=2, points=2).returns.shape == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((lambda s: s, "policy.onnx"), "cannot be exported"),
        ((AGENTS["box"], "policy.pkl"), "must end in .onnx"),
        ((AGENTS["box"], "policy.pt", 0), "states=0"),
    ],
)
def test_bad_input(arguments, match, tmp_path):
    policy, name, *states = arguments
    policy = policy if len(arguments) == 2 and name == "policy.onnx" else policy()
    with pytest.raises(UsageError, match=match):
        sf.export(policy, tmp_path / name, **({"states": states[0]} if states else {}))


def test_random_masks_leave_an_action_in_every_part():
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = export_check._mask(spaces.MultiBinary(5), PARTS, rng)
        assert mask[:, :2].any(1).all() and mask[:, 2:].any(1).all()


def pole(network: Network) -> Agent:
    return made(network, gymnasium.make("CartPole-v1").observation_space, spaces.Discrete(2))


def test_an_exported_file_is_attacked_as_the_agent(tmp_path):
    agent, file = pole(Network(hidden=(8,))), tmp_path / "policy.pt"
    sf.export(agent, file, states=20)
    attack = {"env": "CartPole-v1", "perturb": "obs-pgd:0..3", "episodes": 5, "points": 2}
    ours, theirs = sf.stress(agent, **attack), sf.stress(file, trust=True, **attack)
    assert ours.perturbation == theirs.perturbation and "unit=normalized" in ours.perturbation
    np.testing.assert_array_equal(ours.returns, theirs.returns)
    assert not np.array_equal(ours.returns[1], ours.nominal_returns)


def test_an_exported_memory_plays_as_the_agents(tmp_path):
    agent, file = pole(Network(core="gru", **RNN)), tmp_path / "policy.pt"
    sf.export(agent, file, states=20)
    ours, theirs = (sf.evaluate(x, "CartPole-v1", episodes=20, trust=True) for x in (agent, file))
    assert ours["returns"] == theirs["returns"] and len({*ours["returns"]}) > 1


def test_an_exported_table_plays_as_the_agent(tmp_path):
    run = sf.train("dynamic-pg", "garnet:4,2,2,horizon=3", 4, run_dir=tmp_path / "run", loggers=())
    found = sf.export(run, tmp_path / "policy.pt", states=60)
    assert found.played == 40 and found.differences.other_actions == 0
    ours, theirs = sf.evaluate(run.path, episodes=9), sf.evaluate(tmp_path / "policy.pt", episodes=9, trust=True)
    assert ours["returns"] == theirs["returns"] and "exact" not in theirs


def test_a_trained_off_policy_agent_is_exported(tmp_path):
    run = sf.train("ddpg", "Pendulum-v1", 64, run_dir=tmp_path / "run", loggers=(), hidden=(8, 8))
    found = sf.export(run, tmp_path / "policy.pt", states=60)
    assert found.played == 40 and found.differences.action < 1e-5


def test_an_environment_that_is_given_is_used(tmp_path):
    agent = pole(Network(hidden=(4,)))
    found = sf.export(agent, tmp_path / "policy.pt", "CartPole-v1", states=60)
    assert found.played == 40 and not found.without

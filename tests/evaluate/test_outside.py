"""Policies from other libraries: ONNX, TorchScript, weights of a named module, CleanRL, and what a module names."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from outside_nets import Actor, Lean, lean
from safetensors.torch import save_file
from torch import nn

import surefoot as sf
from surefoot import cli
from surefoot.errors import UsageError
from surefoot.evaluate.foreign_actions import actions_from
from surefoot.evaluate.foreign_modules import ModulePolicy
from surefoot.evaluate.foreign_onnx import OnnxPolicy
from surefoot.evaluate.foreign_signature import Fixed
from surefoot.evaluate.foreign_weights import named
from surefoot.evaluate.outside import outside

VECTOR, TWO, BOX = spaces.Box(-np.inf, np.inf, (4,)), spaces.Discrete(2), spaces.Box(-2, 2, (1,))
POLE, SWING = "CartPole-v1", "Pendulum-v1"
SEEN = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*does not say how its observations")


def weights(module: nn.Module) -> nn.Module:
    """The module with weights that are always the same."""
    with torch.no_grad():
        for x in module.parameters():
            x.copy_(torch.randn(x.shape, generator=torch.Generator().manual_seed(x.numel())))
    return module


def onnx_file(path: Path, nodes, inputs, outputs, initial=()) -> Path:
    """A model written operator by operator, as another library might."""
    onnx = pytest.importorskip("onnx")
    types = {"f": onnx.TensorProto.FLOAT, "i": onnx.TensorProto.INT64}
    given, found = (
        [onnx.helper.make_tensor_value_info(name, types[kind], shape) for name, kind, shape in slots]
        for slots in (inputs, outputs)
    )
    kept = [onnx.numpy_helper.from_array(np.asarray(x, np.float32), name) for name, x in initial]
    graph = onnx.helper.make_graph([onnx.helper.make_node(*node) for node in nodes], "net", given, found, kept)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def linear(path: Path, observation=("N", 4), outputs=("N", 2), name="obs", weight=None) -> Path:
    weight = np.arange(8).reshape(4, 2) - 3.0 if weight is None else weight
    nodes = [("MatMul", [name, "w"], ["out"])]
    return onnx_file(path, nodes, [(name, "f", observation)], [("out", "f", outputs)], [("w", weight)])


# --- ONNX ---


def test_scores_in_a_foreign_onnx_file_become_the_best_action(tmp_path):
    policy = OnnxPolicy(linear(tmp_path / "a.onnx"), Fixed(VECTOR, TWO))
    wanted = (SEEN @ (np.arange(8).reshape(4, 2) - 3.0)).argmax(-1)
    assert policy.predict(SEEN)[0].tolist() == wanted.tolist() and len({*wanted.tolist()}) == 2
    shifted = OnnxPolicy(tmp_path / "a.onnx", Fixed(VECTOR, spaces.Discrete(2, start=5)))
    assert shifted.predict(SEEN)[0].tolist() == (wanted + 5).tolist()
    again = pickle.loads(pickle.dumps(policy))  # as processes are sent it
    assert again.predict(SEEN)[0].tolist() == wanted.tolist()


def test_scores_that_a_mask_forbids_are_not_chosen(tmp_path):
    masked = spaces.Dict(observation=VECTOR, action_mask=spaces.MultiBinary(2))
    policy = OnnxPolicy(linear(tmp_path / "a.onnx"), Fixed(masked, TWO))
    for allowed in ([1, 0], [0, 1]):
        mask = np.tile(np.array(allowed, np.int8), (len(SEEN), 1))
        assert {*policy.predict({"observation": SEEN, "action_mask": mask})[0].tolist()} == {allowed.index(1)}


def test_a_file_that_takes_one_observation_at_a_time(tmp_path):
    one = OnnxPolicy(linear(tmp_path / "a.onnx", (1, 4), (1, 2)), Fixed(VECTOR, TWO))
    many = OnnxPolicy(linear(tmp_path / "b.onnx"), Fixed(VECTOR, TWO))
    assert one.predict(SEEN)[0].tolist() == many.predict(SEEN)[0].tolist()


@pytest.mark.parametrize("rows", ["N", 1])
def test_further_inputs_and_outputs_are_a_memory_that_episodes_reset(rows, tmp_path):
    """The action is the sum of all observations of the episode so far."""
    nodes = [("Add", ["obs", "h_in"], ["h_out"]), ("Identity", ["h_out"], ["action"])]
    slots = [("obs", "f", (rows, 1)), ("h_in", "f", (rows, 1))]
    file = onnx_file(tmp_path / "a.onnx", nodes, slots, [("action", "f", (rows, 1)), ("h_out", "f", (rows, 1))])
    policy = OnnxPolicy(file, Fixed(spaces.Box(-9, 9, (1,)), BOX))
    seen = np.array([[1.0], [2.0]], np.float32)
    action, state = policy.predict(seen, None, np.array([True, True]))
    assert action.tolist() == [[1], [2]]
    action, state = policy.predict(seen, state, np.array([False, False]))
    assert action.tolist() == [[2], [4]]
    action, state = policy.predict(seen, state, np.array([True, False]))
    assert action.tolist() == [[1], [6]]


def test_dict_observations_go_to_the_inputs_of_their_names_and_images_are_turned(tmp_path):
    observed = spaces.Dict(view=spaces.Box(0, 255, (3, 5, 2), np.uint8), speed=spaces.Box(-1, 1, (1,)))
    slots = [("speed", "f", ("N", 1)), ("obs/view", "f", ("N", 2, 3, 5))]
    nodes = [("Add", ["m", "speed"], ["action"])]
    file = onnx_file(tmp_path / "a.onnx", nodes, [slots[0], ("m", "f", ("N", 1))], [("action", "f", ("N", 1))])
    with pytest.raises(UsageError, match=r"none is named like the observation's \['view'\]"):
        OnnxPolicy(file, Fixed(observed, BOX))
    nodes = [("Slice", ["obs/view", "b", "e"], ["c"]), ("Flatten", ["c"], ["d"]), ("Add", ["d", "speed"], ["action"])]
    onnx = pytest.importorskip("onnx")
    types = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(*node) for node in nodes],
        "net",
        [onnx.helper.make_tensor_value_info(n, types, shape) for n, _, shape in slots],
        [onnx.helper.make_tensor_value_info("action", types, ("N", 1))],
        [
            onnx.numpy_helper.from_array(np.array([0, 1, 2, 4]), "b"),  # channel 1, row 2, column 4
            onnx.numpy_helper.from_array(np.array([9, 2, 3, 5]), "e"),
        ],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), file)
    policy = OnnxPolicy(file, Fixed(observed, BOX))
    view = np.random.default_rng(0).integers(0, 255, (4, 3, 5, 2), np.uint8)
    action, _ = policy.predict({"view": view, "speed": np.full((4, 1), 0.5, np.float32)})
    np.testing.assert_allclose(action[:, 0], view[:, 2, 4, 1] + 0.5)


@pytest.mark.parametrize(
    ("slots", "observed", "acting", "match"),
    [
        ({"observation": ("N", 3)}, VECTOR, TWO, "takes an observation of shape .* must agree"),
        ({"outputs": ("N", 3)}, VECTOR, TWO, "none is an action of Discrete"),
        ({"outputs": ("N", 2)}, VECTOR, BOX, r"Give actions in the environment's units, of shape \['batch', 1\]"),
    ],
)
def test_a_file_that_does_not_fit_says_why(slots, observed, acting, match, tmp_path):
    weight = np.zeros((slots.get("observation", ("N", 4))[1], slots.get("outputs", ("N", 2))[1]))
    with pytest.raises(UsageError, match=match):
        OnnxPolicy(linear(tmp_path / "a.onnx", weight=weight, **slots), Fixed(observed, acting))


def test_damaged_onnx_files(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"\x08\x07damaged")
    with pytest.raises(UsageError, match="cannot be read as an ONNX model"):
        sf.evaluate(tmp_path / "a.onnx", POLE)
    with pytest.raises(UsageError, match="env is missing"):
        sf.evaluate(linear(tmp_path / "b.onnx"))
    onnx = pytest.importorskip("onnx")
    model = onnx.load(linear(tmp_path / "c.onnx"))
    for text in ("{}", "[", '{"format": "surefoot-policy-1"}'):
        del model.metadata_props[:]
        entry = model.metadata_props.add()
        entry.key, entry.value = "surefoot", text
        onnx.save(model, tmp_path / "c.onnx")
        with pytest.raises(UsageError, match="says of itself is damaged"):
            sf.evaluate(tmp_path / "c.onnx", POLE)


# --- TorchScript and modules in memory ---


def test_torchscript_needs_trust_and_then_offers_gradients(tmp_path):
    file = tmp_path / "policy.pt"
    torch.jit.script(weights(Actor())).save(file)
    with pytest.raises(UsageError, match="TorchScript program.*--trust"):
        sf.evaluate(file, POLE)
    with pytest.warns(UserWarning, match="does not say how its observations were processed"):
        found = sf.evaluate(file, POLE, episodes=3, trust=True)
    assert found["returns"] == sf.evaluate(weights(Actor()), POLE, episodes=3)["returns"]
    with pytest.warns(UserWarning):
        report = sf.stress(file, POLE, "obs-pgd:0.5", episodes=2, points=2, trust=True)
    assert report.returns.shape == (2, 2)


def test_a_module_is_attacked_audited_certified_and_diagnosed():
    module = weights(Actor())
    attacked = sf.stress(module, POLE, "obs-pgd:0.5", episodes=3, points=2)
    assert np.array_equal(attacked.returns[0], attacked.nominal_returns)  # a budget of 0
    assert not np.array_equal(attacked.returns[1], attacked.nominal_returns)
    assert sf.audit(module, POLE, families=["sensors"], episodes=2, points=2).cells
    assert sf.certify(module, POLE, sigma=0.1, episodes=10).size == 4
    found = sf.diagnose(module, POLE, episodes=2)
    assert found.direction.shape == (4,) and np.isclose(np.linalg.norm(found.direction), 1)


class Pair(nn.Module):
    def forward(self, x):
        return {"value": x.sum(-1), "pi": torch.distributions.Categorical(logits=x[:, :2])}


def test_outputs_in_containers_and_distributions():
    policy = ModulePolicy(Pair(), VECTOR, TWO)
    assert policy.predict(SEEN)[0].tolist() == SEEN[:, :2].argmax(-1).tolist()
    with pytest.raises(UsageError, match="none is an action of Discrete"):
        ModulePolicy(Pair(), VECTOR, spaces.Discrete(3)).predict(SEEN)
    with pytest.raises(UsageError, match="has no forward"):
        sf.evaluate(nn.Module(), POLE)


def test_what_outputs_mean():
    parts = spaces.MultiDiscrete([2, 3], start=[0, 7])
    scores = np.array([[0, 1, 5, 9, 2], [3, 1, 0, 0, 2]], np.float32)
    assert actions_from(scores, parts).tolist() == [[1, 8], [0, 9]]
    assert actions_from(np.array([[1], [0]]), TWO).tolist() == [1, 0]
    matrix = spaces.Box(-1, 1, (2, 2))
    assert actions_from(np.arange(4, dtype=np.float32)[None], matrix).shape == (1, 2, 2)
    with pytest.raises(UsageError, match="neither an action"):
        actions_from(np.zeros((1, 4), np.float32), TWO)


# --- weights ---


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_a_named_module(suffix, tmp_path):
    file, module = tmp_path / f"actor{suffix}", weights(Actor(hidden=5, activation="relu"))
    if suffix == ".pt":
        torch.save({"step": 3, "model": module.state_dict(), "optimizer": [{"lr": 0.1}]}, file)
    else:
        save_file(module.state_dict(), file)
    found = sf.evaluate(f"{file}@outside_nets:Actor,hidden=5,activation=relu", POLE, episodes=3)
    assert found["returns"] == sf.evaluate(module, POLE, episodes=3)["returns"]
    with pytest.raises(UsageError, match=r"body.weight has the shape \[5, 4\] in the file and \[8, 4\]"):
        sf.evaluate(f"{file}@outside_nets:Actor", POLE)
    with pytest.raises(UsageError, match="Name its class: .*@module:Class"):
        sf.evaluate(file, POLE)
    with pytest.raises(UsageError, match="not a torch.nn.Module"):
        sf.evaluate(f"{file}@outside_nets:Lean", POLE)


class Evil:
    def __reduce__(self):
        return sys.exit, (7,)


def test_a_pickle_is_not_unpickled(tmp_path):
    file = tmp_path / "model.pt"
    torch.save(Evil(), file)
    with pytest.raises(UsageError, match="holds more than weights.*Save the state dict"):
        sf.evaluate(file, POLE, trust=True)
    file.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be read as a file of weights"):
        sf.evaluate(file, POLE)


# --- CleanRL: networks as its scripts write them ---


def tower(*sizes, activation=nn.Tanh):
    layers = [part for a, b in zip(sizes, sizes[1:]) for part in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1])


class Bounded(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(3, 8), nn.Linear(8, 8)
        self.add_module(last, nn.Linear(8, 1))
        self.last = last
        self.register_buffer("action_scale", torch.full((1, 1), 2.0))
        self.register_buffer("action_bias", torch.full((1, 1), 0.5))

    def forward(self, x):
        x = torch.relu(self.fc2(torch.relu(self.fc1(x))))
        return torch.tanh(getattr(self, self.last)(x)) * self.action_scale + self.action_bias


def holder(**parts):
    made = nn.Module()
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            made.add_module(name, part)
        else:
            made.register_buffer(name, part)
    return made


def convolutional():
    deep = [nn.Conv2d(4, 32, 8, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()]
    return nn.Sequential(*deep, nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU())


def cleanrl_cases():
    actor, mean, values = tower(4, 8, 8, 2), tower(3, 8, 8, 1), tower(4, 8, 8, 3, activation=nn.ReLU)
    atoms, spread = torch.linspace(-1, 1, 5), tower(4, 8, 8, 10, activation=nn.ReLU)
    bounded, soft = Bounded("fc_mu"), Bounded("fc_mean")
    body, head = convolutional(), nn.Linear(512, 6)
    pixels = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    three, log_std = spaces.Box(-8, 8, (3,)), torch.zeros(1, 1)

    def expected(x):
        return (spread(x).view(len(x), 2, 5).softmax(-1) * atoms).sum(-1)

    td3 = (bounded, tower(4, 8, 1))
    return {
        "ppo": ([holder(actor=actor, critic=tower(4, 8, 8, 1))], actor, VECTOR, TWO),
        "ppo, continuous": ([holder(actor_mean=mean, actor_logstd=log_std, critic=tower(3, 8, 1))], mean, three, BOX),
        "dqn": ([holder(network=values)], values, VECTOR, spaces.Discrete(3)),
        "c51": ([holder(network=spread, atoms=atoms)], expected, VECTOR, TWO),
        "td3": (td3, bounded, three, BOX),
        "sac": ([soft], soft, three, BOX),
        "ppo, atari": (
            [holder(network=body, actor=head, critic=nn.Linear(512, 1))],
            lambda x: head(body(x / 255.0)),
            pixels,
            spaces.Discrete(6),
        ),
    }


@pytest.mark.parametrize("name", cleanrl_cases())
def test_cleanrl_files_are_known_by_their_shapes(name, tmp_path):
    modules, network, observed, acting = cleanrl_cases()[name]
    file = tmp_path / "agent.cleanrl_model"
    saved = tuple(module.state_dict() for module in modules)
    torch.save(saved if len(saved) > 1 else saved[0], file)
    from surefoot.evaluate.foreign_cleanrl import module_of
    from surefoot.evaluate.foreign_weights import read_weights, state_dicts

    found = module_of(state_dicts(read_weights(file)))
    assert found is not None
    rng = np.random.default_rng(0)
    shape = (3, *observed.shape)
    seen = rng.integers(0, 255, shape) if observed.dtype == np.uint8 else rng.standard_normal(shape)
    x = torch.as_tensor(seen.astype(observed.dtype))
    with torch.no_grad():
        torch.testing.assert_close(found(x), network(x))
        policy = ModulePolicy(found, observed, acting)
        assert policy.predict(seen.astype(observed.dtype))[0].shape == (len(seen), *acting.shape)


def test_a_cleanrl_file_plays_and_is_attacked(tmp_path):
    file = tmp_path / "ppo.cleanrl_model"
    agent = holder(actor_mean=weights(tower(3, 8, 8, 1)), critic=tower(3, 8, 8, 1))
    torch.save(agent.state_dict(), file)
    with pytest.warns(UserWarning, match="does not say how its observations"):
        report = sf.stress(file, SWING, "obs-fgsm:0.3", episodes=2, points=2)
    assert not np.array_equal(report.returns[1], report.nominal_returns)


# --- names ---


def test_a_function_an_instance_and_a_class_by_name(capsys):
    wanted = sf.evaluate(lean, POLE, episodes=3)["returns"]
    for name in ("outside_nets:lean", "outside_nets:Lean", "outside_nets:Lean,gain=2.5", "outside_nets:lean,gain=2"):
        assert sf.evaluate(name, POLE, episodes=3)["returns"] == wanted
    assert isinstance(named("outside_nets:Lean,gain=-1"), Lean) and named("outside_nets:Lean,gain=-1").gain == -1
    cli.main(["evaluate", "outside_nets:lean", "--env", POLE, "--episodes", "3"])
    assert "mean return" in capsys.readouterr().out


def test_a_module_in_the_current_folder_is_found_from_the_shell(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine_here.py").write_text("def act(seen):\n    return (seen[:, 2] > 0).astype(int)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    cli.main(["stress", "mine_here:act", "--env", POLE, "--perturb", "action-delay:0..2", "--episodes", "2"])
    assert "worst" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("policy", "match"),
    [
        ("outside_nets:nothing", "cannot be imported"),
        ("no_such_module:act", "cannot be imported"),
        ("outside_nets:Lean,2", "every value needs a name"),
        ("outside_nets:Lean,gain=f(1)", "write module:name,key=value"),
        ("outside_nets:Lean,loss=1", "cannot be made: TypeError"),
        ("outside_nets:number", "cannot act"),
        ("outside_nets:Actor,outputs=7", "none is an action of Discrete"),
    ],
)
def test_names_that_name_no_policy(policy, match):
    with pytest.raises(UsageError, match=match):
        sf.evaluate(policy, POLE, episodes=1)


def test_the_environment_must_be_given_and_algo_belongs_to_stable_baselines3(tmp_path):
    with pytest.raises(UsageError, match="env is missing"):
        sf.evaluate("outside_nets:lean")
    with pytest.raises(UsageError, match="algo='ppo' is for the file of a Stable-Baselines3 model"):
        sf.evaluate(linear(tmp_path / "a.onnx"), POLE, algo="ppo")
    assert outside(tmp_path, POLE, None, False) is None

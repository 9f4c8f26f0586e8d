"""Agents: saved and loaded to the bit in every kind of space, damaged files refused, single and batched predictions."""

from __future__ import annotations

import json
import pickletools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces as gs
from safetensors.torch import load_file, save_file

from surefoot.errors import UsageError
from surefoot.models.agent import Agent, Network
from surefoot.models.functional import Flat
from surefoot.models.normalizers import normalize
from surefoot.models.observations import normalize_observation, normalized_keys, normalized_shapes

BOX, IMAGE = gs.Box(-2, 2, (3,)), gs.Box(0, 255, (16, 16, 3), np.uint8)
MASKED = gs.Dict({"action_mask": gs.MultiBinary(4), "in/out": gs.Box(-1, 1, (2,)), "room": gs.Discrete(3)})
SPACES = {
    "box": (BOX, gs.Box(-1, 1, (2,)), {}),
    "double": (gs.Box(-1, 1, (3,), np.float64), gs.Box(-1, 1, (2,), np.float64), {}),
    "squash": (BOX, gs.Box(np.float32([-1, 0]), np.float32([1, 9])), {"squash": True, "log_std_init": -1}),
    "discrete": (gs.Discrete(5), gs.Discrete(3, start=2), {"hidden": ()}),
    "multi": (gs.MultiDiscrete([2, 3]), gs.MultiDiscrete([2, 4], start=[1, -1]), {"critic_hidden": (7,)}),
    "binary": (gs.MultiBinary(4), gs.MultiBinary(2), {"shared": True, "activation": "relu"}),
    "masked": (MASKED, gs.Discrete(4), {}),
    "matrix": (gs.Dict(m=gs.Box(-1, 1, (2, 3)), n=gs.Box(0, 9, (4,), np.int64)), gs.Box(-1, 1, (2, 2)), {}),
    "scalar": (gs.Box(-1, 1, ()), gs.Box(-1, 1, ()), {"squash": True}),
    "image": (gs.Dict(eye=IMAGE, speed=BOX), gs.Discrete(2), {"cnn": "impala"}),
    "gru": (BOX, gs.Discrete(3), {"core": "gru", "core_size": 6}),
    "lstm": (MASKED, gs.Discrete(4), {"core": "lstm", "core_size": 4, "shared": True}),
}
each_space = pytest.mark.parametrize("kind", SPACES)


def make(kind: str, seed: int = 0) -> Agent:
    space, actions, settings = SPACES[kind]
    network, g = Network(**{"hidden": (8,), **settings}), torch.Generator().manual_seed(seed)
    vector = torch.randn(Flat(network.make(space, actions)).size, generator=g) / 3
    scales = {
        key: (torch.randn(shape, generator=g), torch.rand(shape, generator=g) + 0.5)
        for key, shape in normalized_shapes(space).items()
    }
    return Agent(network, space, actions, vector, scales, {"method": "none", "steps": 5})


def observations(space: gym.Space, count: int = 5, seed: int = 0):
    """A batch and the singles it is made of."""
    space.seed(seed)
    singles = [space.sample() for _ in range(count)]
    if isinstance(space, gs.Dict):
        for single in singles:
            if "action_mask" in single:
                single["action_mask"][0] = 1
        return {k: np.stack([s[k] for s in singles]) for k in space.spaces}, singles
    return np.stack(singles), singles


@each_space
def test_save_and_load_to_the_bit(kind, tmp_path):
    agent = make(kind)
    again = Agent.load(agent.save(tmp_path / "new" / "agent"))
    assert torch.equal(agent.vector, again.vector) and agent.network == again.network and agent.facts == again.facts
    assert (agent.observation_space, agent.action_space) == (again.observation_space, again.action_space)
    assert agent.scales.keys() == again.scales.keys() == normalized_keys(agent.observation_space).keys()
    for key, pair in agent.scales.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, again.scales[key], strict=True))
    batch, _ = observations(agent.observation_space)
    for deterministic in (True, False):
        results = []
        for each in (agent, again):
            torch.manual_seed(3)
            results.append(each.predict(batch, deterministic=deterministic))
        (a, state), (b, other) = results
        assert np.array_equal(a, b)
        assert state is other is None or np.array_equal(state, other)


@each_space
def test_actions_fit_the_space_alone_and_in_a_batch(kind):
    agent = make(kind)
    batch, singles = observations(agent.observation_space, 20)
    torch.manual_seed(0)
    drawn, _ = agent.predict(batch)
    assert len(drawn) == 20 and len(np.unique(drawn, axis=0)) > 1
    best, state = agent.predict(batch, deterministic=True)
    for i, single in enumerate(singles):
        alone, alone_state = agent.predict(single, deterministic=True)
        np.testing.assert_allclose(alone, best[i], rtol=1e-5, atol=1e-6)
        if state is not None:
            np.testing.assert_allclose(alone_state[0], state[i], rtol=1e-5, atol=1e-6)
        for action in (drawn[i], alone):
            assert agent.action_space.contains(np.asarray(action, agent.action_space.dtype))


def test_normalisation_is_applied_before_the_network():
    agent = make("box")
    batch, _ = observations(BOX)
    scaled = normalize(torch.from_numpy(batch), *agent.scales[""])
    with torch.no_grad():
        expected = agent.module.policy(scaled)[0][:, :2].clamp(-1, 1)
    np.testing.assert_allclose(agent.predict(batch, deterministic=True)[0], expected.numpy(), rtol=1e-5)


def test_what_is_normalised():
    assert normalized_keys(SPACES["image"][0]) == {"speed": 3}
    assert normalized_keys(MASKED) == {"in/out": 2}
    assert normalized_keys(BOX) == {"": 3} and normalized_keys(IMAGE) == {} == normalized_keys(gs.Discrete(3))
    others = {"m": gs.Box(0, 9, (2, 3)), "ram": gs.Box(0, 255, (4,), np.uint8), "n": gs.Box(0, 9, (), np.int64)}
    assert normalized_keys(gs.Dict(others)) == {"m": 6, "n": 1, "ram": 4}
    assert normalized_keys(gs.Dict(on=gs.Box(0, 1, (2,), bool), bits=gs.MultiBinary(3))) == {}
    x = {"a": torch.ones(2), "b": torch.ones(2)}
    got = normalize_observation(x, {"a": (torch.ones(2), torch.ones(2))})
    assert got["a"].tolist() == [0, 0] and got["b"] is x["b"]


def test_illegal_actions_are_never_predicted():
    agent = make("masked")
    batch, _ = observations(MASKED, 200)
    for deterministic in (True, False):
        actions, _ = agent.predict(batch, deterministic=deterministic)
        assert batch["action_mask"][np.arange(200), actions].all()


def test_actions_of_a_gaussian_are_clipped_to_the_box():
    agent = make("box")
    agent.vector.mul_(50)
    actions, _ = agent.predict(observations(BOX, 100)[0])
    assert np.abs(actions).max() == 1


def test_keys_may_come_in_any_order_and_with_others():
    agent = make("masked")
    batch, _ = observations(MASKED)
    mixed = {"extra": np.zeros((5, 9)), **dict(reversed(batch.items()))}
    assert np.array_equal(agent.predict(batch, deterministic=True)[0], agent.predict(mixed, deterministic=True)[0])


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_recurrent_prediction_carries_its_state_and_forgets_at_starts(kind):
    agent = make(kind)
    space = agent.observation_space
    steps = [observations(space, 3, seed)[0] for seed in range(5)]
    stacked = {k: torch.as_tensor(np.stack([s[k] for s in steps])) for k in steps[0]} if kind == "lstm" else None
    if stacked is None:
        stacked = torch.as_tensor(np.stack(steps))
    starts = torch.zeros(5, 3, dtype=torch.bool)
    starts[0], starts[2, 1] = True, True
    module = agent.module
    with torch.no_grad():
        scaled = normalize_observation(stacked, agent.scales)
        expected, last = module.policy(scaled, torch.zeros(3, module.core_state), starts)
    state = None
    for t, step in enumerate(steps):
        action, state = agent.predict(step, state, starts[t].numpy() if t else None, deterministic=True)
        assert np.array_equal(action, expected[t].argmax(-1))
        assert isinstance(state, np.ndarray) and state.shape == (3, module.core_state)
    np.testing.assert_allclose(state, last, rtol=1e-5, atol=1e-6)
    carried, _ = agent.predict(steps[0], state, np.zeros(3, bool)), None
    forgot = agent.predict(steps[0], state, np.ones(3, bool))
    fresh = agent.predict(steps[0])
    assert np.array_equal(forgot[1], fresh[1]) and not np.allclose(carried[1], fresh[1])


@pytest.mark.parametrize(
    ("kind", "observation", "message"),
    [
        ("box", np.zeros(4), r"has shape \(4,\); it must be \(3,\) or a batch"),
        ("box", np.zeros((5, 4)), r"has shape \(5, 4\); it must be \(3,\)"),
        ("box", np.zeros((2, 5, 3)), r"has shape \(2, 5, 3\); it must be \(3,\)"),
        ("box", np.float32(0), r"has shape \(\); it must be \(3,\)"),
        ("box", {"a": np.zeros(3)}, r"has shape \{'a': \(3,\)\}; it must be \(3,\)"),
        ("discrete", np.zeros((2, 2)), r"has shape \(2, 2\); it must be \(\)"),
        ("image", np.zeros(3), r"has shape \(3,\); it must be \{'eye': \(16, 16, 3\), 'speed': \(3,\)\}"),
        ("image", {"speed": np.zeros((1, 3))}, r"has shape \{'speed': \(1, 3\)\}; it must be \{'eye'"),
        ("image", {"speed": np.zeros((1, 3)), "eye": np.zeros((16, 16, 3))}, r"it must be \{'eye'"),
    ],
)
def test_a_wrong_shape_is_named_with_the_right_one(kind, observation, message):
    with pytest.raises(UsageError, match=message):
        make(kind).predict(observation)


def test_weights_of_another_size_are_refused():
    agent = make("box")
    with pytest.raises(UsageError, match=f"hold 3 numbers, the network needs {agent.flat.size}"):
        Agent(agent.network, agent.observation_space, agent.action_space, torch.zeros(3), {})


# --- files -----------------------------------------------------------------------------------------------------------


def test_nothing_is_pickled(tmp_path):
    folder = make("masked").save(tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["agent.json", "agent.safetensors"]
    json.loads((folder / "agent.json").read_text())
    raw = (folder / "agent.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])  # the format: a length, JSON, and numbers to the end
    assert max(e["data_offsets"][1] for k, e in header.items() if k != "__metadata__") == len(raw) - 8 - length
    with pytest.raises(ValueError):
        list(pickletools.genops(raw))


def edit_json(change):
    def damage(folder):
        path = folder / "agent.json"
        data = json.loads(path.read_text())
        path.write_text(json.dumps(change(data)))

    return damage


def edit_tensors(change):
    def damage(folder):
        tensors = load_file(folder / "agent.safetensors")
        change(tensors)
        save_file(tensors, folder / "agent.safetensors")

    return damage


def edit_space(**changes):
    return edit_json(lambda d: {**d, "observation_space": {**d["observation_space"], **changes}})


def cut(name: str, share: float):
    def damage(folder):
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[: int(len(raw) * share)])

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut("agent.safetensors", 0.7), "no readable agent"),
        (cut("agent.safetensors", 0.0), "no readable agent"),
        (cut("agent.json", 0.5), "no readable agent"),
        (lambda folder: (folder / "agent.json").unlink(), "no readable agent"),
        (lambda folder: (folder / "agent.safetensors").unlink(), "no readable agent"),
        (edit_json(lambda d: {"hello": 1}), "not a surefoot-agent-1 file"),
        (edit_json(lambda d: [1, 2]), "not a surefoot-agent-1 file"),
        (edit_json(lambda d: {**d, "format": "surefoot-agent-9"}), "not a surefoot-agent-1 file"),
        (edit_json(lambda d: {k: v for k, v in d.items() if k != "network"}), "agent.json is damaged.*network"),
        (edit_json(lambda d: {k: v for k, v in d.items() if k != "action_space"}), "agent.json is damaged.*action_sp"),
        (edit_json(lambda d: {**d, "network": 3}), "agent.json is damaged"),
        (edit_json(lambda d: {**d, "network": {**d["network"], "depth": 3}}), "no hyperparameter 'depth'"),
        (edit_json(lambda d: {**d, "network": {**d["network"], "hidden": [8, "x"]}}), "hidden=.* is not allowed"),
        (edit_json(lambda d: {**d, "network": {**d["network"], "hidden": [9]}}), "the wrong shape.*actor"),
        (edit_json(lambda d: {**d, "action_space": {"kind": "Text"}}), "damaged or of a newer version"),
        (edit_json(lambda d: {**d, "action_space": {"kind": "Discrete"}}), "agent.json is damaged"),
        (edit_json(lambda d: {**d, "network": {**d["network"], "hidden": [60_000] * 2}}), "describes a larger network"),
        (edit_json(lambda d: {**d, "network": {**d["network"], "hidden": [1] * 99}}), "describes a larger network"),
        (edit_json(lambda d: {**d, "network": {**d["network"], "hidden": [10**9]}}), r"hidden=.* is not allowed"),
        (edit_space(shape=[10**9]), r"it has 1000000000 entries, and \d+ are allowed"),
        (edit_space(shape=[-1]), "-1 is not a size"),
        (edit_space(low=[0.0, 0.0]), "agent.json is damaged.*could not be broadcast"),
        (edit_space(low=3.0), "a lower bound exceeds its upper one"),
        (edit_space(dtype="object"), "'object' is not a numeric type"),
        (edit_space(dtype="evil"), "agent.json is damaged"),
        (edit_json(lambda d: {**d, "action_space": {"kind": "Discrete", "n": -3, "start": 0}}), "-3 is not a size"),
        (edit_json(lambda d: {**d, "env": None}), "agent.json is damaged: env=None is not allowed"),
        (edit_json(lambda d: {**d, "env": {"env": 3}}), "agent.json is damaged: env="),
        (edit_json(lambda d: {**d, "seed": "\x1b[2J"}), r"agent.json is damaged: seed='\\x1b\[2J'"),
        (edit_json(lambda d: {**d, "steps": -1}), "agent.json is damaged: steps=-1"),
        (edit_json(lambda d: {**d, "format": ["surefoot-agent-1"]}), "not a surefoot-agent-1 file"),
        (edit_json(lambda d: {k: v for k, v in d.items() if k != "normalized"}), "agent.json is damaged.*normalized"),
        (edit_json(lambda d: {**d, "normalized": []}), r"has additional ones.*normalizer//mean"),
        (edit_json(lambda d: {**d, "normalized": ["", "speed"]}), r"\['speed'\]"),
        (edit_tensors(lambda t: (t.pop("normalizer//mean"), t.pop("normalizer//inverse_std"))), r"normalizer//mean"),
        (edit_tensors(lambda t: t.update({"normalizer/x/mean": torch.zeros(3)})), r"\['normalizer/x/mean'\]"),
        (edit_tensors(lambda t: t.update({"normalizer//mean": torch.zeros(2)})), r"\['normalizer//mean'\]"),
        (edit_tensors(lambda t: t.update({"more": torch.zeros(2, dtype=torch.int64)})), r"\['more'\]"),
        (edit_tensors(lambda t: t.update({k: x.double() for k, x in t.items()})), "the wrong shape or is not float32"),
        (edit_tensors(lambda t: t["weights/actor.output.bias"].fill_(float("nan"))), "numbers that are not finite"),
        (edit_tensors(lambda t: t["normalizer//mean"].fill_(float("inf"))), "numbers that are not finite"),
        (edit_tensors(lambda t: t.pop("weights/actor.output.bias")), r"lacks weights.*\['actor.output.bias'\]"),
        (edit_tensors(lambda t: t.update({"weights/critic.output.bias": torch.zeros(2)})), "critic.output.bias"),
        (edit_tensors(lambda t: t.pop("normalizer//inverse_std")), r"\['normalizer//inverse_std'\]"),
    ],
)
def test_damaged_or_foreign_files_are_refused(damage, message, tmp_path):
    folder = make("box").save(tmp_path)
    damage(folder)
    with pytest.raises(UsageError, match=message):
        Agent.load(folder)

"""Collected data are checked and counted: masks, infos, normalised entries, replays that verify themselves."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from forged import forge
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common import checkpoint
from surefoot.loops.common.collect import Seen

SETTINGS: dict[str, Any] = {"num_envs": 2, "num_steps": 32, "minibatch_size": 32, "epochs": 1, "hidden": (8,)}
SETTINGS |= {"loggers": (), "checkpoint_every": 64}


class Base(gymnasium.Env):
    observation_space: spaces.Space = spaces.Box(-np.inf, np.inf, (3,))
    action_space: spaces.Space = spaces.Discrete(2)
    length = 5

    def see(self):
        return self.np_random.standard_normal(3).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.see(), {}

    def step(self, action):
        self.t += 1
        return self.see(), 1.0, self.t == self.length, False, {}


def stop(learner, rows):
    return learner.iteration == 2


# --- a replay verifies itself ---


class Drifting(Base):
    """Answers otherwise once `drift` is set, in one way."""

    drift = ""

    def see(self):
        return super().see() + (Drifting.drift == "observations")

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        reward += Drifting.drift == "rewards"
        truncated = Drifting.drift == "ends" and terminated
        return observation, reward, terminated and not truncated, truncated, info


@pytest.fixture
def cut(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(Drifting, "drift", "")
    return sf.train("ppo", Drifting, 192, run_dir=tmp_path / "run", callbacks=stop, **SETTINGS).path


@pytest.mark.parametrize("what", ["observations", "rewards", "ends"])
def test_a_replay_that_arrives_elsewhere_is_refused(cut, monkeypatch, what):
    monkeypatch.setattr(Drifting, "drift", what)
    with pytest.raises(UsageError, match=f"first 64 steps of the run with other {what} than when.*not reproducible"):
        sf.resume(cut, env=Drifting)
    monkeypatch.setattr(Drifting, "drift", "")
    assert sf.resume(cut, env=Drifting).finished


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_flipped_byte_in_the_log_of_actions_is_found(cut, place):
    log = cut / "actions.bin"
    data = bytearray(log.read_bytes())
    data[place] ^= 1
    log.write_bytes(data)
    with pytest.raises(UsageError, match="does not hold the actions of this checkpoint's first 64 steps"):
        sf.resume(cut, env=Drifting)


def rewritten(run: Path, change) -> None:
    """The newest checkpoint with other tensors, its checksum made anew."""
    place = checkpoint.latest(run)
    assert place is not None
    state = load_file(place / "state.safetensors")
    change(state)
    save_file(state, place / "state.safetensors")
    forge(place, sha256=hashlib.sha256((place / "state.safetensors").read_bytes()).hexdigest(), meta_sha256="")


def test_a_run_of_an_older_version_is_resumed_without_comparison(cut):
    rewritten(cut, lambda state: state.pop("replay/sums"))
    assert sf.resume(cut, env=Drifting).finished


def test_a_counter_that_was_changed_is_found(cut):
    place = checkpoint.latest(cut)
    assert place is not None
    forge(place, logged=32, meta_sha256="")
    with pytest.raises(UsageError, match="first 32 steps"):
        sf.resume(cut, env=Drifting)


@settings(max_examples=30)
@given(st.integers(1, 6), st.lists(st.integers(1, 5), max_size=3), st.booleans())
def test_sums_do_not_depend_on_how_the_steps_were_cut(steps, cuts, several):
    rng = np.random.default_rng(steps)
    rewards, ends = rng.random((steps, 2), np.float32), rng.random((steps, 2, 2)) < 0.5
    observation: Any = rng.random((steps, 2, 3), np.float32)
    observation = {"b": observation, "a": ends[:, 0]} if several else observation

    def taken(t: slice) -> Any:
        return {k: x[t] for k, x in observation.items()} if several else observation[t]

    whole, pieces = Seen(), Seen()
    whole.add(observation, rewards=rewards, ends=ends)
    edges = [0, *sorted({min(c, steps) for c in cuts}), steps]
    for a, b in zip(edges, edges[1:]):
        pieces.add(taken(slice(a, b)), rewards=rewards[a:b], ends=ends[a:b])
    assert torch.equal(whole.sums(), pieces.sums()) and whole.sums().shape == (4, 32)
    rewards[-1, -1] += 1
    other = Seen()
    other.add(observation, rewards=rewards, ends=ends)
    differ = (other.sums() != whole.sums()).any(1).tolist()
    assert differ == [False, False, True, False]


# --- masks ---


class Masked(Base):
    """Its mask forbids everything at step `stuck` of an episode."""

    observation_space = spaces.Dict(x=spaces.Box(-1, 1, (1,)), action_mask=spaces.MultiBinary(2))

    def __init__(self, stuck: int):
        self.stuck = stuck

    def see(self):
        allowed = getattr(self, "t", 0) != self.stuck
        return {"x": np.zeros(1, np.float32), "action_mask": np.array([0, allowed], np.int8)}

    def step(self, action):
        assert action == 1
        return super().step(action)


def test_a_mask_that_forbids_everything_is_named_where_an_action_is_asked_for(tmp_path):
    with pytest.raises(UsageError, match="the action mask of environment 0 at step 3 forbids every action of Discrete"):
        sf.train("ppo", Masked, 64, run_dir=tmp_path / "stuck", env_kwargs={"stuck": 3}, **SETTINGS)
    run = sf.train("ppo", Masked, 64, run_dir=tmp_path / "run", env_kwargs={"stuck": 5}, **SETTINGS)  # its last may
    assert sf.evaluate(run.path, episodes=3)["returns"] == [5.0] * 3

    def first(observations):
        return np.ones(len(observations["x"]), int)

    with pytest.raises(UsageError, match="action mask at step 3 of the episode with seed .* forbids every action"):
        sf.evaluate(first, lambda: Masked(3), episodes=2)
    with pytest.raises(UsageError, match="'action_mask' of observation 1 forbids every action"):
        run.agent().predict({"x": np.zeros((2, 1), np.float32), "action_mask": np.array([[1, 0], [0, 0]], np.int8)})


# --- infos ---


class Telling(Base):
    """Succeeds in episodes whose first observation is positive."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.good = bool(observation[0] > 0)
        return observation, info

    def step(self, action):
        *answer, _ = super().step(action)
        return *answer, {"is_success": self.good, "cost": 2.0 + self.good, "text": "x"}


@pytest.mark.parametrize("backend", ["gymnasium", "process"])
def test_success_and_own_figures_are_in_the_rows_of_each_seed(tmp_path, backend):
    run = sf.train("ppo", Telling, 128, run_dir=tmp_path / "run", backend=backend, num_seeds=2, **SETTINGS)
    rows = run.metrics()
    rates = [row["success_rate"] for row in rows]
    assert len({*rates}) > 1 and all(0 <= rate <= 1 for rate in rates)
    for row in rows:
        assert row["info/cost"] == pytest.approx(2 + row["success_rate"]) and "info/text" not in row
        assert row["length_mean"] == 5
    alone = sf.train("ppo", Telling, 128, seed=1, run_dir=tmp_path / "alone", backend=backend, **SETTINGS).metrics()
    assert [row["success_rate"] for row in alone] == rates[1::2]


def test_infos_of_envpool_reach_the_rows(tmp_path):
    run = sf.train("ppo", "Hopper-v5", 512, run_dir=tmp_path / "run", backend="envpool", **SETTINGS)
    assert any("info/x_position" in row for row in run.metrics())
    assert not any("elapsed" in name for row in run.metrics() for name in row)


# --- what is normalised, and what is out of reach ---


class Far(Base):
    """Six numbers far from 0, in a shape of their own; the action pays that says if the first is above its mean."""

    def __init__(self, shape: tuple[int, ...] = (6,), dtype: str = "float32"):
        self.observation_space = spaces.Box(-10000, 10000, tuple(shape), np.dtype(dtype).type)

    def see(self):
        self.x = self.np_random.standard_normal(6) * 50 + 5000
        return self.x.astype(self.observation_space.dtype).reshape(self.observation_space.shape)

    def step(self, action):
        good = float(action == (self.x[0] > 5000))
        observation, _, *rest = super().step(action)
        return observation, good, *rest


def test_numbers_are_normalised_alike_in_every_shape(tmp_path):
    rows, scales = [], []
    for shape in ((6,), (3, 2), (1, 6), (2, 1, 3)):
        run = sf.train("ppo", Far, 192, run_dir=tmp_path / str(shape), env_kwargs={"shape": shape}, **SETTINGS)
        rows.append([row["return_mean"] for row in run.metrics()])
        agent = sf.load(run.path)
        assert agent.scales[""][0].shape == shape
        scales.append(agent.scales[""][0].flatten())
        x = np.full((1, *shape), 5000.0, np.float32)
        assert agent.predict(x)[0].shape == (1,)
    assert all(other == rows[0] for other in rows[1:])
    assert all(torch.equal(other, scales[0]) for other in scales[1:]) and abs(scales[0].mean() - 5000) < 20


def test_whole_numbers_are_normalised(tmp_path):
    kwargs = {"shape": (6,), "dtype": "int64"}
    run = sf.train("ppo", Far, 64, run_dir=tmp_path / "run", env_kwargs=kwargs, **SETTINGS)
    assert abs(float(sf.load(run.path).scales[""][0].mean()) - 5000) < 30


def test_a_matrix_run_of_an_older_version_goes_on_unnormalised(tmp_path):
    kwargs = {"shape": (3, 2)}
    run = sf.train("ppo", Far, 192, run_dir=tmp_path / "run", env_kwargs=kwargs, callbacks=stop, **SETTINGS)
    rewritten(run.path, lambda state: [state.pop(k) for k in [*state] if k.startswith("observations/")])
    assert sf.resume(run.path).finished and sf.load(run.path).scales == {}


class Valve(Base):
    def __init__(self, low: float, high: float, shape: tuple[int, ...] = (1,)):
        self.action_space = spaces.Box(low, high, tuple(shape))

    def step(self, action):
        assert isinstance(action, np.ndarray) and self.action_space.contains(action)
        return super().step(action)


@pytest.mark.parametrize(
    ("low", "high", "options", "told"),
    [
        (0, 1000, {}, True),
        (-1000, -990, {}, True),
        (0, 1000, {"squash": True}, False),
        (0, 1000, {"log_std_init": 5.0}, False),
        (-1, 1, {}, False),
        (-np.inf, np.inf, {}, False),
    ],
)
def test_a_box_out_of_the_first_policy_s_reach_is_told(tmp_path, low, high, options, told):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        kwargs = {"env_kwargs": {"low": low, "high": high}, **options, **SETTINGS}
        sf.train("ppo", Valve, 64, run_dir=tmp_path / "run", **kwargs)
    assert any("squash=True" in str(w.message) for w in said) == told


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("shape", [(2, 2), ()])
def test_actions_of_any_shape(tmp_path, shape, squash):
    kwargs = {"low": -2.0, "high": 1.0, "shape": shape}
    about = {"env_kwargs": kwargs, "squash": squash, **SETTINGS}
    cut = sf.train("ppo", Valve, 192, run_dir=tmp_path / "cut", callbacks=stop, **about)
    assert sf.resume(cut.path).finished
    whole = sf.train("ppo", Valve, 192, run_dir=tmp_path / "whole", **about)
    assert torch.equal(sf.load(cut.path).vector, sf.load(whole.path).vector)
    assert sf.evaluate(cut.path, episodes=2)["returns"] == [5.0, 5.0]
    if shape:  # a perturbed action of no axes is a scalar
        assert sf.stress(cut.path, perturb="action-delay:0..1", episodes=1, points=2).returns.shape == (2, 1)

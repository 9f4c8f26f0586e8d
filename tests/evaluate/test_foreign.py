"""Stable-Baselines3 models: all that they keep beside their network, in memory and in their file."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import surefoot as sf
from surefoot.envs import make_single
from surefoot.errors import UsageError
from surefoot.evaluate.foreign import SB3Policy, as_policy, load_zip
from surefoot.evaluate.rollout import episode_seeds, returns

sb3 = pytest.importorskip("stable_baselines3")
from stable_baselines3.common import vec_env  # noqa: E402


class Far(gymnasium.ObservationWrapper):
    """CartPole with sensors that are shifted and scaled, so that nothing works without normalisation."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1", max_episode_steps=80))
        self.observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def observation(self, observation):
        return (np.asarray(observation) * 100 + 1000).astype(np.float32)


class Picture(gymnasium.Env):
    """Pictures of noise whose brighter half says which action pays: channels last, or also with a vector."""

    action_space = spaces.Discrete(2)

    def __init__(self, both: bool = False):
        image = spaces.Box(0, 255, (40, 44, 3), np.uint8)
        self.both = both
        self.observation_space = spaces.Dict(image=image, vector=spaces.Box(-1, 1, (2,))) if both else image

    def _see(self):
        image = self.np_random.integers(0, 255, (40, 44, 3), np.uint8)
        return {"image": image, "vector": self.np_random.random(2, np.float32)} if self.both else image

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._see(), {}

    def step(self, action):
        self.time += 1
        return self._see(), float(action), self.time == 5, False, {}


def by_hand(env, seeds, act) -> list[float]:
    """Returns of single episodes; `act(observation, first)` gives one action."""
    totals = []
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        total, done, first = 0.0, False, True
        while not done:
            observation, reward, terminated, truncated, _ = env.step(act(observation, first))
            total, done, first = total + float(reward), terminated or truncated, False
        totals.append(total)
    return totals


def varied(model):
    """A model whose weights make it act differently on different observations."""
    with torch.no_grad():
        for x in model.policy.parameters():
            x.add_(0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))
    return model


def ppo(env, policy="MlpPolicy", **options):
    return varied(sb3.PPO(policy, env, n_steps=8, batch_size=8, seed=0, device="cpu", **options))


def scaled(frames: int = 1):
    """Vector environments that have seen something, so that their statistics are not those of the start."""
    inner = vec_env.VecNormalize(vec_env.DummyVecEnv([Far] * 2), norm_reward=False)
    venv = vec_env.VecFrameStack(inner, frames) if frames > 1 else inner
    venv.reset()
    for _ in range(60):
        venv.step(np.array([0, 1]))
    return venv, inner


@pytest.mark.parametrize("frames", [1, 3])
def test_normalisation_and_frames_of_the_training_environment_are_brought_along(frames):
    venv, statistics = scaled(frames)
    model, before = ppo(venv), statistics.obs_rms.mean.copy()
    stack = np.zeros((1, 4 * frames), np.float32)

    def act(observation, first):
        nonlocal stack
        stack = np.zeros_like(stack) if first else stack
        stack = np.concatenate([stack[:, 4:], statistics.normalize_obs(observation[None])], 1)
        return int(model.predict(stack, deterministic=True)[0][0])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        played = returns(model, Far, 7, 3, slots=3)
    assert played.tolist() == by_hand(Far(), episode_seeds(3, 7), act)
    raw = by_hand(Far(), episode_seeds(3, 7), lambda o, first: int(np.argmax(o[:2])))
    assert played.tolist() != raw
    np.testing.assert_array_equal(statistics.obs_rms.mean, before)  # nothing is learned by playing


@pytest.mark.parametrize("both", [False, True])
def test_images_are_taken_with_their_channels_last(both):
    model = ppo(Picture(both), "MultiInputPolicy" if both else "CnnPolicy")
    played = returns(model, lambda: Picture(both), 3, 1, slots=2)

    def act(observation, first):
        return int(model.predict(observation, deterministic=True)[0])

    assert played.tolist() == by_hand(Picture(both), episode_seeds(1, 3), act)


def test_an_entry_taken_out_of_a_dict_is_taken_out():
    venv = vec_env.VecExtractDictObs(vec_env.DummyVecEnv([lambda: Picture(True)]), "vector")
    model = ppo(venv)
    played = returns(model, lambda: Picture(True), 3, 1, slots=2)

    def act(observation, first):
        return int(model.predict(observation["vector"], deterministic=True)[0])

    assert played.tolist() == by_hand(Picture(True), episode_seeds(1, 3), act)


def test_noise_comes_before_the_normalisation(tmp_path):
    venv, _ = scaled()
    clean = returns(model := ppo(venv), Far, 8, 3)
    assert not np.array_equal(returns(model, Far, 8, 3, "observation-noise:300"), clean)
    report = sf.stress(model, Far, "observation-noise:0..300", points=2, episodes=8, seed=3)
    np.testing.assert_array_equal(report.returns[0], clean)
    assert report.policy == "PPO"


class Masked(gymnasium.Env):
    """Only one action is allowed at a time; another one ends the episode with a fine."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.allowed = 0, int(self.np_random.integers(4))
        return np.zeros(2, np.float32), {}

    def action_masks(self):
        return np.arange(4) == self.allowed

    def step(self, action):
        right, self.time = int(action) == self.allowed, self.time + 1
        self.allowed = int(self.np_random.integers(4))
        return np.zeros(2, np.float32), 1.0 if right else -9.0, not right or self.time == 6, False, {}


class Maskable(sb3.common.base_class.BaseAlgorithm):
    """The part of sb3-contrib's MaskablePPO that is asked here: it takes masks, and plays the first allowed action."""

    def __init__(self):
        self.env, self.observation_space, self.action_space = None, Masked.observation_space, Masked.action_space

    def _setup_model(self): ...

    def learn(self): ...

    def predict(self, observation, state=None, episode_start=None, deterministic=False, action_masks=None):
        assert observation.shape[1:] == (2,)
        masks = np.ones((len(observation), 4), bool) if action_masks is None else action_masks
        assert masks.dtype == bool
        return masks.argmax(1), state


@pytest.mark.filterwarnings("ignore:This Maskable was loaded")
def test_masks_come_from_the_environment():
    for env in (Masked, lambda: sf.envs.wrap(Masked(), ["action_mask"])):
        assert returns(Maskable(), env, 5, slots=2).tolist() == [6] * 5
    assert returns(Maskable(), Masked, 3, perturbation="observation-noise:0.1").tolist() == [6] * 3
    with pytest.raises(UsageError, match="does not allow all actions"):
        returns(Maskable(), Masked, 1, perturbation="action-random:0.5")
    unmasked = type("Unmasked", (Masked,), {"action_masks": property()})
    with pytest.warns(UserWarning, match="plays without masks"):
        returns(Maskable(), unmasked, 1)


def test_what_cannot_be_known_is_said(tmp_path):
    ppo(scaled()[0]).save(tmp_path / "m.zip")
    model = sb3.PPO.load(tmp_path / "m.zip", device="cpu")
    with pytest.warns(UserWarning, match="loaded without its environment.*VecNormalize.*set_env"):
        returns(model, Far, 1)
    model.set_env(scaled()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returns(model, Far, 1)
    with pytest.warns(UserWarning, match="trained inside Far, which this environment does not have"):
        returns(model, "CartPole-v1", 1)

    class Odd(vec_env.VecEnvWrapper):
        def reset(self):
            return self.venv.reset()

        def step_wait(self):
            return self.venv.step_wait()

    with pytest.warns(UserWarning, match="trained inside Odd, which is not known here"):
        returns(ppo(Odd(vec_env.DummyVecEnv([Far]))), Far, 1)


# --- files -----------------------------------------------------------------------------------------------------------

CNN = {"features_extractor_kwargs": {"features_dim": 16}}
SAVED = {
    "ppo": ("CartPole-v1", "MlpPolicy", {"policy_kwargs": {"activation_fn": torch.nn.ReLU, "net_arch": [8]}}),
    "a2c": ("CartPole-v1", "MlpPolicy", {}),
    "dqn": ("CartPole-v1", "MlpPolicy", {"buffer_size": 10}),
    "sac": ("Pendulum-v1", "MlpPolicy", {"buffer_size": 10, "policy_kwargs": {"net_arch": [8]}}),
    "td3": ("Pendulum-v1", "MlpPolicy", {"buffer_size": 10, "policy_kwargs": {"net_arch": [8]}}),
    "images": (Picture, "CnnPolicy", {"n_steps": 8, "batch_size": 8, "policy_kwargs": CNN}),
}


@pytest.mark.filterwarnings("ignore:The model in", "ignore:This .* was loaded")
@pytest.mark.parametrize("algo", SAVED)
def test_a_file_plays_as_the_model_that_wrote_it_without_unpickling(algo, tmp_path, monkeypatch):
    env, policy, options = SAVED[algo]
    made = env() if callable(env) else env
    model = varied(
        getattr(sb3, {"images": "PPO"}.get(algo, algo.upper()))(policy, made, seed=0, device="cpu", **options)
    )
    model.save(tmp_path / "model.zip")
    expected = returns(model, env, 3, 2, slots=2)
    monkeypatch.setattr("cloudpickle.loads", lambda *a, **k: pytest.fail("it was unpickled"))
    monkeypatch.setattr("pickle.loads", lambda *a, **k: pytest.fail("it was unpickled"))
    name = None if algo == "images" else algo
    np.testing.assert_array_equal(returns(load_zip(tmp_path / "model.zip", env, name), env, 3, 2, slots=2), expected)
    assert sf.evaluate(tmp_path / "model.zip", env, 3, seed=2, algo=name)["returns"] == pytest.approx(
        returns(model, env, 3, 2).tolist()
    )
    drawn = [returns(m, env, 2, 5, deterministic=False) for m in (model, load_zip(tmp_path / "model.zip", env, name))]
    np.testing.assert_array_equal(*drawn)


class Own(sb3.common.policies.ActorCriticPolicy):
    """A policy of one's own."""


class Loud(torch.nn.Tanh):
    """An activation of one's own."""


@pytest.fixture
def saved(tmp_path) -> Path:
    ppo(Far()).save(tmp_path / "model.zip")
    return tmp_path / "model.zip"


@pytest.mark.filterwarnings("ignore:This .* was loaded")
@pytest.mark.parametrize(
    ("policy", "options", "words"),
    [
        (Own, {}, "its policy is a class of its own"),
        ("MlpPolicy", {"activation_fn": Loud}, "its policy has activation_fn=.*Loud"),
    ],
)
def test_what_can_only_be_unpickled_needs_trust(policy, options, words, tmp_path):
    path = tmp_path / "own.zip"
    model = ppo("CartPole-v1", policy, policy_kwargs=options)
    model.save(path)
    with pytest.raises(UsageError, match=rf"runs whatever code it holds: {words}.*trust=True"):
        sf.evaluate(path, "CartPole-v1", 1, algo="ppo")
    played = sf.evaluate(path, "CartPole-v1", 3, algo="ppo", trust=True)["returns"]
    assert played == sf.evaluate(model, "CartPole-v1", 3)["returns"]
    with pytest.raises(UsageError, match="algo is missing"):
        sf.evaluate(path, "CartPole-v1", 1, trust=True)


def test_statistics_beside_the_file_are_read_with_trust_only(tmp_path):
    venv, statistics = scaled()
    model = ppo(venv)
    model.save(tmp_path / "model.zip")
    statistics.save(tmp_path / "vecnormalize.pkl")
    with pytest.raises(UsageError, match="vecnormalize.pkl beside model.zip .* normalised .*trust=True"):
        sf.evaluate(tmp_path / "model.zip", Far, 1, algo="ppo")
    played = sf.evaluate(tmp_path / "model.zip", Far, 5, algo="ppo", trust=True)["returns"]
    assert played == sf.evaluate(model, Far, 5)["returns"]


def test_of_a_file_it_is_said_that_normalisation_is_unknown(saved):
    with pytest.warns(UserWarning, match="it is unknown whether its observations were normalised"):
        sf.stress(saved, Far, "observation-noise:1", algo="ppo", points=2, episodes=2)


def rewritten(path: Path, **changed) -> Path:
    """A copy of a model's file with other entries in its data."""
    copy = path.with_name("copy.zip")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, json.dumps({**json.loads(data), **changed}) if name == "data" else data)
    return copy


@pytest.mark.filterwarnings("ignore:The model in")
def test_files_that_do_not_fit_are_refused(saved):
    evil = {"__module__": "os", "__init__": "<function system.__init__ at 0x1>"}
    cases = [
        (lambda: sf.evaluate(saved, algo="ppo"), "env is missing"),
        (lambda: sf.evaluate(saved, Far, algo="pppo"), "algo='pppo' is not known. Did you mean 'ppo'"),
        (lambda: sf.evaluate(saved, Far, algo="sac"), "holds a ActorCriticPolicy, which is not a policy of that"),
        (lambda: sf.evaluate(saved, "Pendulum-v1"), r"observation_space of shape \[4\]; the environment has Box"),
        (lambda: sf.evaluate(saved, lambda: Masked()), "observation_space of shape"),
        (lambda: sf.evaluate(lambda o: o, Far, algo="ppo"), "is not a file"),
        (lambda: load_zip(rewritten(saved, policy_class=evil), Far), "class of its own"),
        (lambda: load_zip(rewritten(saved, policy_class="x"), Far), "names no policy class"),
        (lambda: load_zip(rewritten(saved, policy_kwargs={"net_arch": [3]}), Far), "weights do not fit"),
        (lambda: load_zip(rewritten(saved, policy_kwargs={"nope": 1}), Far), "cannot be made"),
        (lambda: load_zip(rewritten(saved, policy_kwargs={"a": "<class 'os.system'>"}), Far), "a=<class 'os.system'>"),
    ]
    for call, words in cases:
        with pytest.raises(UsageError, match=words):
            call()


def test_an_action_box_of_other_bounds_is_refused(tmp_path):
    varied(sb3.SAC("MlpPolicy", "Pendulum-v1", device="cpu", buffer_size=10)).save(tmp_path / "m.zip")

    class Weak(gymnasium.Wrapper):
        action_space = spaces.Box(-1, 1, (1,))

    with pytest.raises(UsageError, match=r"action_space of low \[-2.\], high \[2.\]"):
        load_zip(tmp_path / "m.zip", lambda: Weak(make_single("Pendulum-v1")))


def test_a_library_that_would_unpickle_weights_is_not_asked(saved, monkeypatch):
    for old, refused in (("2.7.1", True), ("2.8.0", False), ("2.10.0a1", False)):
        monkeypatch.setattr("surefoot.evaluate.foreign.version", lambda name, old=old: old)
        if refused:
            with pytest.raises(UsageError, match="so does the installed Stable-Baselines3 2.7.1 with weights"):
                load_zip(saved, Far)
        else:
            with pytest.warns(UserWarning, match="it is unknown"):
                load_zip(saved, Far)


@pytest.mark.parametrize("damage", ["empty", "half", "no weights", "pickle"])
def test_damaged_files_end_in_one_paragraph(saved, damage, tmp_path):
    path, whole = tmp_path / "d.zip", saved.read_bytes()
    path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2]}.get(damage, whole))
    if damage in ("no weights", "pickle"):
        buffer = io.BytesIO()
        torch.save(Loud(), buffer)
        with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
            new.writestr("data", old.read("data"))
            if damage == "pickle":
                new.writestr("policy.pth", buffer.getvalue())
    with pytest.raises(UsageError, match="cannot be read as a model of Stable-Baselines3"):
        sf.evaluate(path, Far, 1, algo="ppo")


def test_anything_else_is_no_model():
    for thing in (lambda o: o, object(), sf):
        assert as_policy(thing, make_single("CartPole-v1")) is thing
    policy = as_policy(ppo("CartPole-v1"), make_single("CartPole-v1"))
    assert isinstance(policy, SB3Policy) and as_policy(policy, make_single("CartPole-v1")) is policy

"""Smoothed policies in evaluation, and the certificate of one: what is played, what is said, what is refused."""

from __future__ import annotations

import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.stats import norm

import surefoot as sf
from surefoot.cli import main
from surefoot.errors import UsageError
from surefoot.evaluate.acting import Smoothed
from surefoot.evaluate.certificates import certified_mean, survival
from surefoot.evaluate.certify import certify
from surefoot.evaluate.rollout import returns
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.dqn import DQN
from surefoot.methods.robust.policy_smoothing import PolicySmoothing
from surefoot.models.saved import load_agent
from surefoot.models.smoothing import noisy

STEPS = 6


class Shown(gym.Env):
    """Shows `where`, and pays 1 for action 1 at each of six steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, where=0.5, shape=(1,)):
        self.where, self.shape = where, shape
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.full(self.shape, self.where, np.float32), {}

    def step(self, action):
        self.time += 1
        over = self.time == STEPS
        return np.full(self.shape, self.where, np.float32), float(action), over, False, {"is_success": action == 1}


def sign(observation):
    return (observation[:, 0] > 0).astype(int)


def learned(method, steps=64):
    learner = make_learner(method, "CartPole-v1", [0], 10_000)
    while learner.steps < steps:
        learner.iterate()
    agent = learner.agent(0, method="policy-smoothing", env={"env": "CartPole-v1"}, seed=0, steps=learner.steps)
    learner.close()
    return agent


# --- noise -----------------------------------------------------------------------------------------------------------


def test_noise_has_its_deviation_and_is_fresh_for_every_row_and_step():
    torch.manual_seed(0)
    drawn = noisy(np.zeros((20_000, 3), np.float32), 0.3)
    assert drawn.dtype == np.float32 and drawn.std(0) == pytest.approx([0.3] * 3, rel=0.03)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.03
    again = noisy(np.zeros((20_000, 3), np.float32), 0.3)
    assert abs(np.corrcoef(drawn[:, 0], again[:, 0])[0, 1]) < 0.03


def test_integers_are_rounded_within_their_limits_and_a_mask_stays():
    image = noisy(np.full((2000, 2), 250, np.uint8), 20.0)
    assert image.dtype == np.uint8 and image.max() == 255 and 225 < image.mean() < 255
    seen = noisy({"where": np.zeros((4, 1)), "action_mask": np.ones((4, 2), np.int8)}, 1.0, ("where",))
    assert (seen["action_mask"] == 1).all() and (seen["where"] != 0).all()


def test_a_smoothed_policy_errs_as_often_as_its_noise_says():
    scores = returns(Smoothed(sign, 0.5), Shown, 2000, 3, slots=100)
    assert scores.mean() / STEPS == pytest.approx(norm.cdf(1), abs=4 * 0.366 / 12_000**0.5)
    assert np.array_equal(scores, returns(Smoothed(sign, 0.5), Shown, 2000, 3, slots=100))
    assert returns(sign, Shown, 3).tolist() == [STEPS] * 3


def test_stress_takes_a_smoothed_policy():
    report = sf.stress(Smoothed(sign, 0.5), Shown, "observation-noise:0..1", episodes=40, points=2)
    assert "smoothed with sigma 0.5" in report.policy
    assert report.nominal / STEPS == pytest.approx(norm.cdf(1), abs=0.1)
    assert report.worst / STEPS == pytest.approx(norm.cdf(0.5 / 1.25**0.5), abs=0.1)


def test_a_model_of_stable_baselines_is_smoothed_before_its_normalisation():
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    venv = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    model = sb3.PPO("MlpPolicy", venv, n_steps=64, batch_size=64, n_epochs=1, seed=0, device="cpu").learn(64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = certify(model, "CartPole-v1", sigma=0.1, episodes=10)
    assert found.size == 4 and found.mean[0] <= found.returns.mean()


# --- agents that smooth themselves -----------------------------------------------------------------------------------


def test_an_agent_trained_smoothed_stays_so(tmp_path):
    method = PolicySmoothing(sigma=1, num_envs=2, num_steps=16, minibatch_size=16, epochs=1, hidden=(4,))
    agent = learned(method)
    agent.save(tmp_path)
    kept = load_agent(tmp_path)
    assert kept.facts["smoothing"] == 1.0
    many = np.zeros((200, 4), np.float32)
    torch.manual_seed(1)
    actions = kept.predict(many, deterministic=True)[0]
    torch.manual_seed(1)
    assert len({*actions}) == 2 and np.array_equal(agent.predict(many, deterministic=True)[0], actions)
    with pytest.raises(UsageError, match="adds noise of sigma=1 itself"):
        Smoothed(agent, 0.2)
    text = (tmp_path / "agent.json").read_text()
    for damaged in ("-1.0", "NaN", "1", '"a"'):
        (tmp_path / "agent.json").write_text(text.replace('"smoothing": 1.0', f'"smoothing": {damaged}'))
        with pytest.raises(UsageError, match="smoothing"):
            load_agent(tmp_path)


def test_training_sees_the_noise_after_every_other_perturbation():
    method = PolicySmoothing(sigma=3.0, num_envs=4, num_steps=64, minibatch_size=64, epochs=1, hidden=(4,))
    learner = make_learner(method, "CartPole-v1", [0], 10_000, perturb="observation-dropout:1")
    seen = learner.collect(learner.vector).observation
    learner.close()
    assert float(seen.std()) == pytest.approx(3.0, rel=0.1)


def test_an_off_policy_method_can_smooth_as_well():
    class SmoothedDQN(DQN):
        @property
        def smoothing(self):
            return 0.5

    agent = learned(SmoothedDQN(batch_size=8, learning_starts=8, log_every=32, hidden=(4,)))
    assert agent.facts["smoothing"] == 0.5


# --- the certificate -------------------------------------------------------------------------------------------------


def test_a_certificate_says_what_its_returns_certify():
    found = certify(Smoothed(sign, 0.5).policy, Shown, sigma=0.5, episodes=300, budgets=[0, 0.5], grid=range(1, 7))
    by_hand = survival(found.returns, thresholds=np.arange(1, 7))
    assert found.mean == pytest.approx([certified_mean(by_hand, shift) for shift in (0, 1)])
    truth = STEPS * norm.cdf(1 - 1 / STEPS**0.5)  # a constant attack of 0.5/√6 a step
    assert 0 < found.mean[1] < truth < found.mean[0] < found.returns.mean()
    assert found.success is not None and found.success[0] < found.successes / 300  # type: ignore[operator]
    table = found.table()
    for words in ("P[success] >=", "mean >=", "95% confidence", "over the whole episode", "δ·√(steps·1)", "Not said"):
        assert words in table
    kept = json.loads(found.to_json())
    assert kept["bounds"]["mean"] == found.mean and len(kept["returns"]) == 300


def test_stacked_frames_are_told_of():
    found = certify(
        lambda seen: (seen[:, -1, 0] > 0).astype(int),
        lambda: gym.wrappers.FrameStackObservation(Shown(), 3),
        sigma=0.5,
        episodes=20,
    )
    assert found.stacked == 3 and found.size == 3 and "3 stacked frames" in found.table()


def test_the_command_certifies_a_run_and_keeps_the_certificate(tmp_path, capsys):
    settings = {"num_envs": 2, "num_steps": 16, "minibatch_size": 16, "epochs": 1, "hidden": (4,), "loggers": ()}
    run = sf.train("policy-smoothing", "CartPole-v1", 64, run_dir=tmp_path / "run", sigma=0.3, **settings)
    main(["certify", str(run.path), "--episodes", "20", "--budgets", "0", "0.1", "--at-least", "5"])
    said = capsys.readouterr().out
    assert "noise of sigma=0.3" in said and "P[R >= 5] >=" in said
    kept = json.loads((run.path / "certificate-0.3.json").read_text())
    assert kept["budgets"] == [0.0, 0.1] and kept["returns"] == sf.certify(run, episodes=20).returns.tolist()
    with pytest.raises(SystemExit):
        main(["certify", str(run.path), "--sigma", "0.2"])
    assert "adds noise of sigma=0.3 itself" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "sigma is missing"),
        ({"sigma": 0.0}, "positive number"),
        ({"sigma": -1}, "positive number"),
        ({"sigma": True}, "positive number"),
        ({"sigma": float("nan")}, "positive number"),
        ({"sigma": 0.5, "episodes": 7}, "too few.*least are 8"),
        ({"sigma": 0.5, "episodes": 50, "confidence": 1.0}, "confidence=1.0"),
        ({"sigma": 0.5, "episodes": 1.5}, "episodes=1.5"),
        ({"sigma": 0.5, "budgets": [-0.1]}, "budgets has -0.1"),
        ({"sigma": 0.5, "bound": "bootstrap"}, "bound='bootstrap'"),
        ({"sigma": 0.5, "episodes": 10, "lowest": 7.0}, "lowest=7"),
        ({"sigma": 0.5, "episodes": 10, "env": "FrozenLake-v1"}, "needs a Box"),
    ],
)
def test_what_cannot_be_certified_is_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        certify(sign, **{"env": Shown, **settings})

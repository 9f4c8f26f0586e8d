"""A model of Stable-Baselines3 as an agent here: the same actions and values; what has no counterpart is refused."""

from __future__ import annotations

import warnings
from contextlib import closing

import gymnasium
import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot.configure import make_method
from surefoot.envs import make_single
from surefoot.errors import UsageError
from surefoot.evaluate.foreign_agent import architecture_of, cloned, settings_of
from surefoot.evaluate.rollout import fitted

sb3 = pytest.importorskip("stable_baselines3")
from stable_baselines3.common import vec_env  # noqa: E402


def model(env, normalized=False, kind="PPO", **options):
    """A model with random weights and, if `normalized`, statistics of its own."""
    venv = vec_env.DummyVecEnv([lambda: gymnasium.make(env)])
    if normalized:
        venv = vec_env.VecNormalize(venv)
        venv.obs_rms.mean, venv.obs_rms.var = np.array([0.3, -0.2, 1.0]), np.array([0.5, 2.0, 9.0])
    made = getattr(sb3, kind)("MlpPolicy", venv, seed=0, device="cpu", n_steps=16, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for x in made.policy.parameters():
            x.add_(0.5 * torch.randn(x.shape, generator=generator))
    return made


def of(made, env):
    with closing(make_single(env)) as single, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fitted(made, single)[0]


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("CartPole-v1", {}),
        ("Pendulum-v1", {"normalized": True}),
        ("Pendulum-v1", {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [7, 6]}, "activation_fn": torch.nn.ReLU}}),
        ("CartPole-v1", {"kind": "A2C"}),
    ],
)
def test_actions_and_values_are_the_model_s(env, options):
    made = model(env, **options)
    policy = of(made, env)
    agent = cloned(policy)
    seen = np.random.default_rng(0).normal(size=(64, *policy.observation_space.shape)).astype(np.float32)
    actions = [one.predict(seen, deterministic=True)[0] for one in (agent, policy)]
    np.testing.assert_allclose(actions[0], actions[1], atol=1e-5)
    assert len(np.unique(actions[1])) > 1
    scaled = made.get_vec_normalize_env().normalize_obs(seen) if options.get("normalized") else seen
    with torch.no_grad():
        values = made.policy.predict_values(torch.as_tensor(scaled).float()).squeeze(-1)
        ours = agent.criticise(torch.as_tensor(seen), torch.as_tensor(seen), None, None)
        torch.testing.assert_close(ours, values, atol=1e-4, rtol=1e-4)
    method, _ = make_method("ppo", **architecture_of(agent))
    assert method.network().hidden == agent.network.hidden


def test_hyperparameters_are_the_model_s_where_it_names_them():
    said = {"n_steps": 16, "n_envs": 2, "batch_size": 8, "gamma": 0.9, "vf_coef": 0.5, "clip_range": {":type:": "x"}}
    found = settings_of(said, False)
    assert found == {
        "num_steps": 16, "num_envs": 2, "minibatch_size": 8, "gamma": 0.9, "value_coefficient": 1.0,
        "normalize_observations": False, "normalize_rewards": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: sb3.DQN("MlpPolicy", "CartPole-v1", buffer_size=10), "only the MlpPolicy of PPO and A2C"),
        (lambda: model("Pendulum-v1", use_sde=True), "state-dependent exploration"),
        (lambda: model("Pendulum-v1", policy_kwargs={"activation_fn": torch.nn.Softplus}), "its activation"),
    ],
)
def test_what_has_no_counterpart_is_refused(make, match):
    made = make()
    with pytest.raises(UsageError, match=match):
        cloned(of(made, made.get_env().envs[0].spec.id))


def test_a_saved_model_is_hardened(tmp_path):
    made = model("CartPole-v1", batch_size=16)
    made.save(tmp_path / "model.zip")
    given = {"families": (), "episodes": 2, "points": 2, "loggers": ()}
    with pytest.warns(UserWarning, match="was loaded without its environment"):
        report = sf.harden(tmp_path / "model.zip", "observation-noise:0..0.2", 32, env="CartPole-v1", **given)
    new = sf.Run(tmp_path / "model-hardened")
    assert new.config["start"]["from"] == "Agent" and new.config["hyperparameters"]["num_steps"] == 16
    assert report.source == str(tmp_path / "model.zip") and len(report.before.seeds) == 2
    untrained = of(made, "CartPole-v1")
    seen = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    before, after = (one.predict(seen, deterministic=True)[0] for one in (untrained, new.agent()))
    assert (before == after).mean() > 0.9, "it went on from the model's weights"

"""Training under a perturbation: what is attacked, drawn anew in every episode, written down, resumed to the bit."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.perturbations import ObservationNoise
from surefoot.seeding import derive, numpy_stream

LENGTH = 5


class Tall(gymnasium.Env):
    """Observation: the height that the constructor was given, and the time. The reward is the height."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, height: float = 1.0):
        self.squared = height**2

    def _see(self):
        return np.array([np.sqrt(self.squared), self.time], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._see(), {}

    def step(self, action):
        self.time += 1
        return self._see(), float(np.sqrt(self.squared)), self.time == LENGTH, False, {}


def train(folder, perturb, env: Any = Tall, steps=96, **options):
    small = {
        "num_envs": 2,
        "num_steps": 16,
        "minibatch_size": 16,
        "epochs": 1,
        "seed": 3,
        "loggers": (),
        "hidden": (8,),
    }
    return sf.train("ppo", env, steps, run_dir=folder, perturb=perturb, **{**small, **options})


def heights(folder, perturb, monkeypatch, **options):
    """The height of every episode of each environment, in order."""
    rollouts = []
    from surefoot.loops.on_policy import learner as module

    original = module.Learner.collect

    def collect(self, *args, **kwargs):
        rollouts.append(original(self, *args, **kwargs))
        return rollouts[-1]

    monkeypatch.setattr(module.Learner, "collect", collect)
    run = train(folder, perturb, **options)
    observation = torch.cat([r.observation[:-1, 0] for r in rollouts]).numpy()  # [time, envs, 2]
    starts = [np.flatnonzero(observation[:, i, 1] == 0) for i in range(2)]
    return run, [observation[starts[i], i, 0] for i in range(2)], observation


def test_a_range_is_drawn_uniformly_for_every_episode_from_the_environments_own_seed(tmp_path, monkeypatch):
    run, drawn, _ = heights(tmp_path / "run", "param:height=1..3", monkeypatch, steps=192)
    for i in range(2):
        seed = derive(3, "env", i)
        expected = [numpy_stream(seed, "perturbation/param/0", k).uniform(1, 3) for k in range(len(drawn[i]))]
        np.testing.assert_allclose(drawn[i], expected, rtol=1e-6)
    assert len(drawn[0]) == 96 // (LENGTH + 1)
    assert json.loads((run.path / "config.json").read_text())["env"]["perturb"] == "param:height=1..3"
    assert run.metrics()[-1]["return_mean"] == pytest.approx(LENGTH * np.mean(drawn, axis=1).mean(), rel=0.2)


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_what_is_seen_is_what_the_perturbation_makes_of_it(env, tmp_path):
    noisy = train(tmp_path / "c", ObservationNoise(0.5), env)
    assert noisy.config["env"]["perturb"] == "observation-noise:0.5"
    assert noisy.config["env"]["backend"] == "gymnasium"
    assert noisy.agent().vector.ne(train(tmp_path / "d", "observation-noise:0", env).agent().vector).any()


MIXED = "param:m=0.5..2 + observation-noise:0..0.3 + action-delay:0..2"


@pytest.mark.parametrize(("text", "backend"), [(MIXED, "auto"), (MIXED, "process"), ("reward-flip:0.3", "auto")])
def test_a_resumed_run_is_the_whole_run_to_the_bit(text, backend, tmp_path):
    options = {"env": "Pendulum-v1", "steps": 128, "checkpoint_every": 32, "backend": backend}
    whole = train(tmp_path / "whole", text, **options)
    cut = train(tmp_path / "cut", text, callbacks=lambda learner, rows: learner.iteration == 2, **options)
    assert not cut.finished
    resumed = sf.resume(cut.path)
    assert torch.equal(whole.agent().vector, resumed.agent().vector)
    with pytest.raises(UsageError, match="perturb='observation-noise:9.* differs from this run's own"):
        sf.resume(cut.path, perturb="observation-noise:9")


def test_perturbed_and_plain_runs_are_told_apart_and_evaluated_plainly(tmp_path):
    attacked, plain = train(tmp_path / "a", "param:height=5"), train(tmp_path / "b", None)
    assert "perturb" not in plain.config["env"]
    for run in (attacked, plain):
        assert sf.evaluate(run.path, Tall, 2)["mean"] == pytest.approx(LENGTH)
    assert attacked.metrics()[-1]["return_mean"] == pytest.approx(5 * LENGTH)
    with pytest.raises(UsageError, match="differs from this run's own"):
        sf.resume(plain.path, env=Tall, perturb="param:height=5")


def test_sets_of_the_robust_tasks_are_trained_in(tmp_path):
    run = train(tmp_path / "run", "rrls:2d,friction_mode=all_geoms", "Hopper-v5", steps=32)
    assert run.config["env"]["env"] == "Hopper-v5"
    assert run.config["env"]["perturb"] == "rrls:2d,friction_mode=all_geoms"


def test_what_cannot_be_perturbed_is_refused_before_any_work(tmp_path):
    ready = gymnasium.make_vec("CartPole-v1", 2)
    cases = [
        ({"env": "CartPole-v1", "backend": "envpool"}, "observation-noise:1", "backend='envpool'.*use 'auto'"),
        ({"env": ready}, "observation-noise:1", "ready VectorEnv"),
        ({"env": "CartPole-v1"}, "action-noise:1", "needs a Box action space"),
        ({"env": "CartPole-v1"}, "observation-nois:1", "observation-noise"),
        ({"env": "CartPole-v1"}, "rrls:2d", "does not fit env='CartPole-v1'"),
        ({"env": "CartPole-v1"}, 3, "perturb=3 is not allowed"),
    ]
    for options, text, words in cases:
        with pytest.raises(UsageError, match=words):
            train(tmp_path / "run", text, **options)
    assert not (tmp_path / "run").exists()
    ready.close()


def test_the_command_line_has_it(tmp_path, capsys):
    from surefoot.cli import main

    words = "train ppo --env Pendulum-v1 --steps 16 --num-envs 1 --num-steps 16 --minibatch-size 16 --perturb force:1"
    with pytest.raises(SystemExit):
        main([*words.split(), "--run-dir", str(tmp_path / "run")])
    assert "needs a MuJoCo environment" in capsys.readouterr().err

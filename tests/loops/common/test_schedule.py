"""The learning rate over a run: its values, and that every loop that has one steps by it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.common.schedule import scheduled, words
from surefoot.methods.control.dqn import DQN
from surefoot.methods.control.ppo import PPO
from surefoot.methods.control.spo import SPO

SMALL = {"num_envs": 2, "num_steps": 16, "minibatch_size": 32, "epochs": 1, "hidden": (8,)}
SEARCHED = {"hidden": (4,), "learning_starts": 20, "batch_size": 4, "log_every": 20, "train_every": 1}


def test_values_by_hand():
    assert scheduled(0.1, "none", 0, 70, 10, 100) == 0.1
    assert scheduled(0.1, "linear", 0, 25, 10, 100) == pytest.approx(0.075)
    assert scheduled(0.1, "cosine", 0, 25, 10, 100) == pytest.approx(0.05 * (1 + math.sqrt(0.5)))
    assert [scheduled(1.0, "none", 40, t, 10, 100) for t in (0, 10, 20, 30, 40)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert scheduled(1.0, "linear", 40, 10, 10, 100) == pytest.approx(0.5 * 0.9)


@given(st.sampled_from(["none", "linear", "cosine"]), st.integers(0, 50), st.integers(0, 300), st.integers(1, 20))
def test_it_never_exceeds_the_rate_nor_falls_below_zero(decay, warmup, step, pace):
    assert 0 <= scheduled(0.3, decay, warmup, step, pace, 200) <= 0.3
    if decay != "none":
        assert scheduled(0.3, decay, warmup, 200, pace, 200) == pytest.approx(0, abs=1e-12)


@given(st.sampled_from(["linear", "cosine"]), st.integers(0, 99))
def test_a_decay_falls(decay, step):
    assert scheduled(1.0, decay, 0, step + 1, 1, 100) < scheduled(1.0, decay, 0, step, 1, 100)


def test_a_flag_is_the_linear_decay():
    assert PPO(anneal=True) == PPO(anneal="linear") and PPO(anneal=False) == PPO() and PPO().anneal == "none"
    with pytest.raises(UsageError, match="anneal='quadratic' is not allowed; it must be one of 'none', 'linear'"):
        PPO(anneal="quadratic")
    with pytest.raises(UsageError, match="anneal=1 is not allowed"):
        PPO(anneal=1)


def test_words_for_people():
    assert words("none", 0) == "" and words("linear", 0) == ", decaying linearly to 0"
    assert words("cosine", 1000) == ", over a warm-up of 1,000 steps, decaying to 0 along a cosine"
    text = "\n".join(SPO(anneal="cosine", warmup=512).algorithm())
    assert "Adam(0.0003, over a warm-up of 512 steps, decaying to 0 along a cosine)" in text
    assert "every learning rate, decaying linearly to 0" in DQN(anneal="linear").algorithm()


def test_on_policy_learners_step_by_it():
    run = make_learner(PPO(**SMALL, anneal="cosine", warmup=64), "CartPole-v1", [0], 128)
    rates = []
    for _ in range(4):
        run.iterate()
        rates.append(float(run.lr_tensor))
    run.close()
    expected = [3e-4 * min(1, (t + 32) / 64) * 0.5 * (1 + math.cos(math.pi * t / 128)) for t in (0, 32, 64, 96)]
    assert rates == pytest.approx(expected)


def test_off_policy_learners_step_by_it():
    """A first step of Adam with a tenth of the rate moves a tenth as far."""
    moved = {}
    for name, settings in {"whole": {}, "warm": {"warmup": 10}}.items():
        run = make_learner(DQN(**SEARCHED, **settings), "CartPole-v1", [0], 100)
        run.iterate()  # only random actions
        start = {k: x.clone() for k, x in run.weights.items()}
        run._draw()
        batch, _ = run.batch()
        assert ("rate" in batch) == (name == "warm")
        if name == "warm":
            assert batch["rate"].tolist() == [pytest.approx(scheduled(1.0, "none", 10, run.steps - 20, 1, 100))]
            assert 0.05 < float(batch["rate"]) < 0.25
            share = float(batch["rate"])
        run._draw()
        run.update()
        moved[name] = {k: run.weights[k] - start[k] for k in start}
        run.close()
    for key, whole in moved["whole"].items():
        assert torch.allclose(moved["warm"][key], share * whole, atol=1e-7)
        assert whole.abs().max() > 0


def test_what_follows_the_length_of_a_run_is_said(tmp_path):
    run = sf.train("ppo", "CartPole-v1", 64, run_dir=tmp_path / "run", anneal="linear", loggers=(), **SMALL)
    with pytest.warns(UserWarning, match="anneal of PPO follow the length of the run.* of a run of 128 steps"):
        longer = sf.resume(run, steps=+64)
    assert longer.finished and longer.config["steps"] == 128
    assert DQN(prioritized=True, anneal="cosine").scheduled() == ["anneal", "beta", "epsilon_fraction"]

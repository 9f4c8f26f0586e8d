"""Fitted Q evaluation: values that are known, and what its interval is about."""

from __future__ import annotations

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
from micro_data import made, target_data

import surefoot as sf
from surefoot.cli import main
from surefoot.errors import UsageError
from surefoot.evaluate.fitted_q import fitted_q

QUICK = {"steps": 300, "hidden": (16,), "learning_rate": 1e-2, "copy_every": 6, "batch_size": 64, "members": 4}
SHORT = {**QUICK, "steps": 10}


class Act:
    """The policy that does what a function says."""

    def __init__(self, function):
        self.function = function

    def predict(self, observation, deterministic=False):
        return self.function(observation), None


def one_state(terminated: bool):
    """A reward of 1 in a state that leads to itself, in which every step is an episode."""
    data, ends = target_data(100), np.ones(100, bool)
    still = np.zeros((100, 1), np.float32)
    columns = {"observation": still, "next_observation": still, "reward": np.ones(100, np.float32)}
    return dataclasses.replace(data, **columns, terminated=ends & terminated, truncated=ends & (not terminated))


def test_a_reward_of_1_forever_is_worth_10_and_1_where_it_ends():
    stay = Act(lambda x: 0 * x)
    assert fitted_q(stay, one_state(False), gamma=0.9, **QUICK)["value"] == pytest.approx(10, rel=0.1)
    assert fitted_q(stay, one_state(True), gamma=0.9, **QUICK)["value"] == pytest.approx(1, rel=0.02)


def test_it_tells_policies_apart_and_its_interval_holds_the_truth():
    """The action a pays −(a − x/2)²: x is uniform in ±1, so −x/2 is worth −E[x²] = −1/3."""
    data = target_data(600)
    right, wrong = (fitted_q(Act(f), data, **QUICK) for f in (lambda x: x / 2, lambda x: -x / 2))
    assert right["value"] == pytest.approx(0, abs=0.03) and wrong["value"] == pytest.approx(-1 / 3, abs=0.06)
    low, high = wrong["value_interval"]
    assert low < -1 / 3 < high and high < right["value"] and len(wrong["members"]) == 4
    assert right["behaviour_value"] == pytest.approx(data.reward.mean(), rel=1e-5)
    assert right["distance"] < wrong["distance"]


def test_the_same_seed_gives_the_same_numbers():
    one, again, other = (fitted_q(Act(lambda x: x / 2), target_data(50), seed=s, **SHORT) for s in (0, 0, 1))
    assert one == again != other


def test_evaluate_judges_an_agent_by_data(tmp_path, capsys, monkeypatch):
    for name, value in (("steps", 20), ("hidden", (8,)), ("members", 3)):
        monkeypatch.setitem(fitted_q.__kwdefaults__, name, value)
    sf.write_dataset(target_data(), place := tmp_path / "held-out.npz")
    options = {"steps": 50, "log_every": 50, "hidden": (16,), "learning_rate": 3e-3, "gamma": 0.5, "loggers": ()}
    run = sf.train("iql", data=target_data(seed=1), run_dir=tmp_path / "run", **options)
    main(["evaluate", str(run.path), "--data", str(place)])
    out = capsys.readouterr().out
    assert (
        "fitted Q evaluation, 600 first states, γ = 0.5" in out and "discounted value" in out and "95% interval" in out
    )
    kept = json.loads((run.path / "fitted-q.json").read_text())
    assert kept["fingerprint"] == target_data().digest()
    assert sf.evaluate(run.agent(), data=target_data())["gamma"] == 0.99


def test_what_cannot_be_judged_is_refused():
    stay = Act(lambda x: 0 * x)
    with pytest.raises(UsageError, match="discrete actions; fitted Q evaluation needs continuous ones"):
        fitted_q(stay, made(space=gym.spaces.Discrete(3)))
    for values, said in (({"gamma": 1.0}, r"gamma=1.0 is not allowed.*\[0, 1\)"), ({"members": 0}, "members=0")):
        with pytest.raises(UsageError, match=said):
            fitted_q(stay, target_data(), **values)
    with pytest.warns(UserWarning, match="a single episode"):
        fitted_q(Act(lambda x: np.zeros((len(x), 2))), made((5,)), steps=2, members=2)

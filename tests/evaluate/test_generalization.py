"""The protocol of generalisation: kinds of contexts by hand, gaps by Welch's formula, exact zeros, a frozen policy."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.evaluate.generalization import Contexts, box, gap, kind_of, robustness_curve
from surefoot.evaluate.stress import StressReport
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.dqn import DQN
from surefoot.perturbations import parse


class Slope(gym.Env):
    """One step, whose reward is −slope: a return that is known in every context."""

    def __init__(self) -> None:
        self.slope, self.width = 1.0, 1.0
        self.observation_space, self.action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), -self.slope * self.width, True, False, {}


def still(observation):
    return np.zeros(len(observation), int)


# --- kinds -----------------------------------------------------------------------------------------------------------

TWO = [{"x": (0.0, 1.0), "y": (0.0, 1.0)}, {"x": (2.0, 3.0), "y": (2.0, 3.0)}]


@pytest.mark.parametrize(
    "x, y, kind",
    [
        ((0.2, 0.8), (0.0, 1.0), "in-distribution"),
        ((2.5, 2.5), (3.0, 3.0), "in-distribution"),
        ((0.0, 1.0), (2.0, 3.0), "combination"),
        ((1.0, 2.0), (0.0, 1.0), "interpolation"),
        ((1.2, 1.8), (1.2, 1.8), "interpolation"),
        ((3.0, 5.0), (0.0, 1.0), "extrapolation"),
        ((0.5, 0.5), (-1.0, -1.0), "extrapolation"),
    ],
)
def test_the_kind_follows_from_the_ranges(x, y, kind):
    assert kind_of({"x": x, "y": y}, TWO) == kind


def test_contexts_across_the_border_are_refused():
    with pytest.raises(UsageError, match="split the range"):
        kind_of({"x": (0.5, 1.5)}, [{"x": (0.0, 1.0)}])
    with pytest.raises(UsageError, match="change the same"):
        kind_of({"z": (0.5, 0.6)}, [{"x": (0.0, 1.0)}])


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4))
def test_one_coordinate_has_no_combinations_and_points_have_one_kind(ends):
    low, high = sorted(ends[:2])
    kind = kind_of({"x": (ends[2], ends[2])}, [{"x": (low, high)}])
    assert kind == ("in-distribution" if low <= ends[2] <= high else "extrapolation")


def test_boxes_of_perturbations():
    assert box(parse("param:length=0.3..0.5,masspole=1")) == {"length": (0.3, 0.5), "masspole": (1.0, 1.0)}
    assert box(parse("observation-noise:0.1..0.2")) == {"observation-noise": (0.1, 0.2)}


# --- gaps ------------------------------------------------------------------------------------------------------------


def test_the_gap_is_welchs():
    rng = np.random.default_rng(0)
    one, other = (Contexts("", "", (), rng.normal(size=(n, 3))) for n in (8, 12))
    difference, interval = gap(one, other)
    a, b = one.returns.mean(1), other.returns.mean(1)
    error = np.sqrt(a.var(ddof=1) / 8 + b.var(ddof=1) / 12)
    free = error**4 / ((a.var(ddof=1) / 8) ** 2 / 7 + (b.var(ddof=1) / 12) ** 2 / 11)
    assert difference == pytest.approx(a.mean() - b.mean())
    assert interval is not None and interval.high - difference == pytest.approx(stats.t.ppf(0.975, free) * error)


def test_a_return_that_is_known_in_every_context():
    report = sf.generalize(
        still, Slope, train="param:slope=1..2", test=["param:slope=3..5", "param:slope=1..2"], contexts=40, episodes=1
    )
    assert [each.kind for each in report.sets] == ["training", "in-distribution", "extrapolation", "in-distribution"]
    assert all(-2 <= x <= -1 for x in report.sets[0].means) and all(-5 <= x <= -3 for x in report.sets[2].means)
    shift, interval = report.gaps()["param:slope=3..5"]
    assert 2 < shift < 3 and interval is not None and interval.low > 1.5
    assert len(set(report.sets[0].contexts) & set(report.sets[1].contexts)) == 0  # fresh ones
    assert json.loads(report.to_json())["component"] == "transition"
    assert "extrapolation" in report.table()


def test_the_same_contexts_and_seeds_have_no_gap_and_the_policy_stays_as_it_is():
    agent = make_learner(DQN(hidden=(8,)), "CartPole-v1", [0], 100).agent()
    before = agent.vector.clone()
    settings = {"train": "observation-noise:0.1", "test": "observation-noise:0.1", "contexts": 2, "episodes": 2}
    report = sf.generalize(agent, "CartPole-v1", **settings)
    assert all(shift == 0 and interval is None for shift, interval in report.gaps().values())
    assert agent.vector.equal(before)
    again = sf.generalize(agent, "CartPole-v1", **settings)
    assert all(np.array_equal(a.returns, b.returns) for a, b in zip(report.sets, again.sets))


# --- curves ----------------------------------------------------------------------------------------------------------


def stressed(returns, nominal=10.0) -> StressReport:
    places = np.linspace(0, 1, len(returns))[:, None]
    return StressReport("", "", "", "closed", ("x",), places, np.array(returns)[:, None], np.array([nominal]), (0,))


def test_the_curve_begins_at_one_and_has_its_area():
    x, rho, area = robustness_curve(stressed([10.0, 5.0, 0.0]))
    assert rho.tolist() == [1.0, 0.5, 0.0] and x.tolist() == [0.0, 0.5, 1.0] and area == pytest.approx(0.5)
    with pytest.raises(UsageError, match="above 0"):
        robustness_curve(stressed([1.0, 2.0], nominal=-1.0))


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"train": "param:slope=1..2 + observation-noise:0.1"}, "one component"),
        ({"train": "param:slope=1..2", "contexts": 1}, "at least 2"),
        ({"train": ()}, "train is empty"),
        ({"train": "param:slope=1..2", "test": "param:width=1..2"}, "change the same"),
        ({"train": "param:steep=1..2"}, "steep"),
    ],
)
def test_bad_input_is_refused_before_any_work(settings, words):
    with pytest.raises(UsageError, match=words):
        sf.generalize(still, Slope, **settings)

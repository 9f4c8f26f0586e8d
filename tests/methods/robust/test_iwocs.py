"""IWOCS on the windy walk by the card's numbers, on rectangular sets between its bounds, and from rollouts."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import surefoot as sf
from surefoot.envs.tabular import TabularMDP, UncertainMDP, resolve, uncertain
from surefoot.errors import UsageError
from surefoot.loops.tabular.learner import TabularLearner
from surefoot.methods.robust.iwocs import IWOCS
from surefoot.solvers import solve

EXACT = IWOCS(accuracy=1e-9)


@pytest.fixture(scope="module")
def walk() -> UncertainMDP:
    mdp = resolve("windy-walk")
    assert isinstance(mdp, UncertainMDP)
    return mdp


def search(mdp, method=EXACT, iterations=4):
    learner = TabularLearner(method, mdp, [0])
    return learner, [learner.iterate()[0] for _ in range(iterations)]


def robust_value(kernels: np.ndarray, reward: np.ndarray, gamma: float) -> np.ndarray:
    """By plain value iteration, the worst row of every pair chosen independently."""
    value = np.zeros(len(reward))
    for _ in range(2000):
        value = (reward + gamma * (kernels @ value).min(0)).max(-1)
    return value


# --- the windy walk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "world, value", [(0, -4.524381), (6, -5.208398), (12, -6.229623), (18, -7.604912), (24, -7.952147)]
)
def test_the_best_values_of_the_winds(walk, world, value):
    assert float(walk.initial @ solve(walk.worlds[world], tolerance=1e-8).value) == pytest.approx(value, abs=1e-6)


def test_the_wind_by_hand(walk):
    strong, up, right, down, left = walk.kernels[24], *range(4)  # α = 0.5
    cell = lambda row, column: 6 * row + column  # noqa: E731
    assert strong[cell(0, 3), right, [cell(0, 4), cell(0, 2)]].tolist() == [0.5, 0.5]
    assert strong[cell(0, 3), up, [cell(0, 3), cell(0, 2)]].tolist() == [0.5, 0.5]
    assert strong[cell(2, 2), down, [cell(2, 2), cell(2, 1)]].tolist() == [0.875, 0.125]  # a wall is below
    assert strong[cell(5, 4), up, [cell(4, 4), cell(5, 3)]].tolist() == [1 - 2**-6, 2**-6]
    assert strong[cell(0, 3), left, cell(0, 2)] == 1 and strong[cell(0, 1), right, cell(0, 2)] == 1


def test_the_search_by_the_published_course(walk):
    learner, rows = search(walk)
    assert rows[0]["expected_return"] == pytest.approx(-4.524381, abs=1e-6)
    assert rows[0]["return_mean"] == pytest.approx(-10.294413, abs=1e-6) and rows[0]["worst_world"] == 24
    assert rows[1]["expected_return"] == pytest.approx(-7.952147, abs=1e-6)
    assert rows[1]["return_mean"] == pytest.approx(-7.952147, abs=1e-6)
    assert rows[1]["nominal_return"] == pytest.approx(-7.395012, abs=1e-6)
    assert [row["gap"] <= 1e-3 for row in rows] == [False, True, True, True] and rows[2:] == [rows[1]] * 2
    assert bool(learner.states[0]["stopped"]) and not rows[1]["stopped_early"]
    robust = robust_value(walk.kernels.numpy(), walk.reward.numpy(), 0.95)[0]
    assert robust == pytest.approx(-7.952147, abs=1e-6)


def test_rollouts_find_the_same_policy(walk):
    exact, _ = search(walk, iterations=2)
    three = uncertain(walk.worlds[0], walk.kernels[[0, 12, 24]])
    sampled, rows = search(three, IWOCS(episodes=300, length=150), 3)
    reached = exact.agent().policy.argmax(-1)[[0, 6, 12, 18, 24, 25, 26, 27, 28, 29]]
    assert torch.equal(sampled.agent().policy.argmax(-1)[[0, 6, 12, 18, 24, 25, 26, 27, 28, 29]], reached)
    assert rows[0]["return_mean"] == pytest.approx(-10.294413, abs=0.6)
    assert rows[1]["solved"] == rows[2]["solved"] == 2


# --- properties ------------------------------------------------------------------------------------------------------


def drawn(seed: int, count: int = 2, states: int = 2, actions: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(states), (count, states, actions)), rng.normal(size=(states, actions))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_on_rectangular_sets_the_bounds_hold_and_q_falls(seed):
    rows, reward = drawn(seed)
    choice = np.array(list(product(range(2), repeat=4))).reshape(-1, 2, 2)
    kernels = np.take_along_axis(rows[None], choice[:, None, ..., None], 1)[:, 0]
    learner = TabularLearner(EXACT, uncertain(TabularMDP(kernels[0], reward, 0.9), kernels), [0])
    robust = robust_value(kernels, reward, 0.9).mean()
    before = torch.full((2, 2), torch.inf)
    for _ in range(5):
        (row,) = learner.iterate()
        assert row["return_mean"] <= robust + 1e-7 and robust <= row["expected_return"] + 1e-7
        q = learner.states[0]["q"]
        assert bool((q <= before).all())
        before = q
    assert row["solved"] <= 4 or not bool(learner.states[0]["stopped"])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_weak_duality(seed):
    """No policy earns more in its worst world than the least of the worlds' own optima."""
    kernels, reward = drawn(seed, count=4, states=3)
    mdp = uncertain(TabularMDP(kernels[0], reward, 0.9), kernels)
    least = min(float(mdp.initial @ solve(world, tolerance=1e-8).value) for world in mdp.worlds)
    assert all(row["return_mean"] <= least + 1e-6 for row in search(mdp, iterations=5)[1])


def test_one_world_is_the_nominal_problem(walk):
    alone = uncertain(walk.worlds[0], walk.kernels[:1])
    learner, rows = search(alone, iterations=1)
    assert rows[0]["gap"] < 1e-8 and bool(learner.states[0]["stopped"])
    assert torch.equal(learner.agent().policy, solve(walk.worlds[0]).policy)


def test_a_stop_at_a_solved_world_with_a_gap_is_told():
    """Two worlds that are no product of choices: neither policy is best against both."""
    for seed in range(40):
        kernels, reward = drawn(seed, count=2, states=3)
        rows = search(uncertain(TabularMDP(kernels[0], reward, 0.95), kernels), iterations=4)[1]
        assert rows[-1]["stopped_early"] == float(rows[-1]["gap"] > EXACT.tolerance)
        if rows[-1]["stopped_early"]:
            return
    raise AssertionError("no such pair of worlds among forty")


# --- from outside ----------------------------------------------------------------------------------------------------


def test_worlds_that_do_not_fit(walk):
    with pytest.raises(UsageError, match="nominal one first"):
        uncertain(walk.worlds[0], walk.kernels[1:])
    with pytest.raises(UsageError, match=r"kernels has shape \[25, 36, 3, 36\]"):
        uncertain(walk.worlds[0], walk.kernels[:, :, :3])
    wrong = walk.kernels.clone()
    wrong[3, 0, 0, 0] += 0.1
    with pytest.raises(UsageError, match="sum to 1.1"):
        uncertain(walk.worlds[0], wrong)
    with pytest.raises(UsageError, match="the worlds that are possible"):
        TabularLearner(IWOCS(), walk.worlds[0], [0])
    with pytest.raises(UsageError, match="strongest=1.5"):
        resolve("windy-walk:strongest=1.5")


def test_other_fields_keep_the_worlds(walk):
    longer = dataclasses.replace(walk, gamma=0.9)
    assert [world.gamma for world in longer.worlds] == [0.9] * 25


def test_from_outside(tmp_path):
    run = sf.train("iwocs", env="windy-walk:5", steps=3, seed=0, run_dir=tmp_path, loggers=())
    assert run.metrics()[-1]["return_mean"] == pytest.approx(-7.952147, abs=1e-5)
    assert "Q ← min(Q, Q*_T)" in sf.explain("iwocs")

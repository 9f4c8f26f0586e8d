"""Total rewards against closed forms and linear systems: shortest paths, reachability, sums that are not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest

from surefoot.envs.tabular import TabularMDP, tabular_from_gym
from surefoot.errors import UsageError
from surefoot.solvers import evaluate_policy, solve

COIN = TabularMDP([[[0.5, 0.5]], [[0.0, 1.0]]], [[-1.0], [0.0]], gamma=1.0)  # until it shows heads

ROUND = [[[0, 1.0, 0], [0, 0, 1.0]], [[1.0, 0, 0]] * 2, [[0, 0, 1.0]] * 2]  # round and round, or out


def test_steps_to_a_goal_and_their_bounds_over_a_set():
    assert solve(COIN).value.tolist() == pytest.approx([-2, 0], abs=1e-6)
    assert solve(COIN, "tv:0.1").value.tolist() == pytest.approx([-1 / 0.4, 0], abs=1e-6)
    assert solve(COIN, "tv:0.1", nature="best").value.tolist() == pytest.approx([-1 / 0.6, 0], abs=1e-6)
    found = solve(COIN, "kl:0.1", tolerance=1e-8)
    stay = float(found.worst_kernel[0, 0, 0])
    assert stay * math.log(stay / 0.5) + (1 - stay) * math.log((1 - stay) / 0.5) == pytest.approx(0.1, abs=1e-6)
    assert float(found.value[0]) == pytest.approx(-1 / (1 - stay), abs=1e-6) and found.gap <= 1e-8


def test_the_probability_of_reaching_a_goal_where_staying_is_as_good_as_going():
    """In state 0 a policy may wait for ever: the values are alike, and only one action gets there."""
    kernel = np.zeros((3, 2, 3))
    kernel[0, 0, 0] = 1  # wait
    kernel[0, 1] = 0.2, 0.5, 0.3  # try
    kernel[1:, :, 1:] = np.eye(2)[:, None]
    reward = np.zeros((3, 2, 3))
    reward[0, :, 1] = 1
    mdp = TabularMDP(kernel, reward, gamma=1.0)
    found = solve(mdp)
    assert float(found.value[0]) == pytest.approx(0.5 / 0.8, abs=1e-6) and found.policy[0].tolist() == [0, 1]
    assert evaluate_policy(mdp, [0, 0, 0]).value.tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_rewards_of_both_signs_against_a_linear_system():
    rng = np.random.default_rng(0)
    kernel, reward = rng.dirichlet(np.ones(5), (5, 1)), rng.normal(size=(5, 1))
    kernel[4], reward[4] = np.eye(5)[4], 0
    wanted = np.linalg.solve(np.eye(4) - kernel[:4, 0, :4], reward[:4, 0])
    mdp = TabularMDP(kernel, reward, gamma=1.0)
    for found in (solve(mdp), evaluate_policy(mdp, np.zeros(5, int)), solve(mdp, "tv:0")):
        assert found.value[:4].numpy() == pytest.approx(wanted, abs=1e-6)
    low, high = (solve(mdp, "tv:0.02", nature=nature).value for nature in ("worst", "best"))
    assert bool((low[:4] < found.value[:4]).all() and (found.value[:4] < high[:4]).all())


def test_walks_that_bump_into_walls_for_ever_do_not_matter():
    cliff = tabular_from_gym("CliffWalking-v1", gamma=1.0)
    found = solve(cliff)
    assert float(found.value[36]) == pytest.approx(-13, abs=1e-6) and found.value[47] == 0


@pytest.mark.parametrize(
    ("kernel", "reward", "ambiguity", "message"),
    [
        ([[[1.0, 0]], [[0, 1.0]]], [[-1.0], [0.0]], None, r"from the states \{0\}, no policy is sure to reach an end"),
        ([[[0.9, 0.1]], [[0, 1.0]]], [[-1.0], [0.0]], "tv:0.1", "no policy is sure to reach an end in the worst world"),
        ([[[1.0, 0]], [[0, 1.0]]], [[1.0], [0.0]], None, r"stay in the states \{0\} forever and earn rewards"),
        (ROUND, [[1.0, 0], [-2.0, -2.0], [0, 0]], None, "rewards have both signs"),
    ],
)
def test_sums_that_are_not_finite_are_told(kernel, reward, ambiguity, message):
    with pytest.raises(UsageError, match=message):
        solve(TabularMDP(kernel, reward, gamma=1.0), ambiguity, sweeps=5000)


def test_a_time_limit_gives_the_certified_bounds_so_far():
    mdp = TabularMDP(np.full((3, 2, 3), 1 / 3), np.arange(6.0).reshape(3, 2), gamma=0.999)
    wanted = solve(mdp, tolerance=1e-9).value
    with pytest.warns(RuntimeWarning, match="more sweeps or time"):
        found = solve(mdp, method="value-iteration", time_limit=1e-9)
    assert found.iterations == 1 and not found.converged
    assert bool(((found.value - wanted).abs() <= 0.5 * found.gap + 1e-6).all())
    with pytest.raises(UsageError, match="time_limit=0 is not allowed"):
        solve(mdp, time_limit=0)
    assert repr(found).startswith("<Solution: 3 states, values ") and repr(found).endswith("not converged>")


def test_dense_work_on_a_sparse_mdp_is_announced(monkeypatch):
    from surefoot.envs.tabular import resolve
    from surefoot.solvers import outcomes

    monkeypatch.setattr(outcomes, "DENSE_WORK", 1000)
    river = resolve("garnet:3000,1,2")
    with pytest.warns(RuntimeWarning, match="3,000 × 1 × 3,000 = 9e.06 numbers .* support='nominal'"):
        solve(river, "linf:0.1", method="value-iteration", tolerance=100)

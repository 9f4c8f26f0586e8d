"""The search among static worlds against all deterministic policies."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from surefoot.envs.tabular import TabularMDP
from surefoot.errors import UsageError
from surefoot.solvers import evaluate_policy, solve, solve_scenarios


def worlds(seed: int, count: int = 4) -> list[TabularMDP]:
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(4, 2))
    return [TabularMDP(rng.dirichlet(np.ones(4), (4, 2)), reward, gamma=0.8) for _ in range(count)]


def worst_return(given, policy) -> float:
    return min(float(one.initial @ evaluate_policy(one, policy, tolerance=1e-9).value) for one in given)


def test_the_bounds_hold_for_every_deterministic_policy():
    for seed in range(3):
        given = worlds(seed)
        found = solve_scenarios(given, tolerance=1e-8)
        own = worst_return(given, found.policy)
        assert float(given[0].initial @ found.value) == pytest.approx(own, abs=1e-7)
        assert float(given[found.worst].initial @ found.value) == pytest.approx(own, abs=1e-7)
        best = max(worst_return(given, policy) for policy in itertools.product(range(2), repeat=4))
        assert best <= own + found.gap + 1e-9
        assert own >= worst_return(given, solve(given[0]).policy) - 1e-9  # no worse than the nominal policy


def test_one_world_is_the_nominal_problem():
    given = worlds(0, count=1)
    found = solve_scenarios(given)
    assert found.value.numpy() == pytest.approx(solve(given[0]).value.numpy(), abs=1e-5)
    assert found.considered == (0,)
    assert found.gap < 1e-5


def test_worlds_that_do_not_fit():
    given = worlds(0)
    with pytest.raises(UsageError, match="worlds is empty"):
        solve_scenarios([])
    with pytest.raises(UsageError, match=r"worlds\[1\] has 4 states.*gamma=0.5"):
        solve_scenarios([given[0], dataclasses.replace(given[1], gamma=0.5)])
    assert torch.equal(given[0].reward, given[1].reward)


def test_the_stated_gap_allows_for_the_tolerance_of_every_world():
    """Two worlds solved to a gap of 5: without the tolerance the stated gap is 8.05, and the true one 8.12."""
    rng = np.random.default_rng(0)
    for _ in range(39):
        drawn = [(rng.dirichlet(np.full(4, 0.5), size=(4, 2)), rng.normal(size=(4, 2))) for _ in range(2)]
    given = [TabularMDP(kernel, reward, gamma=0.95) for kernel, reward in drawn]
    found = solve_scenarios(given, tolerance=5.0)
    best = min(float(w.initial @ solve(w, tolerance=1e-9).value) for w in given)
    held = min(float(w.initial @ evaluate_policy(w, found.policy, tolerance=1e-9).value) for w in given)
    assert found.gap - 5.0 < best - held <= found.gap

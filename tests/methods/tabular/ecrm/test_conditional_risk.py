"""Expected conditional risk: numbers of the card, and an exhaustive search that knows nothing of thresholds."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.envs.tabular import Successors, TabularMDP
from surefoot.envs.tabular.instances_risk import cliff_walk
from surefoot.envs.tabular.policies import uniform_policy
from surefoot.errors import UsageError
from surefoot.loops.tabular.gradient import evaluate, softmax
from surefoot.methods.tabular.ecrm.conditional_risk import (
    augmented,
    conditional_risk,
    controller,
    expected_conditional_risk,
    least_risk,
    thresholds,
)
from surefoot.models.tabular_agent import check_policy
from surefoot.seeding import torch_stream


def random_mdp(seed=0, states=3, actions=2, gamma=0.7, **settings):
    """Costs in tenths of [0, 1], kernels with holes."""
    g = torch_stream(seed, "random mdp")
    rows = torch.rand(states, actions, states, generator=g, dtype=torch.float64)
    rows = rows * (torch.rand(rows.shape, generator=g) < 0.7) + 0.05 * torch.eye(states)[:, None]
    cost = torch.randint(0, 11, (states, actions), generator=g).double() / 10
    return TabularMDP(rows / rows.sum(-1, keepdim=True), -cost, gamma, **settings)


def optimum(mdp, lam, alpha, points=None):
    """J* of every first state."""
    return least_risk(augmented(mdp, lam, alpha, points))[1][: mdp.states]


def tail_risk(cost, probability, lam, alpha):
    """(1−λ)·mean + λ·(mean of the highest share 1−α), by filling the tail from the highest cost down."""
    left, tail = 1 - alpha, 0.0
    for c, p in sorted(zip(cost, probability, strict=True), reverse=True):
        taken = min(p, left)
        tail, left = tail + taken * c, left - taken
    return (1 - lam) * float(np.dot(cost, probability)) + lam * tail / (1 - alpha)


def searched(mdp, lam, alpha):
    """J* by iterating over all maps from the next state to its action; the risk is that of the next cost itself."""
    P, c, gamma = mdp.rows.numpy(), -mdp.reward.numpy(), mdp.gamma
    S, A = c.shape
    plans = [list(plan) for plan in product(range(A), repeat=S)]
    ahead, states = np.zeros((S, A)), range(S)
    risk = {(s, a, i): tail_risk(c[states, f], P[s, a], lam, alpha)
            for s in states for a in range(A) for i, f in enumerate(plans)}  # fmt: skip
    for _ in range(120):
        later = np.array([ahead[states, f] for f in plans])
        ahead = np.array(
            [
                [gamma * min(risk[s, a, i] + P[s, a] @ later[i] for i in range(len(plans))) for a in range(A)]
                for s in states
            ]
        )
    return (c + ahead).min(1)


# --- the risk of one step ---------------------------------------------------------------------------------------------

LOTTERY = TabularMDP([[[0, 0.9, 0.1]], [[0, 1, 0]], [[0, 0, 1]]], [0, 0, -10], 0.9)


@pytest.mark.parametrize(
    ("alpha", "cvar", "mixed"), [(0, 1, 1), (0.5, 2, 1.5), (0.8, 5, 3), (0.9, 10, 5.5), (0.95, 10, 5.5)]
)
def test_the_lottery_of_the_card(alpha, cvar, mixed):
    policy = torch.ones(3, 1, dtype=torch.float64)
    assert float(conditional_risk(LOTTERY, policy, 1.0, alpha)[0]) == pytest.approx(cvar)
    assert float(conditional_risk(LOTTERY, policy, 0.5, alpha)[0]) == pytest.approx(mixed)


def test_the_chosen_threshold_is_a_quantile_of_the_next_cost():
    """Of 0 with 90 % and 10 with 10 %, the α-quantile is 0 below α = 0.9 and 10 above it."""
    for alpha, quantile in ((0.5, 0.0), (0.85, 0.0), (0.95, 10.0)):
        policy = least_risk(augmented(LOTTERY, 1.0, alpha))[0]
        assert thresholds(LOTTERY)[policy[0].argmax()] == quantile


@pytest.mark.parametrize("seed", range(5))
def test_a_policys_risk_is_the_series_of_its_definition(seed):
    mdp, lam, alpha = random_mdp(seed), 0.6, 0.8
    g = torch_stream(seed, "logits")
    policy = softmax(torch.randn(3, 2, generator=g, dtype=torch.float64))
    P, c, pi = mdp.rows.numpy(), -mdp.reward.numpy(), policy.numpy()
    risk = np.array(
        [[tail_risk(c.ravel(), (P[s, a][:, None] * pi).ravel(), lam, alpha) for a in range(2)] for s in range(3)]
    )
    np.testing.assert_allclose(conditional_risk(mdp, policy, lam, alpha), risk, atol=1e-12)
    law, total = np.eye(3), (pi * c).sum(1)
    for t in range(1, 120):
        total = total + mdp.gamma**t * law @ (pi * risk).sum(1)
        law = law @ np.einsum("sa,sat->st", pi, P)
    np.testing.assert_allclose(expected_conditional_risk(mdp, policy, lam, alpha), total, atol=1e-12)


# --- the least risk ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lam", "alpha", "value"),
    [(0, 0.9, 0.8925), (0.25, 0.9, 1.0335), (0.5, 0.9, 1.1121), (1, 0.9, 1.2675), (1, 0.95, 1.5657)],
)
def test_the_cliff_walk_of_the_card(lam, alpha, value):
    mdp = cliff_walk()
    assert float(mdp.initial @ optimum(mdp, lam, alpha)) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize("seed", range(8))
def test_no_search_over_plans_finds_less_nor_more(seed):
    mdp = random_mdp(seed)
    for lam, alpha in ((0.5, 0.9), (1.0, 0.6), (0.3, 0.0)):
        np.testing.assert_allclose(optimum(mdp, lam, alpha), searched(mdp, lam, alpha), atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_with_the_best_thresholds_a_fixed_policy_has_its_own_risk(seed):
    """The larger MDP, held to one deterministic policy of the MDP, is minimised over η alone."""
    mdp = random_mdp(seed)
    for plan in product(range(2), repeat=3):
        fixed = torch.nn.functional.one_hot(torch.tensor(plan), 2)
        held = dataclasses.replace(mdp, legal=fixed.bool())
        grid = thresholds(mdp)
        assert set(thresholds(held).tolist()) <= set(grid.tolist())
        risk = expected_conditional_risk(mdp, fixed.double(), 0.7, 0.8)
        torch.testing.assert_close(optimum(held, 0.7, 0.8), risk, rtol=0, atol=1e-11)
        assert bool((optimum(mdp, 0.7, 0.8) <= risk + 1e-11).all())


def test_without_risk_it_is_the_mdp_and_every_threshold_is_optimal():
    mdp = random_mdp(2)
    world = augmented(mdp, 0.0, 0.9)
    policy, risk = least_risk(world)
    q = evaluate(world, policy).q.view(world.states, 2, -1)
    assert float((q - q[..., :1]).abs().max()) < 1e-12
    np.testing.assert_allclose(risk[:3], searched(mdp, 0.0, 0.9), atol=1e-10)


@pytest.mark.parametrize(("lam", "alpha"), [(0.0, 0.5), (0.4, 0.9), (1.0, 0.0), (1.0, 0.99)])
def test_without_chance_it_is_the_discounted_cost_and_thresholds_are_the_costs(lam, alpha):
    ring = TabularMDP([[[0, 1, 0]], [[0, 0, 1]], [[1, 0, 0]]], [-0.2, -0.7, -0.5], 0.9)
    policy, risk = least_risk(augmented(ring, lam, alpha))
    expected = evaluate(ring, torch.ones(3, 1, dtype=torch.float64)).value
    torch.testing.assert_close(risk[:3], -expected, rtol=0, atol=1e-12)
    if lam and alpha:
        chosen = thresholds(ring)[policy[:3].argmax(-1)]
        assert chosen.tolist() == [0.7, 0.5, 0.2]


def test_the_mean_telescopes_below_the_least_cost():
    """α = 0 and every η at the least cost: the thresholds charged and returned cancel."""
    mdp = random_mdp(4)
    world, policy, E = augmented(mdp, 0.8, 0.0), uniform_policy(mdp), len(thresholds(mdp))
    wide = torch.zeros((1 + E) * 3, 2, E, dtype=torch.float64)
    wide[..., 0] = policy.repeat(1 + E, 1)
    value = evaluate(world, wide.flatten(1)).value[:3]
    torch.testing.assert_close(value, evaluate(mdp, policy).value, rtol=0, atol=1e-12)


def test_the_costs_of_a_path_by_hand():
    """λ = 1, α = 0.5, γ = 1, costs 1, 3 and η₂ = 2: C₁ = 1 + 2 and C₂ = 2·(3 − 2), together 5."""
    path = TabularMDP([[[0, 1, 0]], [[0, 0, 1]], [[0, 0, 1]]], [-1, -3, 0], 1.0)
    world, etas = augmented(path, 1.0, 0.5, 4), thresholds(path, 4)
    two, zero = etas.tolist().index(2.0), etas.tolist().index(0.0)
    assert etas.tolist() == [0, 1, 2, 3]
    assert float(world.reward[0, two]) == -3
    assert float(world.reward[3 * (1 + two) + 1, zero]) == -2
    assert world.legal is not None and world.legal[2].tolist() == [True, False, False, False]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 0.9), st.floats(0, 0.1), st.floats(0, 0.9), st.floats(0, 0.09))
def test_risk_grows_with_its_share_and_its_level(seed, lam, more_lam, alpha, more_alpha):
    mdp = random_mdp(seed)
    least = optimum(mdp, lam, alpha)
    assert bool((optimum(mdp, lam + more_lam, alpha) >= least - 1e-10).all())
    assert bool((optimum(mdp, lam, alpha + more_alpha) >= least - 1e-10).all())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.floats(-2, 2), st.floats(0, 1), st.floats(0, 0.95))
def test_a_constant_cost_adds_itself_discounted(seed, extra, lam, alpha):
    mdp = random_mdp(seed)
    dearer = dataclasses.replace(mdp, reward=mdp.reward - extra)
    difference = optimum(dearer, lam, alpha) - optimum(mdp, lam, alpha)
    torch.testing.assert_close(difference, torch.full((3,), extra / 0.3, dtype=torch.float64), rtol=0, atol=1e-9)


# --- the larger MDP ---------------------------------------------------------------------------------------------------


def test_a_coarse_grid_is_an_upper_bound():
    mdp = random_mdp(6, states=4, actions=3)
    exact = optimum(mdp, 1.0, 0.8)
    assert len(thresholds(mdp)) > 2
    assert bool((optimum(mdp, 1.0, 0.8, 2) > exact).any()) and bool((optimum(mdp, 1.0, 0.8, 2) >= exact - 1e-12).all())


def test_sparse_and_dense_agree_and_pairs_that_are_not_legal_are_left_out():
    every = random_mdp(1)
    rows = every.rows.clone()
    rows[1, 0] = 0  # a pair that does not exist
    dense = dataclasses.replace(every, transition=rows, legal=[[True, True], [False, True], [True, True]])
    order = torch.tensor([2, 0, 1])
    sparse = dataclasses.replace(dense, transition=Successors(order.expand(3, 2, 3), dense.rows[..., order]))
    torch.testing.assert_close(optimum(dense, 0.5, 0.9), optimum(sparse, 0.5, 0.9), rtol=0, atol=1e-12)
    policy = uniform_policy(dense)
    ours, theirs = (expected_conditional_risk(m, policy, 0.5, 0.9) for m in (dense, sparse))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert bool((optimum(dense, 0.5, 0.9) >= optimum(every, 0.5, 0.9) - 1e-12).all())


def test_as_a_controller_the_policy_visits_what_it_visits_in_the_larger_mdp():
    mdp = random_mdp(3)
    world = augmented(mdp, 0.5, 0.9)
    g = torch_stream(3, "logits")
    policy = softmax(torch.randn(world.states, world.actions, generator=g, dtype=torch.float64))
    table = check_policy(controller(mdp, policy))
    memory = torch.zeros(len(table), mdp.states, dtype=torch.float64)
    memory[0] = mdp.initial
    law, chain = world.initial, torch.zeros(world.states, world.states, dtype=torch.float64)
    chain.scatter_add_(1, world.transition.state.flatten(1), (policy[..., None] * world.rows).flatten(1))
    for _ in range(4):
        memory = torch.einsum("ms,msan,sat->nt", memory, table, mdp.rows)
        law = law @ chain
    torch.testing.assert_close(memory.flatten(), law, rtol=0, atol=1e-12)


def test_too_many_costs_need_a_number_of_points():
    many = TabularMDP(torch.eye(70).double()[:, None], -torch.arange(70.0), 0.9)
    with pytest.raises(UsageError, match="70 costs.*points=20"):
        augmented(many, 0.5, 0.9)
    assert thresholds(many, 5).tolist() == [0, 17.25, 34.5, 51.75, 69]

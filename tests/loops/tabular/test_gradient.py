"""Exact policy gradients: numbers of a card, finite differences with and without a set, occupancies by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.ambiguity import KL, Box, CVaR, Mixed, TotalVariation
from surefoot.envs.tabular import Successors, TabularMDP
from surefoot.envs.tabular.simulate import Transitions, rollouts
from surefoot.errors import UsageError
from surefoot.loops.tabular.gradient import (
    direct_gradient,
    evaluate,
    occupancy,
    project,
    returns_to_go,
    score_gradient,
    softmax,
    softmax_gradient,
)
from surefoot.methods.tabular.robust_average_reward import RobustRVI
from surefoot.seeding import torch_stream
from surefoot.solvers import solve

TWO = TabularMDP([[[0.7, 0.3], [0.2, 0.8]], [[0.5, 0.5], [0.9, 0.1]]], [[1, 0.4], [0, 0.6]], 0.9)
SETS = [None, KL(penalty=0.5), KL(0.1), TotalVariation(0.15)]


def t(x):
    return torch.tensor(x, dtype=torch.float64)


def random_mdp(seed=0, states=4, actions=3, **settings):
    g = torch_stream(seed, "random mdp")
    rows = torch.rand(states, actions, states, generator=g, dtype=torch.float64).pow(2)
    settings = {"gamma": 0.8, **settings}
    reward = torch.rand(states, actions, generator=g, dtype=torch.float64)
    return TabularMDP(rows / rows.sum(-1, keepdim=True), reward, **settings)


def logits(mdp, seed=0, steps=()):
    return torch.randn(*steps, mdp.states, mdp.actions, generator=torch_stream(seed, "logits"), dtype=torch.float64)


# --- policies --------------------------------------------------------------------------------------------------------


def test_softmax_leaves_out_what_is_not_legal():
    legal = torch.tensor([[True, False, True]])
    policy = softmax(t([[0.0, 9.0, 0.0]]), legal)
    assert policy.tolist() == [[0.5, 0.0, 0.5]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.integers(0, 2**6 - 1))
def test_the_projection_is_the_nearest_distribution(values, mask):
    """Held to the variational inequality ⟨x − y, z − y⟩ ≤ 0 at every vertex z that is allowed."""
    legal = torch.tensor([bool(mask >> i & 1) for i in range(len(values))])
    legal[0] = legal[0] | ~legal.any()
    x = t(values)
    y = project(x, legal)
    assert float(y.sum()) == pytest.approx(1, abs=1e-12) and bool((y >= 0).all()) and not y[~legal].any()
    for vertex in torch.eye(len(values), dtype=torch.float64)[legal]:
        assert float((x - y)[legal] @ (vertex - y)[legal]) <= 1e-9


def test_the_projection_of_a_distribution_is_itself_and_needs_no_mask():
    assert project(t([[0.2, 0.8], [2.0, 0.0]])).tolist() == pytest.approx(np.array([[0.2, 0.8], [1.0, 0.0]]))


# --- exact -----------------------------------------------------------------------------------------------------------


def test_the_numbers_of_the_card_of_regularized_rmdp():
    policy = t([[0.6, 0.4], [0.3, 0.7]])
    found = evaluate(TWO, policy, KL(penalty=0.5))
    np.testing.assert_allclose(found.value, [6.263565, 5.994317], atol=5e-7)
    np.testing.assert_allclose(found.q, [[6.549934, 5.834012], [5.499929, 6.206198]], atol=5e-7)
    np.testing.assert_allclose(found.rows[:, :, 0], [[0.576593, 0.127328], [0.368538, 0.840067]], atol=5e-7)
    np.testing.assert_allclose(0.1 * found.occupancy, [0.533796, 0.466204], atol=5e-7)
    gradient = direct_gradient(found.occupancy, found.q)
    np.testing.assert_allclose(gradient, [[34.963267, 31.141707], [25.640903, 28.933558]], atol=5e-6)


@pytest.mark.parametrize("ambiguity", SETS, ids=str)
@pytest.mark.parametrize("horizon", [None, 3])
@pytest.mark.parametrize("legal", [None, [[True, True, False]] * 3 + [[True, False, False]]])
def test_softmax_gradients_are_central_differences_of_the_robust_return(ambiguity, horizon, legal):
    mdp = random_mdp(horizon=horizon, legal=legal)
    theta = logits(mdp, steps=() if horizon is None else (horizon,))

    def gain(x):
        value = evaluate(mdp, softmax(x, mdp.legal), ambiguity).value
        return float(mdp.initial @ (value if horizon is None else value[0]))

    found = evaluate(mdp, softmax(theta, mdp.legal), ambiguity)
    gradient = softmax_gradient(found.occupancy, softmax(theta, mdp.legal), found.q)
    for place in np.ndindex(*theta.shape):
        step = torch.zeros_like(theta)
        step[place] = 1e-5
        assert float(gradient[place]) == pytest.approx((gain(theta + step) - gain(theta - step)) / 2e-5, abs=2e-8)
    assert float(gradient.sum(-1).abs().max()) < 1e-14


@pytest.mark.parametrize("ambiguity", SETS[1:], ids=str)
def test_the_worst_world_has_the_robust_value(ambiguity):
    """Played in the kernel that is found, with what is paid added to the rewards, the policy has the value found."""
    mdp = random_mdp(3)
    policy = softmax(logits(mdp, 3))
    found = evaluate(mdp, policy, ambiguity)
    torch.testing.assert_close(evaluate(found.world(), policy).value, found.value, rtol=0, atol=1e-11)
    assert bool((found.value <= evaluate(mdp, policy).value).all())
    paid = (policy * (mdp.reward + mdp.gamma * found.paid)).sum(-1)
    assert float(found.occupancy @ paid) == pytest.approx(float(mdp.initial @ found.value), abs=1e-11)


def test_a_sparse_kernel_gives_what_the_dense_one_gives():
    dense = random_mdp(1)
    order = torch.tensor([2, 0, 3, 1])
    sparse = Successors(order.expand(4, 3, 4), dense.rows[..., order])
    for horizon in (None, 3):
        one, other = (TabularMDP(k, dense.reward, 0.8, horizon=horizon) for k in (dense.rows, sparse))
        policy = softmax(logits(dense, 1))
        for ambiguity in SETS:
            a, b = evaluate(one, policy, ambiguity), evaluate(other, policy, ambiguity)
            for name in ("value", "q", "paid", "occupancy"):
                torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=1e-10)
            if horizon is None:  # before the end the values are all 0, so that every kernel is worst
                rows = a.rows[..., order] if b.mdp.sparse else a.rows
                torch.testing.assert_close(rows, b.rows, rtol=0, atol=1e-10)


def test_a_set_may_move_mass_beyond_the_successors_of_a_sparse_kernel():
    """Each state has one successor; the worst world of a ball in total variation has mass on the worst of all."""
    ring = Successors(torch.tensor([[[1]], [[2]], [[0]]]), torch.ones(3, 1, 1, dtype=torch.float64))
    sparse = TabularMDP(ring, [[0.0], [1.0], [2.0]], 0.9)
    dense = TabularMDP(torch.eye(3).roll(1, 1)[:, None].double(), sparse.reward, 0.9)
    policy = torch.ones(3, 1, dtype=torch.float64)
    found, expected = (evaluate(mdp, policy, TotalVariation(0.2)) for mdp in (sparse, dense))
    torch.testing.assert_close(found.value, expected.value)
    assert float(found.value.min()) < float(evaluate(sparse, policy).value.min()) - 0.1
    torch.testing.assert_close(evaluate(found.world(), policy).value, found.value)


@pytest.mark.parametrize("horizon", [None, 3])
@pytest.mark.parametrize("ambiguity", SETS, ids=str)
def test_rewards_of_the_next_state_are_the_adversarys_to_choose(ambiguity, horizon):
    """Rewards that name the next state but do not depend on it change nothing; others are lost first."""
    pairs = random_mdp(4, horizon=horizon)
    spread = TabularMDP(
        pairs.rows,
        pairs.reward[..., None].expand(4, 3, 4)
        if horizon is None
        else pairs.reward[..., None].expand(*pairs.reward.shape, 4),
        0.8,
        horizon=horizon,
    )
    policy = softmax(logits(pairs, 4))
    one, other = evaluate(pairs, policy, ambiguity), evaluate(spread, policy, ambiguity)
    for name in ("value", "q", "paid", "occupancy"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=1e-9)
    uneven = TabularMDP(
        pairs.rows, torch.rand(4, 3, 4, generator=torch_stream(4, "rewards"), dtype=torch.float64), 0.8, horizon=horizon
    )
    found = evaluate(uneven, policy, ambiguity)
    torch.testing.assert_close(evaluate(found.world(), policy).value, found.value, rtol=0, atol=1e-9)
    assert ambiguity is None or bool((found.value <= evaluate(uneven, policy).value + 1e-12).all())


def test_a_long_horizon_tends_to_none():
    policy = softmax(logits(TWO, 2))
    long = TabularMDP(TWO.rows, TWO.reward, 0.9, horizon=400)
    for ambiguity in SETS:
        torch.testing.assert_close(evaluate(long, policy, ambiguity).value[0], evaluate(TWO, policy, ambiguity).value)
    torch.testing.assert_close(occupancy(long, policy).sum(0), occupancy(TWO, policy))
    assert float(occupancy(TWO, policy).sum()) == pytest.approx(10)


def test_what_has_no_answer_is_refused():
    policy = softmax(logits(TWO))
    with pytest.raises(UsageError, match="gamma=1 and no horizon"):
        evaluate(TabularMDP(TWO.rows, TWO.reward, 1.0), policy)
    with pytest.raises(UsageError, match="gamma=0 and rewards that depend on the next state"):
        evaluate(TabularMDP(TWO.rows, TWO.rows, 0.0), policy, KL(0.1))
    sparse = Successors(torch.arange(2).expand(2, 2, 2), TWO.rows)
    with pytest.raises(UsageError, match="are known for its successors only"):
        evaluate(TabularMDP(sparse, TWO.rows, 0.9), policy, TotalVariation(0.1))


# --- sampled ---------------------------------------------------------------------------------------------------------


def test_returns_to_go_by_hand():
    assert returns_to_go(t([[1.0, 2.0, 4.0]]), 0.5).tolist() == [[3.0, 4.0, 4.0]]


@pytest.mark.parametrize("ambiguity", [None, KL(penalty=0.5)], ids=str)
@pytest.mark.parametrize("horizon", [None, 3])
def test_the_score_gradient_of_the_worst_world_is_unbiased(ambiguity, horizon):
    """Its mean over many episodes lies within five standard errors of the exact gradient, in every entry."""
    mdp = random_mdp(7, states=3, actions=2, horizon=horizon, gamma=0.5)
    policy = softmax(logits(mdp, 7, () if horizon is None else (horizon,)))
    found = evaluate(mdp, policy, ambiguity)
    length, parts = horizon or 30, []  # 0.5**30 of a return is cut off
    world = found.world()
    for part in range(40):
        met = rollouts(world, policy, 500, length, torch_stream(part, "episodes"))
        step = torch.arange(length)
        baseline = found.value[met.states] if horizon is None else found.value[step, met.states]
        weight = mdp.gamma**step * (returns_to_go(met.rewards, mdp.gamma) - baseline)
        parts.append(score_gradient(policy, met, weight))
    sampled = torch.stack(parts)
    error = (sampled.mean(0) - softmax_gradient(found.occupancy, policy, found.q)).abs()
    assert bool((error <= 5 * sampled.std(0) / 40**0.5).all())
    assert float(sampled.std(0).max()) / 40**0.5 < 0.01


def test_a_score_gradient_by_hand():
    """One episode of two steps: Σ weight · (1[a] − π)."""
    met = Transitions(torch.tensor([[0, 1]]), torch.tensor([[1, 0]]), torch.zeros(1, 2), torch.tensor([[1, 1]]))
    policy, weight = t([[0.25, 0.75], [0.5, 0.5]]), t([[2.0, 3.0]])
    assert score_gradient(policy, met, weight).tolist() == [[-0.5, 0.5], [1.5, -1.5]]
    steps = torch.stack([policy, policy, policy])
    by_step = score_gradient(steps, met, weight, first_step=1)
    assert by_step[1].tolist() == [[-0.5, 0.5], [0.0, 0.0]] and by_step[2].tolist() == [[0.0, 0.0], [1.5, -1.5]]
    assert not by_step[0].any()


@pytest.mark.parametrize(
    ("ambiguity", "message"),
    [
        (KL(t([[0.1, -1.0], [0.1, 0.1]])), r"radius\[0, 1\] = -1 is not allowed"),
        (KL(penalty=t(torch.nan)), "penalty = nan is not allowed"),
        (KL(t([0.1, 0.2])), r"shape \[2\]; it must be a number or \[2, 2\]"),
        (Mixed((CVaR(0.1), KL(t([[0.1, torch.nan]]))), (0.5, 0.5)), r"radius\[0, 1\] = nan"),
        (Box(lower=np.zeros((3, 2, 2)), upper=np.ones((3, 2, 2))), r"leading axes \[3, 2\]; .* \[2, 2\]"),
        (Box(lower=np.zeros(3), upper=np.ones(3)), "made for 3 outcomes, but there are 2 states"),
    ],
)
def test_sets_that_do_not_fit_are_refused(ambiguity, message):
    with pytest.raises(UsageError, match=message):
        evaluate(TWO, softmax(logits(TWO)), ambiguity)
    with pytest.raises(UsageError, match=message):
        RobustRVI(ambiguity=ambiguity).admit(TWO)
    with pytest.raises(UsageError, match=message):
        solve(TWO, ambiguity)

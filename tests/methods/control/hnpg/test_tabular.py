"""HAC: the policy step in numbers and as a natural gradient, and the hybrid critic against exact values."""

from __future__ import annotations

import numpy as np
import pytest

from surefoot.methods.control.hnpg.tabular import Steps, evaluated, improved, mixed


def test_the_policy_step_in_numbers():
    policy, f = np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.0, 2.0])
    new = improved(policy, f, 0.5)
    np.testing.assert_allclose(new, (0.494216, 0.179854, 0.325930), atol=1e-6)
    np.testing.assert_allclose(improved(policy, f + 7.0, 0.5), new)


def test_it_is_the_natural_gradient_of_a_softmax():
    g = np.random.default_rng(0)
    policy, f, eta = g.dirichlet(np.ones(4)), g.normal(size=4), 0.3
    phi = np.eye(4) - policy  # ∇_θ log π(a), a row an action
    fisher = (phi.T * policy) @ phi
    gradient = phi.T @ (policy * (f - policy @ f))
    direction = np.linalg.pinv(fisher) @ gradient
    logits = np.log(policy) + eta * direction
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(), improved(policy, f, eta))
    other = np.log(policy) - eta * direction  # the wrong sign is no match
    assert np.abs(np.exp(other) / np.exp(other).sum() - improved(policy, f, eta)).max() > 0.01


@pytest.mark.parametrize(("lam", "answer"), [(0.0, 2.0), (0.1, 1.909091), (1.0, 1.5), (10.0, 1.090909)])
def test_an_entry_in_both_sets_gets_the_weighted_mean(lam, answer):
    one, target = np.ones((1, 1)), np.full((1, 1), 2.0)
    assert mixed(one, one, target, one, 1 / (1 + lam), np.zeros((1, 1)))[0, 0] == pytest.approx(answer, abs=1e-6)
    nothing = np.zeros((1, 1))
    assert mixed(one, nothing, target, nothing, 0.5, np.full((1, 1), 9.0))[0, 0] == 9.0


def deterministic(seed: int):
    """A deterministic MDP, every pair of which is in the data of every step once, a policy, and its exact values."""
    g = np.random.default_rng(seed)
    steps, states, actions = 4, 3, 2
    move, pay = g.integers(states, size=(steps, states, actions)), g.normal(size=(steps, states, actions))
    policy = g.dirichlet(np.ones(actions), size=(steps, states))
    q, value = np.zeros((steps, states, actions)), np.zeros(states)
    for h in reversed(range(steps)):
        q[h] = pay[h] + 0.9 * value[move[h]]
        value = (policy[h] * q[h]).sum(-1)
    state, action = (x.reshape(-1, 1).repeat(steps, 1) for x in np.indices((states, actions)))
    hs = np.arange(steps)
    return policy, q, Steps(state, action, pay[hs, state, action], move[hs, state, action])


@pytest.mark.parametrize("seed", range(5))
def test_data_that_cover_everything_give_the_policys_exact_values(seed):
    policy, q, data = deterministic(seed)
    found = evaluated(np.zeros_like(q), policy, None, data, 1.0, 0.9)
    np.testing.assert_allclose(found, q, atol=1e-12)


def test_both_sets_agree_where_both_are_right_and_returns_alone_never_bootstrap():
    policy, q, data = deterministic(0)
    last = Steps(*(x[:, -1:] for x in data))
    for share in (0.0, 0.3, 1.0):
        found = evaluated(np.zeros_like(q[-1:]), policy[-1:], last, last, share, 0.9)
        np.testing.assert_allclose(found, q[-1:], atol=1e-12)
    wrong = data._replace(reward=data.reward + 100)  # a data set that is wrong has no say at a share of 0
    own = evaluated(np.zeros_like(q), policy, data, wrong, 0.0, 0.9)
    np.testing.assert_allclose(own, evaluated(np.zeros_like(q), policy, data, None, 0.5, 0.9))

"""Robust Bellman losses: their conjugates, the closed solutions, and what their updates do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.objectives import bellman

F64 = torch.float64
LOSSES = [bellman.squared(), bellman.huber(1.0), bellman.huber(0.3), bellman.absolute()]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=str)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def test_the_conjugate_of_the_huber_loss():
    """Card, exact check 1."""
    loss, x = bellman.huber(1.0), vector(-3, -0.5, 0.7, 2.5)
    assert loss(x).tolist() == pytest.approx([5, 0.25, 0.49, 4])
    assert loss.dual(x).tolist() == [-1, -0.5, 0.7, 1]
    with pytest.raises(UsageError, match="tau=0"):
        bellman.huber(0.0)


@given(st.floats(-50, 50), st.floats(-60, 60), st.floats(0.01, 20))
@settings(max_examples=60, deadline=None)
def test_h_attains_the_largest_value_among_all_allowed_ones(x, other, tau):
    error = vector(x)
    for loss, limit in ((bellman.squared(), np.inf), (bellman.huber(tau), tau)):
        h, rival = loss.dual(error), float(np.clip(other, -limit, limit))
        assert float(2 * error * h - h**2) == pytest.approx(float(loss(error)), rel=1e-9, abs=1e-9)
        assert 2 * x * rival - rival**2 <= float(loss(error)) * (1 + 1e-9) + 1e-9
    assert float(error * bellman.absolute().dual(error)) == abs(x) >= x * float(np.clip(other, -1, 1))


def test_the_minimisers_of_one_shared_weight():
    """Card, exact check 2: γ = 0, expected rewards 0, 0 and 10, uniform states."""
    reward, grid = vector(0, 0, 10), torch.linspace(-2, 12, 14_001, dtype=F64)
    for loss, best, least in (
        (bellman.squared(), 10 / 3, 22.222222),
        (bellman.huber(1.0), 0.5, 6.166667),
        (bellman.huber(5.0), 2.5, 20.833333),
        (bellman.absolute(), 0.0, 3.333333),
    ):
        losses = loss(reward - grid.unsqueeze(-1)).mean(-1)
        assert float(grid[losses.argmin()]) == pytest.approx(best, abs=1e-3)
        assert float(losses.min()) == pytest.approx(least, abs=1e-5)


def test_a_huber_loss_of_no_width_is_the_absolute_one():
    """Card, exact check 4."""
    x = vector(-3, -0.1, 0.2, 5)
    assert (bellman.huber(1e-9)(x) / 2e-9).tolist() == pytest.approx(x.abs().tolist(), abs=1e-8)
    assert (bellman.huber(1e-9).dual(x) / 1e-9).tolist() == pytest.approx(bellman.absolute().dual(x).tolist())


def gradients(update, loss: bellman.BellmanLoss, error: float, estimate: float, ratio: float = 1.0) -> tuple:
    """The update's derivatives in v(s) and in γ·v(s')."""
    value, later = vector(0.7).requires_grad_(), vector(0.4).requires_grad_()
    u = vector(estimate).requires_grad_()
    reward = error - 0.4 + 0.7
    update(loss, value, reward + later, u, ratio).sum().backward()
    assert u.grad is None or float(u.grad) == 0
    return float(value.grad), float(later.grad)  # type: ignore[arg-type]


@every_loss
@pytest.mark.parametrize("estimate", [-2.0, -0.2, 0.1, 3.0])
def test_the_updates(loss, estimate):
    """ρ·h·(γ∇v(s') − ∇v(s)), and TDC where h is the estimate itself."""
    h = float(loss.dual(vector(estimate)))
    assert gradients(bellman.saddle, loss, 1.7, estimate, 2.0) == pytest.approx((-2 * h, 2 * h))
    wanted = (-2 * 1.7, 2 * estimate) if h == estimate else (-2 * h, 2 * h)
    assert gradients(bellman.corrected, loss, 1.7, estimate, 2.0) == pytest.approx(wanted)


def test_without_a_limit_the_updates_are_those_of_the_squared_error():
    """Card, exact check 3."""
    for update in (bellman.saddle, bellman.corrected):
        wide, plain = (gradients(update, loss, 4.0, 2.5) for loss in (bellman.huber(1e6), bellman.squared()))
        assert wide == plain
    assert gradients(bellman.corrected, bellman.squared(), 4.0, 2.5) == pytest.approx((-4.0, 2.5))


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
@settings(max_examples=40, deadline=None)
def test_the_saddle_update_is_bounded_whatever_the_reward(error, estimate):
    """Card, exact check 5."""
    now, later = gradients(bellman.saddle, bellman.huber(0.5), error, estimate, 3.0)
    assert max(abs(now), abs(later)) <= 1.5


def test_after_an_end_the_gradient_is_that_of_the_state_alone():
    """Card, exact check 8."""
    value, later = vector(0.7).requires_grad_(), vector(0.4).requires_grad_()
    for update in (bellman.saddle, bellman.corrected):
        (slope,) = torch.autograd.grad(update(bellman.huber(1.0), value, 2 + 0.0 * later, vector(0.5)).sum(), later)
        assert float(slope) == 0


def test_the_estimate_aims_at_the_error_under_the_target_policy():
    """E_b[ρδ] = E_π[δ]: the ratio multiplies the target, not the loss."""
    behaviour, policy, error = vector(0.25, 0.75), vector(0.9, 0.1), vector(3.0, -1.0)
    u = vector(0.3, 0.3).requires_grad_()
    (slope,) = torch.autograd.grad((behaviour * bellman.regression(u, error, policy / behaviour)).sum(), u)
    assert float(slope.sum()) == pytest.approx(0.3 - float(policy @ error))


def test_noise_in_rewards_moves_the_loss_of_samples_and_not_that_of_expectations():
    """Card, exact check 7: two states share a weight; in one the reward is 0 or 6 by a fair coin."""
    grid = torch.linspace(-1, 7, 8001, dtype=F64)
    loss = bellman.huber(1.0)
    expected = loss(vector(3, 0) - grid.unsqueeze(-1)).mean(-1)
    sampled = (0.5 * (loss(0 - grid) + loss(6 - grid)) + loss(0 - grid)) / 2
    noiseless = loss(vector(3, 3, 0, 0) - grid.unsqueeze(-1)).mean(-1)
    assert float(grid[expected.argmin()]) == float(grid[noiseless.argmin()])
    assert abs(float(grid[sampled.argmin()]) - float(grid[expected.argmin()])) > 0.2


@every_loss
def test_with_a_weight_a_state_all_losses_have_the_true_values(loss):
    """Card, exact check 6: δ̄ is 0 everywhere at v_π, and the loss is 0 only there."""
    g = torch.Generator().manual_seed(0)
    kernel = torch.rand(4, 4, generator=g, dtype=F64)
    kernel, reward = kernel / kernel.sum(1, keepdim=True), torch.randn(4, generator=g, dtype=F64)
    values = torch.linalg.solve(torch.eye(4, dtype=F64) - 0.9 * kernel, reward)
    at = lambda v: float(loss(reward + 0.9 * kernel @ v - v).mean())  # noqa: E731
    assert at(values) < 1e-14 < at(values + vector(0.1, 0, 0, 0))


def test_the_value_of_the_epsilon_greedy_policy():
    values = torch.tensor([[1.0, 3.0, 3.0, -1e8]], dtype=F64).requires_grad_()
    allowed = torch.tensor([[True, True, True, False]])
    found = bellman.epsilon_greedy_value(values, 0.3, allowed)
    assert float(found) == pytest.approx(0.7 * 3 + 0.1 * (1 + 3 + 3))
    (slope,) = torch.autograd.grad(found.sum(), values)
    assert slope[0].tolist() == pytest.approx([0.1, 0.45, 0.45, 0])

"""The E-step against worked numbers, brute force and its own duality."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from surefoot.objectives import estep

F64 = torch.float64
ADVANTAGE = torch.tensor([2, -1, 0.5, 3, 0, -2], dtype=F64)
ALL = torch.ones(6, dtype=torch.bool)
KEPT = torch.tensor([True, False, True, True, False, False])
BOUND = 0.01

samples = st.lists(
    st.tuples(st.floats(-50, 50).map(lambda x: round(x, 2)), st.booleans()), min_size=1, max_size=20
).map(lambda rows: (torch.tensor([a for a, _ in rows], dtype=F64), torch.tensor([v for _, v in rows])))
temperatures = st.floats(0.05, 20.0).map(lambda x: torch.tensor(x, dtype=F64))


def kl_to_uniform(weights: torch.Tensor) -> float:
    inside = weights[weights > 0]
    return float((inside * torch.log(inside * len(inside))).sum())


def slope(eta: float, advantage=ADVANTAGE, kept=KEPT) -> float:
    temperature = torch.tensor(eta, dtype=F64, requires_grad=True)
    loss = estep.temperature_loss(advantage, temperature, kept, BOUND)
    return float(torch.autograd.grad(loss, temperature)[0])


def test_worked_weights():
    assert torch.equal(estep.top_half(ADVANTAGE, ALL), KEPT)
    psi = estep.weights(ADVANTAGE, torch.tensor(1.0, dtype=F64), KEPT)
    expected = torch.tensor([0.253716, 0, 0.056612, 0.689672, 0, 0], dtype=F64)
    torch.testing.assert_close(psi, expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize(("eta", "value", "derivative"), [
    (0.5, 2.522116, -0.689269), (1.0, 2.282927, -0.321828), (2.0, 2.099139, -0.101047),
])  # fmt: skip
def test_worked_temperature_loss_and_its_slope(eta, value, derivative):
    temperature = torch.tensor(eta, dtype=F64)
    assert float(estep.temperature_loss(ADVANTAGE, temperature, KEPT, BOUND)) == pytest.approx(value, abs=5e-7)
    assert slope(eta) == pytest.approx(derivative, abs=5e-7)
    psi = estep.weights(ADVANTAGE, temperature, KEPT)
    assert slope(eta) == pytest.approx(BOUND - kl_to_uniform(psi), abs=1e-12)


def test_the_dual_optimum_spends_the_whole_bound():
    best = brentq(slope, 0.5, 100.0)
    psi = estep.weights(ADVANTAGE, torch.tensor(best, dtype=F64), KEPT)
    assert kl_to_uniform(psi) == pytest.approx(BOUND, abs=1e-9)
    # Strong duality: the loss there is the largest mean of Â that any weights in the ball reach.
    loss = estep.temperature_loss(ADVANTAGE, torch.tensor(best, dtype=F64), KEPT, BOUND)
    assert float(loss) == pytest.approx(float((psi * ADVANTAGE).sum()), abs=1e-9)


def test_hot_is_uniform_and_cold_is_the_best_sample():
    hot, cold = (estep.weights(ADVANTAGE, torch.tensor(eta, dtype=F64), KEPT) for eta in (1e9, 1e-8))
    torch.testing.assert_close(hot, KEPT.to(F64) / 3, rtol=0, atol=1e-8)
    assert torch.equal(cold, torch.tensor([0, 0, 0, 1, 0, 0], dtype=F64))
    assert math.isfinite(slope(1e-8))


@given(samples)
def test_top_half_is_a_comparison_with_the_median_of_the_valid(data):
    advantage, valid = data
    padded = torch.where(valid, advantage, torch.nan)
    kept = estep.top_half(padded, valid)
    if not valid.any():
        assert not kept.any()
        return
    assert torch.equal(kept, valid & (advantage >= np.median(advantage[valid].numpy())))


@given(samples, temperatures)
def test_weights_are_the_softmax_of_the_kept_and_ignore_padding(data, temperature):
    advantage, kept = data
    psi = estep.weights(torch.where(kept, advantage, torch.nan), temperature, kept)
    assert (psi[~kept] == 0).all()
    torch.testing.assert_close(psi[kept], torch.softmax(advantage[kept] / temperature, 0))


@given(samples, temperatures, st.floats(-10, 10), st.floats(0.1, 10))
def test_weights_ignore_a_constant_and_a_common_scale(data, temperature, shift, scale):
    advantage, kept = data
    psi = estep.weights(advantage, temperature, kept)
    torch.testing.assert_close(estep.weights(advantage + shift, temperature, kept), psi, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(estep.weights(scale * advantage, scale * temperature, kept), psi, rtol=1e-9, atol=1e-9)


@given(samples, temperatures)
def test_temperature_loss_is_the_log_mean_exp(data, temperature):
    advantage, kept = data
    loss = estep.temperature_loss(torch.where(kept, advantage, torch.nan), temperature, kept, 0.3)
    if not kept.any():
        assert loss == 0
        return
    inside = torch.logsumexp(advantage[kept] / temperature, 0) - math.log(int(kept.sum()))
    torch.testing.assert_close(loss, temperature * (0.3 + inside), rtol=1e-9, atol=1e-9)


def test_nothing_kept_moves_nothing():
    none = torch.zeros_like(ALL)
    assert slope(1.0, torch.full_like(ADVANTAGE, torch.nan), none) == 0
    assert (estep.weights(ADVANTAGE, torch.tensor(1.0, dtype=F64), none) == 0).all()


def test_equal_advantages_are_all_kept_and_weigh_the_same():
    equal = torch.full((2, 3), 0.7, dtype=F64)
    kept = estep.top_half(equal, torch.ones(2, 3, dtype=torch.bool))
    assert kept.all()
    torch.testing.assert_close(estep.weights(equal, torch.tensor(1.0, dtype=F64), kept), torch.full_like(equal, 1 / 6))


def test_batches_side_by_side_under_vmap_are_batches_alone():
    g = torch.Generator().manual_seed(0)
    advantage, valid = torch.randn(3, 4, 5, generator=g, dtype=F64), torch.rand(3, 4, 5, generator=g) < 0.7
    eta = torch.tensor([0.5, 1.0, 2.0], dtype=F64)

    def step(advantage, valid, eta):
        kept = estep.top_half(advantage, valid)
        slope = torch.func.grad(lambda e: estep.temperature_loss(advantage, e, kept, BOUND))(eta)
        return estep.weights(advantage, eta, kept), slope

    for together, alone in zip(
        torch.func.vmap(step)(advantage, valid, eta), zip(*map(step, advantage, valid, eta), strict=True), strict=True
    ):
        torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-14)


def test_a_multiplier_grows_under_descent_exactly_while_its_bound_is_broken():
    for kl in (0.004, 0.01, 0.025):
        alpha = torch.tensor(5.0, dtype=F64, requires_grad=True)
        divergence = torch.tensor(kl, dtype=F64, requires_grad=True)
        loss = estep.multiplier_loss(divergence, alpha, 0.01)
        up, pull = torch.autograd.grad(loss, (alpha, divergence))
        assert float(up) == pytest.approx(0.01 - kl, abs=1e-15)
        assert float(pull) == 5.0


def test_weighted_likelihood_pushes_with_the_weight_at_any_ratio():
    part, ratio = estep.weighted_likelihood(), torch.tensor([0.1, 1.0, 7.0], dtype=F64)
    weight = torch.tensor([0.2, 0.3, 0.5], dtype=F64)
    torch.testing.assert_close(part.weight(ratio, weight) * ratio, weight)

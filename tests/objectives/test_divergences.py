"""Divergences against worked numbers, torch.distributions, sampling, and the Fisher matrix."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, Normal, kl_divergence

from surefoot.objectives.divergences import categorical_kl, decoupled_gaussian_kl, gaussian_kl, k1, k2, k3, k3_weighted

F64 = torch.float64
seeds = st.integers(0, 2**31 - 1)


def vector(*x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=F64)


def test_gaussian_worked_numbers():
    zero, half, unit, narrow = vector(0.0), vector(0.5), vector(0.0), vector(0.8).log()
    assert gaussian_kl(zero, unit, half, unit).item() == pytest.approx(0.125, abs=1e-12)
    assert gaussian_kl(zero, unit, half, narrow).item() == pytest.approx(0.253419, abs=5e-7)
    assert gaussian_kl(half, narrow, zero, unit).item() == pytest.approx(0.168144, abs=5e-7)


def test_categorical_worked_numbers():
    p, q = vector(0.5, 0.3, 0.2).log(), vector(0.4, 0.4, 0.2).log()
    assert categorical_kl(p, q).item() == pytest.approx(0.025267, abs=5e-7)
    assert categorical_kl(q, p).item() == pytest.approx(0.025815, abs=5e-7)


def test_decoupled_worked_numbers():
    old, new = (vector(0, 0), vector(1, 0.5).log()), (vector(0.1, -0.1), vector(1.1, 0.45).log())
    mean_part, std_part = decoupled_gaussian_kl(*old, *new)
    assert mean_part.item() == pytest.approx(0.025, abs=1e-12)
    assert std_part.item() == pytest.approx(0.020457, abs=5e-7)
    assert gaussian_kl(*old, *new).item() == pytest.approx(0.049280, abs=5e-7)


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_gaussian_against_torch_distributions(seed):
    g = torch.Generator().manual_seed(seed)
    mean_p, mean_q, log_std_p, log_std_q = (torch.randn(4, 3, generator=g, dtype=F64) for _ in range(4))
    p, q = Normal(mean_p, log_std_p.exp()), Normal(mean_q, log_std_q.exp())
    torch.testing.assert_close(gaussian_kl(mean_p, log_std_p, mean_q, log_std_q), kl_divergence(p, q).sum(-1))
    mean_part, std_part = decoupled_gaussian_kl(mean_p, log_std_p, mean_q, log_std_q)
    torch.testing.assert_close(mean_part, kl_divergence(p, Normal(mean_q, log_std_p.exp())).sum(-1))
    torch.testing.assert_close(std_part, kl_divergence(p, Normal(mean_p, log_std_q.exp())).sum(-1))


@settings(max_examples=30, deadline=None)
@given(seed=seeds, shift=st.floats(-50, 50))
def test_categorical_against_torch_distributions(seed, shift):
    g = torch.Generator().manual_seed(seed)
    logits_p, logits_q = (2 * torch.randn(4, 5, generator=g, dtype=F64) for _ in range(2))
    expected = kl_divergence(Categorical(logits=logits_p), Categorical(logits=logits_q))
    torch.testing.assert_close(categorical_kl(logits_p + shift, logits_q), expected)
    assert (expected >= 0).all()


def test_masked_actions_add_nothing_to_the_value_or_the_gradient():
    p, q = vector(1.0, 2.0, -math.inf).requires_grad_(), vector(0.5, 0.7, -math.inf).requires_grad_()
    short_p, short_q = (x.detach()[:2].clone().requires_grad_() for x in (p, q))
    masked, short = categorical_kl(p, q), categorical_kl(short_p, short_q)
    torch.testing.assert_close(masked, short)
    for with_mask, without in zip(torch.autograd.grad(masked, (p, q)), torch.autograd.grad(short, (short_p, short_q))):
        torch.testing.assert_close(with_mask, torch.cat([without, vector(0.0)]))


def test_an_action_that_only_p_takes_makes_the_kl_infinite():
    assert categorical_kl(vector(0, 0), vector(0, -math.inf)).item() == math.inf


def test_gradients_by_finite_differences():
    g = torch.Generator().manual_seed(1)
    inputs = tuple(torch.randn(2, 3, generator=g, dtype=F64, requires_grad=True) for _ in range(4))
    assert torch.autograd.gradcheck(gaussian_kl, inputs)
    assert torch.autograd.gradcheck(decoupled_gaussian_kl, inputs)
    assert torch.autograd.gradcheck(categorical_kl, inputs[:2])
    for estimator in (k1, k2, k3):
        assert torch.autograd.gradcheck(estimator, inputs[:1])


def test_value_and_gradient_vanish_at_equality():
    mean, log_std = vector(0.3, -1.0), vector(-0.5, 0.2)
    for move in (lambda m, s: gaussian_kl(mean, log_std, m, s), lambda m, s: categorical_kl(mean, m) + 0 * s.sum()):
        m, s = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
        value = move(m, s)
        assert value.item() == pytest.approx(0, abs=1e-15)
        for gradient in torch.autograd.grad(value, (m, s)):
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)


def test_curvature_at_equality_is_the_fisher_matrix():
    logits = vector(0.2, -1.0, 0.7)
    p = logits.softmax(-1)
    hessian = torch.autograd.functional.hessian(lambda q: categorical_kl(logits, q), logits)
    torch.testing.assert_close(hessian, torch.diag(p) - torch.outer(p, p))

    mean, log_std = vector(0.3, -1.0), vector(-0.5, 0.2)
    (mm, ms), (_, ss) = torch.autograd.functional.hessian(
        lambda m, s: gaussian_kl(mean, log_std, m, s), (mean, log_std)
    )
    torch.testing.assert_close(mm, torch.diag(torch.exp(-2 * log_std)))
    torch.testing.assert_close(ss, 2 * torch.eye(2, dtype=F64))
    torch.testing.assert_close(ms, torch.zeros(2, 2, dtype=F64))


def test_estimators_worked_numbers():
    log_ratio = vector(0.1, -0.2, 0.3)
    assert k1(log_ratio).mean().item() == pytest.approx(-0.0666667, abs=1e-6)
    assert k2(log_ratio).mean().item() == pytest.approx(0.14 / 6, abs=1e-12)
    assert k3(log_ratio).mean().item() == pytest.approx(0.024587, abs=5e-7)


@settings(max_examples=200, deadline=None)
@given(x=st.floats(-700, 700))
def test_k2_and_k3_are_never_negative(x):
    log_ratio = vector(x)
    assert k3(log_ratio) >= 0
    assert k2(log_ratio) >= 0


@pytest.mark.parametrize("shift", [0.3, -0.8])
def test_k1_and_k3_are_unbiased_and_k2_is_not(shift):
    count = 200_000
    p, q = Normal(vector(shift), vector(0.8)), Normal(vector(0.0), vector(1.0))
    x = torch.randn(count, 1, generator=torch.Generator().manual_seed(5), dtype=F64)
    log_ratio = p.log_prob(x) - q.log_prob(x)
    exact = kl_divergence(q, p).item()

    def z_score(samples: torch.Tensor) -> float:
        return (samples.mean().item() - exact) / (samples.std().item() / math.sqrt(count))

    assert abs(z_score(k1(log_ratio))) < 4
    assert abs(z_score(k3(log_ratio))) < 4
    assert abs(z_score(k2(log_ratio))) > 10


def test_on_policy_gradient_of_k2_is_the_gradient_of_the_kl():
    """Summed exactly over actions: E_q[∇k2] = ∇KL(q ‖ p) in q's logits, which E_q[∇k1] = 0 is not."""
    q, p = vector(0.2, -0.4, 1.0).requires_grad_(), vector(0.5, 0.1, -0.3)
    log_q, log_p = q.log_softmax(-1), p.log_softmax(-1)
    probability = log_q.exp().detach()
    (expected,) = torch.autograd.grad(categorical_kl(q, p), q)
    (by_k2,) = torch.autograd.grad((probability * k2(log_p - log_q)).sum(), q, retain_graph=True)
    (by_k1,) = torch.autograd.grad((probability * k1(log_p - log_q)).sum(), q)
    torch.testing.assert_close(by_k2, expected)
    torch.testing.assert_close(by_k1, torch.zeros_like(q), rtol=0, atol=1e-15)
    assert expected.abs().max() > 0.1


def test_k3_goes_on_along_its_tangent_where_its_exponential_would_overflow():
    x = torch.tensor([-100.0, 19.0, 20.0 - 1e-4, 21.0, 100.0, 1e4], requires_grad=True)
    value = k3(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    steep = math.expm1(20)
    wanted = [99, math.expm1(19) - 19, steep - 20, steep * 2 - 20, steep * 81 - 20, steep * 9981 - 20]
    torch.testing.assert_close(value.detach(), torch.tensor(wanted), rtol=1e-3, atol=0)
    torch.testing.assert_close(
        slope, torch.tensor([-1.0, math.expm1(19), steep, steep, steep, steep]), rtol=1e-3, atol=0
    )
    assert k3(torch.tensor(-math.inf)) == math.inf


@given(seeds, st.integers(2, 6))
def test_the_gradient_of_the_weighted_k3_is_that_of_the_kl_whoever_drew(seed, n):
    """The expectation over all actions of what drew them, against the exact KL of the policy from the reference."""
    g = torch.Generator().manual_seed(seed)
    drew, reference = (torch.randn(n, generator=g, dtype=F64).log_softmax(-1) for _ in range(2))
    logits = torch.randn(n, generator=g, dtype=F64).requires_grad_()
    log_q = logits.log_softmax(-1)
    estimate = (drew.exp() * k3_weighted(reference - log_q, log_q - drew)).sum()
    exact = categorical_kl(logits, reference)
    torch.testing.assert_close(estimate, exact)
    grads = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (estimate, exact)]
    torch.testing.assert_close(*grads)
    plain = (drew.exp() * k3(reference - log_q)).sum()
    assert not torch.allclose(torch.autograd.grad(plain, logits)[0], grads[1], atol=1e-6)

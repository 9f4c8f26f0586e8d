"""Closed-form improvement: numbers by hand, exact solvers, the true density, and the limits."""

from __future__ import annotations

import math

import cvxpy as cp
import numpy as np
import pytest
import torch

from surefoot.ambiguity import MeanDeviation, worst_case
from surefoot.objectives.divergences import gaussian_kl
from surefoot.objectives.improvement import Mixture, center, jensen, pessimistic, radii, step


def tensor(*x):
    return torch.tensor(x, dtype=torch.float64)


TWO = Mixture(tensor(0.7, 0.3).log(), tensor((0, 0), (1, 0.5)), tensor((0.04, 0.09), (0.01, 0.04)))
SLOPE = tensor(1, 2)


def log_density(mixture: Mixture, u: torch.Tensor) -> torch.Tensor:
    each = torch.distributions.Normal(mixture.means, mixture.variances.sqrt()).log_prob(u).sum(-1)
    return (mixture.log_weights + each).logsumexp(-1)


def test_one_gaussian_by_hand():
    mean, variance = tensor(0.2, -0.1), tensor(0.04, 0.09)
    u = step(mean, variance, SLOPE, 2 * 0.5)
    torch.testing.assert_close(u, tensor(0.263246, 0.184605), rtol=0, atol=1e-6)
    assert ((u - mean) ** 2 / variance).sum() == pytest.approx(1)
    assert SLOPE @ (u - mean) == pytest.approx(0.632456, abs=1e-6)
    for scale in (1e-20, 7.0, 1e20):
        torch.testing.assert_close(step(mean, variance, scale * SLOPE, 1.0), u)
    assert torch.equal(step(mean, variance, 0 * SLOPE, 1.0), mean)
    assert torch.equal(step(mean, variance, SLOPE, 0.0), mean)
    kl = gaussian_kl(u, 0.5 * variance.log(), mean, 0.5 * variance.log())
    assert kl.item() == pytest.approx(0.5)  # log τ


def test_components_by_hand():
    torch.testing.assert_close(TWO.peaks(), tensor(0.618859, 0.870173), rtol=0, atol=1e-6)
    kappa = radii(TWO, 0.5)
    torch.testing.assert_close(kappa, tensor(0.497371, 1.0), rtol=0, atol=1e-6)
    points = step(TWO.means, TWO.variances, SLOPE.expand(2, 2), kappa)
    torch.testing.assert_close(points, tensor((0.044604, 0.200716), (1.024254, 0.694029)), rtol=0, atol=1e-6)
    assert radii(TWO, 0.0).tolist() == [0, 0]


def test_jensen_by_hand():
    middle, inverse, spread = center(TWO)
    torch.testing.assert_close(1 / inverse, tensor(47.5, 15.277778), rtol=0, atol=1e-6)
    torch.testing.assert_close(middle, tensor(0.631579, 0.245455), rtol=0, atol=1e-6)
    assert spread.item() == pytest.approx(12.007177, abs=1e-6)
    assert not jensen(TWO, SLOPE, 6.003588)[1] and jensen(TWO, SLOPE, 6.003589)[1]
    point, feasible = jensen(TWO, SLOPE, 10.0)
    assert feasible
    torch.testing.assert_close(point, tensor(0.743487, 0.941321), rtol=0, atol=1e-6)
    far = ((point - TWO.means) ** 2 / TWO.variances).sum(-1)
    assert TWO.log_weights.exp() @ far == pytest.approx(20)
    below = jensen(TWO, SLOPE, 1.0)
    assert not below[1] and torch.isfinite(below[0]).all()


def mixtures(count: int, n: int, seed: int = 0) -> Mixture:
    g = torch.Generator().manual_seed(seed)
    shape, kind = (count, n, 3), torch.float64
    weights = torch.randn(count, n, generator=g, dtype=kind).log_softmax(-1)
    means = 0.3 * torch.randn(*shape, generator=g, dtype=kind)
    return Mixture(weights, means, torch.rand(*shape, generator=g, dtype=kind) + 0.05)


@pytest.mark.parametrize("log_tau", [0.0, 0.3, 2.0])
def test_with_one_component_all_bounds_are_the_same(log_tau):
    one, slope = mixtures(5, 1), torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alone = step(one.means[:, 0], one.variances[:, 0], slope, 2 * log_tau)
    parts = step(one.means, one.variances, slope.unsqueeze(1), radii(one, log_tau))
    point, feasible = jensen(one, slope, log_tau)
    assert feasible.all() or log_tau == 0  # there it is a single point, up to rounding
    torch.testing.assert_close(parts[:, 0], alone)
    torch.testing.assert_close(point, alone)


def test_what_satisfies_a_bound_satisfies_the_constraint():
    """In the true mixture: δ = log τ − c for components, and log τ − Σ w_i log N_i(μ_i) for Jensen's bound."""
    many = mixtures(200, 4)
    slope = torch.randn(200, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for log_tau in (0.2, 1.0, 4.0):
        peaks = many.peaks()
        points = step(many.means, many.variances, slope.unsqueeze(1).expand_as(many.means), radii(many, log_tau))
        own = Mixture(*(x.unsqueeze(1) for x in many))
        density, top = log_density(own, points.unsqueeze(2)), peaks.amax(-1, keepdim=True)
        inside = log_tau + peaks >= top
        assert inside.any() and (-density <= log_tau - top + 1e-9)[inside].all()
        point, feasible = jensen(many, slope, log_tau)
        level = (many.log_weights.exp() * (peaks - many.log_weights)).sum(-1)
        assert (-log_density(many, point.unsqueeze(1)) <= log_tau - level + 1e-9)[feasible].all()
    assert feasible.any()


@pytest.mark.parametrize("seed", range(3))
def test_a_convex_solver_finds_the_same_points(seed):
    one = Mixture(*(x[0] for x in mixtures(1, 3, seed)))
    slope = np.random.default_rng(seed).normal(size=3)
    kappa, weights = radii(one, 1.5).numpy(), one.log_weights.exp().numpy()
    means, variances = one.means.numpy(), one.variances.numpy()
    u = cp.Variable(3)
    far = [cp.sum_squares((u - m) / np.sqrt(v)) for m, v in zip(means, variances, strict=True)]
    for i in range(3):
        if kappa[i] > 0:
            cp.Problem(cp.Maximize(slope @ u), [far[i] <= kappa[i]]).solve(solver="CLARABEL")
            mine = step(one.means[i], one.variances[i], torch.from_numpy(slope), float(kappa[i]))
            np.testing.assert_allclose(mine.numpy(), u.value, atol=1e-4)
    delta = float(center(one)[2]) / 2 + 1.0
    total = sum(w * x for w, x in zip(weights, far, strict=True))
    cp.Problem(cp.Maximize(slope @ u), [total <= 2 * delta]).solve(solver="CLARABEL")
    np.testing.assert_allclose(jensen(one, torch.from_numpy(slope), delta)[0].numpy(), u.value, atol=1e-4)


def test_no_gradient_is_lost_or_undefined():
    one = mixtures(3, 2)
    leaves = [x.clone().requires_grad_() for x in one]
    slope = torch.randn(3, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda *x: step(x[1], x[2], slope, radii(Mixture(*x), 2.0)), leaves)
    flat = step(leaves[1], leaves[2], 0 * slope, radii(Mixture(*leaves), 0.0)).sum()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(flat, leaves, materialize_grads=True))


def test_pessimism_is_a_worst_case_over_weights_of_the_critics():
    values = tensor((1.0, 4.0), (1.5, 4.0), (1.8, 5.0))
    for beta in (0.3, 0.6):
        uniform = np.full(3, 1 / 3)
        found = worst_case(values.T, torch.from_numpy(uniform), MeanDeviation(beta * math.sqrt(3 / 2)))
        torch.testing.assert_close(pessimistic(values, beta), found.value)
    assert torch.equal(pessimistic(values[:1], 5.0), values[0])
    assert pessimistic(tensor((1.0,), (3.0,)), 1.0).item() == pytest.approx(2 - 2 / math.sqrt(2))

"""The constrained second-order step against worked numbers, dense linear algebra and exact finite MDPs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from surefoot.loops.on_policy.trust_region import (
    backtrack,
    conjugate_gradient,
    gauss_newton_product,
    hessian_product,
    step_length,
)
from surefoot.objectives.divergences import categorical_kl, gaussian_kl

F = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
G = torch.ones(2, dtype=torch.float64)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def close(x: Tensor, y: object, tolerance: float = 1e-6) -> bool:
    return torch.allclose(x, torch.as_tensor(y, dtype=x.dtype), atol=tolerance, rtol=0)


# --- conjugate gradient --------------------------------------------------------------------------------------------


def test_conjugate_gradient_iterates():
    one, residual = conjugate_gradient(F.mv, G, iterations=1)
    assert close(one, [0.5, 0.5])
    assert float(residual) == pytest.approx(float((G - F @ one).norm()))
    two, residual = conjugate_gradient(F.mv, G, iterations=2)
    assert close(two, [0.285714, 0.857143])
    assert float(residual) < 1e-12


@given(st.integers(1, 12), st.integers(0, 2**20))
def test_conjugate_gradient_solves_positive_definite_systems(size, seed):
    root, b = normal(size, size, seed=seed), normal(size, seed=seed + 1)
    matrix = root @ root.T + 0.5 * torch.eye(size, dtype=torch.float64)
    x, residual = conjugate_gradient(matrix.mv, b, iterations=6 * size, tolerance=1e-24)
    assert np.allclose(x.numpy(), np.linalg.solve(matrix.numpy(), b.numpy()), rtol=1e-7, atol=1e-9)
    assert float(residual) <= 1e-11 * float(b.norm())


@given(st.integers(2, 8), st.integers(0, 2**20))
def test_more_iterations_lower_the_quadratic(size, seed):
    root, b = normal(size, size, seed=seed), normal(size, seed=seed + 1)
    matrix = root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)
    xs = [conjugate_gradient(matrix.mv, b, iterations=k, tolerance=0.0)[0] for k in range(size + 1)]
    heights = [float(0.5 * x @ matrix @ x - b @ x) for x in xs]
    assert all(after <= before + 1e-9 for before, after in zip(heights, heights[1:], strict=False))


def test_a_zero_right_side_asks_for_no_product():
    def never(v: Tensor) -> Tensor:
        raise AssertionError("no product is needed")

    x, residual = conjugate_gradient(never, torch.zeros(3))
    assert torch.equal(x, torch.zeros(3)) and float(residual) == 0


def test_the_tolerance_is_relative_to_the_right_side():
    calls = []

    def counted(v: Tensor) -> Tensor:
        calls.append(v)
        return F @ v

    for scale in (1.0, 1e-9):
        x, _ = conjugate_gradient(counted, scale * G, tolerance=1e-10)
        assert close(x / scale, [0.285714, 0.857143])
    assert len(calls) == 4


def test_curvature_that_is_not_positive_ends_the_iteration():
    x, _ = conjugate_gradient(lambda v: -v, G)
    assert torch.equal(x, torch.zeros_like(G))
    x, _ = conjugate_gradient(lambda v: v * torch.tensor([1.0, float("nan")]), G)
    assert torch.equal(x, torch.zeros_like(G))
    saddle = torch.tensor([2.0, -1.0], dtype=torch.float64)
    x, _ = conjugate_gradient(lambda v: saddle * v, G)
    assert torch.isfinite(x).all()


# --- length and search -----------------------------------------------------------------------------------------------


def test_the_step_ends_on_the_edge_of_the_region():
    x, _ = conjugate_gradient(F.mv, G)
    step = step_length(x @ F @ x, 0.01) * x
    assert close(step, [0.037796, 0.113389])
    assert float(0.5 * step @ F @ step) == pytest.approx(0.01, abs=1e-15)
    assert float(G @ step) == pytest.approx(0.151186, abs=1e-6)


def test_damping_ends_it_inside():
    damped = F + 0.1 * torch.eye(2, dtype=torch.float64)
    x, _ = conjugate_gradient(damped.mv, G)
    step = step_length(x @ damped @ x, 0.01) * x
    assert close(x, [0.291262, 0.776699])
    assert close(step, [0.039859, 0.106289])
    assert float(0.5 * step @ F @ step) == pytest.approx(0.009356, abs=1e-6)


def test_the_length_goes_with_the_root_of_the_radius_and_the_direction_stays():
    x, _ = conjugate_gradient(F.mv, G)
    lengths = [float(step_length(x @ F @ x, radius)) for radius in (1e-8, 4e-8, 1e-2)]
    assert lengths[1] == pytest.approx(2 * lengths[0])
    assert lengths[2] == pytest.approx(1e3 * lengths[0])


@pytest.mark.parametrize("curvature", [0.0, -1.0, float("nan")])
def test_no_curvature_no_step(curvature):
    assert float(step_length(torch.tensor(curvature), 0.01)) == 0.0


@given(st.floats(0.1, 0.9), st.integers(1, 8), st.floats(1e-3, 2.0))
def test_the_first_acceptable_step_is_taken(factor, tries, limit):
    start, step = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    moved, fraction = backtrack(start, step, lambda v: bool(v.max() <= limit), factor, tries)
    wanted = next((factor**j for j in range(tries) if factor**j <= limit), 0.0)
    assert fraction == wanted
    assert torch.equal(moved, start + wanted * step)


def test_a_failed_search_restores_the_start():
    start, seen = torch.tensor([0.1, 0.2]), []
    moved, fraction = backtrack(start, torch.ones(2), lambda v: bool(seen.append(v)), tries=7)
    assert fraction == 0.0 and torch.equal(moved, start) and len(seen) == 7


def test_a_zero_step_is_not_tried():
    start, seen = torch.tensor([0.1, 0.2]), []
    moved, fraction = backtrack(start, torch.zeros(2), lambda v: bool(seen.append(v)))
    assert fraction == 0.0 and torch.equal(moved, start) and not seen


# --- curvature -------------------------------------------------------------------------------------------------------


def network(sizes: tuple[int, ...], inputs: Tensor):
    """A small tanh network as a function of its flat weights, and such weights."""
    shapes = [(o, i + 1) for i, o in zip(sizes, sizes[1:], strict=False)]

    def outputs(vector: Tensor) -> Tensor:
        x, parts = inputs, vector.split([math.prod(s) for s in shapes])
        for n, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
            weight = part.view(shape)
            x = x @ weight[:, :-1].T + weight[:, -1]
            x = torch.tanh(x) if n < len(shapes) - 1 else x
        return x

    return outputs, 0.7 * normal(sum(math.prod(s) for s in shapes), seed=3)


def gaussian(p: Tensor, q: Tensor) -> Tensor:
    return gaussian_kl(*p.split(2, -1), *q.split(2, -1))


@pytest.mark.parametrize("kl", [categorical_kl, gaussian])
def test_the_product_is_that_of_the_hessian_of_the_mean_kl(kl):
    outputs, vector = network((3, 5, 4), normal(6, 3, seed=1))
    weights = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)
    old = outputs(vector)

    def distance(params: Tensor) -> Tensor:
        return (weights * kl(old, params)).sum()

    whole = torch.autograd.functional.hessian(lambda v: distance(outputs(v)), vector)
    product = gauss_newton_product(outputs, vector, hessian_product(distance, old), damping=0.3)
    for seed in range(3):
        v = normal(len(vector), seed=seed)
        assert torch.allclose(product(v), whole @ v + 0.3 * v, rtol=1e-9, atol=1e-12)
    slope = torch.func.grad(lambda v: distance(outputs(v)))(vector)
    assert float(slope.abs().max()) < 1e-14


def test_the_hessian_of_the_kl_is_the_fisher_matrix():
    logits = normal(1, 4, seed=5)
    p = logits.softmax(-1)[0]
    product = hessian_product(lambda q: categorical_kl(logits, q).sum(), logits)
    matrix = torch.stack([product(row[None])[0] for row in torch.eye(4, dtype=torch.float64)])
    assert torch.allclose(matrix, torch.diag(p) - torch.outer(p, p), atol=1e-14)

    outputs, vector = network((3, 4), normal(5, 3, seed=2))
    old, size = outputs(vector).detach(), len(vector)
    scores = torch.autograd.functional.jacobian(lambda v: outputs(v).log_softmax(-1), vector)
    expected = torch.einsum("na,nai,naj->ij", old.softmax(-1), scores, scores) / len(old)
    product = gauss_newton_product(outputs, vector, hessian_product(lambda q: categorical_kl(old, q).mean(), old))
    fisher = torch.stack([product(row) for row in torch.eye(size, dtype=torch.float64)])
    assert torch.allclose(fisher, expected, atol=1e-14)

    params = torch.tensor([[0.3, -1.0, 0.4, -0.7]], dtype=torch.float64)
    product = hessian_product(lambda q: gaussian(params, q).sum(), params)
    matrix = torch.stack([product(row[None])[0] for row in torch.eye(4, dtype=torch.float64)])
    assert torch.allclose(matrix.diagonal(), torch.tensor([math.exp(-0.8), math.exp(1.4), 2.0, 2.0]).double())


def test_the_change_of_the_policy_does_not_depend_on_its_parametrisation():
    inputs, change = normal(7, 3, seed=1), normal(16, 16, seed=9) + 4 * torch.eye(16, dtype=torch.float64)
    plain, theta = network((3, 4), inputs)
    advantage, old = normal(7, 4, seed=8), plain(theta).detach()

    def moved(outputs, vector: Tensor) -> Tensor:
        g = torch.func.grad(lambda v: (outputs(v).softmax(-1) * advantage).sum(-1).mean())(vector)
        metric = hessian_product(lambda q: categorical_kl(old, q).mean(), old)
        product = gauss_newton_product(outputs, vector, metric)
        x, _ = conjugate_gradient(product, g, iterations=400, tolerance=1e-26)
        return outputs(vector + step_length(x @ product(x), 0.01) * x).log_softmax(-1)

    other = moved(lambda phi: plain(change @ phi), torch.linalg.solve(change, theta))
    assert torch.allclose(moved(plain, theta), other, atol=1e-6)
    assert not torch.allclose(other, old.log_softmax(-1), atol=1e-2)


# --- exact finite MDPs -----------------------------------------------------------------------------------------------


def solve(P: Tensor, R: Tensor, start: Tensor, policy: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return, values, advantages and unnormalised discounted visits of a policy `[S, A]` with kernel `[S, A, S']`."""
    kernel, eye = torch.einsum("sa,sat->st", policy, P), torch.eye(len(P), dtype=P.dtype)
    values = torch.linalg.solve(eye - gamma * kernel, (policy * R).sum(-1))
    visits = torch.linalg.solve(eye - gamma * kernel.T, start)
    return start @ values, values, R + gamma * P @ values - values[:, None], visits


def test_the_bound_under_the_trust_region():
    P = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.7, 0.3], [0.1, 0.9]]], dtype=torch.float64)
    R = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    start, gamma = torch.tensor([1.0, 0.0], dtype=torch.float64), 0.9
    old = torch.full((2, 2), 0.5, dtype=torch.float64)
    new = torch.tensor([[0.45, 0.55], [0.4, 0.6]], dtype=torch.float64)
    eta, values, advantages, visits = solve(P, R, start, old, gamma)
    eta_new, _, _, visits_new = solve(P, R, start, new, gamma)
    assert close(values, [7.341040, 7.919075])
    assert close(advantages, [[0.317919, -0.317919], [-1.156069, 1.156069]])
    assert close(visits, [5.317919, 4.682081])
    assert close(eta_new, 8.385757)
    assert close(eta + visits_new @ (new * advantages).sum(-1), float(eta_new), 1e-12)
    surrogate = eta + visits @ (new * advantages).sum(-1)
    assert close(surrogate, 8.254536)
    kl, tv = categorical_kl(old.log(), new.log()).max(), 0.5 * (old - new).abs().sum(-1).max()
    constant = 4 * advantages.abs().max() * gamma / (1 - gamma) ** 2
    assert close(kl, 0.020411) and close(tv, 0.1) and close(constant, 416.184971)
    bounds = surrogate - constant * kl, surrogate - constant * tv**2
    assert close(bounds[0], -0.240215) and close(bounds[1], 4.092686)
    assert max(bounds) <= eta_new


def test_exact_updates_never_lower_the_return():
    """Softmax policies, exact advantages and visits, δ = 0.01: random MDPs of 8 states and 4 actions."""
    S, A, gamma, delta = 8, 4, 0.95, 0.01
    for seed in range(8):
        draw = np.random.default_rng(seed)
        P = torch.as_tensor(draw.dirichlet(np.ones(S), (S, A)))
        R, start = torch.as_tensor(draw.random((S, A))), torch.full((S,), 1 / S, dtype=torch.float64)
        logits = torch.zeros(S, A, dtype=torch.float64)
        eta, _, advantages, visits = solve(P, R, start, logits.softmax(-1), gamma)
        first = eta
        for _ in range(25):
            weights, old = visits / visits.sum(), logits

            def surrogate(x: Tensor, weights: Tensor = weights, advantages: Tensor = advantages) -> Tensor:
                return weights @ (x.view(S, A).softmax(-1) * advantages).sum(-1)

            def mean_kl(x: Tensor, weights: Tensor = weights, old: Tensor = old) -> Tensor:
                return weights @ categorical_kl(old, x.view(S, A))

            flat = logits.flatten()
            g, before = torch.func.grad_and_value(surrogate)(flat)
            fisher = hessian_product(mean_kl, flat)
            x, _ = conjugate_gradient(fisher, g)
            step = step_length(x @ fisher(x), delta) * x

            def acceptable(v: Tensor, surrogate=surrogate, mean_kl=mean_kl, before: Tensor = before) -> bool:
                return bool(mean_kl(v) <= delta) and bool(surrogate(v) > before)

            flat, _ = backtrack(flat, step, acceptable)
            logits = flat.view(S, A)
            assert mean_kl(flat) <= delta
            after, _, advantages, visits = solve(P, R, start, logits.softmax(-1), gamma)
            assert after >= eta - 1e-9, (seed, float(eta), float(after))
            eta = after
        assert eta > first + 0.1 * first.abs()

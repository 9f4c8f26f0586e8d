"""The Polyak step on problems whose path is known in closed form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.methods.control.polyak_pg.polyak import Point, step, step_size, twin_step

F64 = torch.float64
positive = st.floats(1e-3, 1e3)


def tensor(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=F64)


def test_quadratic():
    """f = ½(x₁² + 10x₂²), minimised, f* = 0: ascent on −f."""
    curvature, x = tensor(1, 10), tensor(1, 1)
    path = []
    for _ in range(4):
        x, size = step(x, -curvature * x, 0.5 * (curvature * x * x).sum())
        path.append((size.item(), *x.tolist(), 0.5 * (curvature * x * x).sum().item()))
    gammas, firsts, seconds, values = zip(*path, strict=True)
    assert gammas == pytest.approx((0.0544554, 0.0685942, 0.1736992, 0.1952335), abs=5e-8)
    assert firsts == pytest.approx((0.945545, 0.880686, 0.727711, 0.585638), abs=5e-7)
    assert seconds == pytest.approx((0.455446, 0.143036, -0.105417, 0.100392), abs=5e-7)
    assert (values[0], values[3]) == pytest.approx((1.484180, 0.221879), abs=5e-7)


@settings(max_examples=40)
@given(positive, positive)
def test_one_dimensional_quadratic(a, x):
    """f = ½ax²: c = ½ is Newton's step to the optimum, c = 1 goes half the way."""
    gap, gradient = tensor(0.5 * a * x * x)[0], tensor(-a * x)
    there, size = step(tensor(x), gradient, gap, c=0.5)
    assert size.item() == pytest.approx(1 / a, rel=1e-12) and there.item() == pytest.approx(0, abs=1e-12 * x)
    assert step(tensor(x), gradient, gap)[0].item() == pytest.approx(x / 2, rel=1e-12)


def test_bandit_step_explodes_while_its_move_does_not():
    """Two arms with means 1 and 0, exact gradient of V = p, V* = 1."""
    theta, sizes, ps = tensor(0, 0), [], []
    for _ in range(12):
        p = theta.softmax(0)[0]
        gradient = p * (1 - p) * tensor(1, -1)
        before = theta
        theta, size = step(theta, gradient, 1 - p)
        assert size.item() == pytest.approx(1 / (2 * p.item() ** 2 * (1 - p.item())), rel=1e-9)
        sizes.append(size.item())
        ps.append(theta.softmax(0)[0].item())
    assert ps[:4] == pytest.approx((0.880797, 0.958327, 0.984914, 0.994482), abs=5e-7)
    assert sizes[:5] == pytest.approx((4, 5.406689, 13.064346, 34.167490, 91.614617), abs=5e-6)
    assert sizes[-1] > 1e4
    assert (theta - before).tolist() == pytest.approx((0.5, -0.5), abs=1e-3)


@settings(max_examples=40)
@given(positive, positive, positive, st.lists(st.floats(-10, 10), min_size=1, max_size=5))
def test_scaling_the_objective_leaves_the_move(scale, gap, cap, gradient):
    g, start = tensor(*gradient), torch.ones(len(gradient), dtype=F64)
    there, size = step(start, g, tensor(gap)[0], 2.0, cap)
    scaled, smaller = step(start, scale * g, scale * tensor(gap)[0], 2.0, cap / scale)
    torch.testing.assert_close(scaled, there, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(smaller * scale, size, rtol=1e-10, atol=0)


@settings(max_examples=40)
@given(positive, positive, st.floats(0.1, 10))
def test_doubling_c_halves_an_uncapped_step_and_leaves_a_capped_one(gap, slope, c):
    gaps, gradient = tensor(gap)[0], tensor(slope)
    assert step_size(gaps, gradient, 2 * c).item() == pytest.approx(step_size(gaps, gradient, c).item() / 2, rel=1e-12)
    cap = step_size(gaps, gradient, 2 * c).item() / 3
    assert step_size(gaps, gradient, 2 * c, cap).item() == step_size(gaps, gradient, c, cap).item() == cap


def test_an_active_cap_is_plain_gradient_ascent():
    theta, gradient = tensor(0.3, -2.0), tensor(1.5, 0.25)
    assert torch.equal(step(theta, gradient, torch.tensor(100.0, dtype=F64), cap=0.01)[0], theta + 0.01 * gradient)


@pytest.mark.parametrize("gap", [0.0, -1.0, -torch.inf])
def test_no_gap_no_step(gap):
    assert step_size(tensor(gap)[0], tensor(1.0, 2.0)).item() == 0


def test_no_gradient_no_step_even_without_a_cap():
    there, size = step(tensor(1.0, 2.0), tensor(0.0, 0.0), tensor(5.0)[0])
    assert size.item() == 0 and there.tolist() == [1.0, 2.0]


def test_of_twins_only_the_worse_one_moves():
    """Three seeds at once: the first is worse, the second is worse, a tie."""
    first = Point(torch.zeros(3, 2, dtype=F64), tensor(1, 5, 2), torch.ones(3, 2, dtype=F64))
    second = Point(torch.ones(3, 2, dtype=F64), tensor(4, 1, 2), torch.full((3, 2), 2.0, dtype=F64))
    moved = twin_step(first, second, c=1.0)
    assert moved.swapped.tolist() == [True, False, False]
    assert moved.gap.tolist() == [3, 4, 0]
    assert moved.size.tolist() == [3 / 2, 4 / 8, 0]
    assert moved.better.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert moved.worse.tolist() == [[1.5, 1.5], [2, 2], [1, 1]]

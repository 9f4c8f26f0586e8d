"""Value losses: worked numbers, slopes, and how each treats a far target."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.objectives.values import clipped, huber, squared

F64 = torch.float64
numbers = st.floats(-5, 5)


def number(x: float) -> torch.Tensor:
    return torch.tensor([x], dtype=F64)


@pytest.mark.parametrize(("value", "expected"), [(1.0, 0.02), (0.55, 0.03125), (0.2, 0.18)])
def test_clipped_worked_numbers(value, expected):
    loss = clipped(0.2)(number(value), number(0.8), number(0.5))
    assert loss.item() == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(value=numbers, target=numbers, old=numbers, epsilon=st.floats(0.01, 2))
def test_clipped_by_definition(value, target, old, epsilon):
    near = min(max(value, old - epsilon), old + epsilon)
    expected = 0.5 * max((value - target) ** 2, (near - target) ** 2)
    loss = clipped(epsilon)(number(value), number(target), number(old))
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert loss >= squared()(number(value), number(target), number(old))


@settings(max_examples=60, deadline=None)
@given(value=numbers, target=numbers, old=numbers, delta=st.floats(0.1, 3))
def test_huber_by_definition(value, target, old, delta):
    error = abs(value - target)
    expected = 0.5 * error**2 if error <= delta else delta * (error - 0.5 * delta)
    assert huber(delta)(number(value), number(target), number(old)).item() == pytest.approx(expected, abs=1e-12)


def test_slopes():
    target, old = number(0.0), number(0.0)

    def slope(part, at: float) -> float:
        value = number(at).requires_grad_()
        return torch.autograd.grad(part(value, target, old).sum(), value)[0].item()

    assert slope(squared(), 3.0) == pytest.approx(3.0)
    assert slope(huber(1.0), 3.0) == pytest.approx(1.0)
    assert slope(huber(1.0), -0.5) == pytest.approx(-0.5)
    assert slope(clipped(0.2), 3.0) == pytest.approx(3.0)


def test_clipped_ignores_a_move_that_went_towards_the_target_too_far():
    value = number(0.75).requires_grad_()
    loss = clipped(0.2)(value, number(0.8), number(0.5))
    assert torch.autograd.grad(loss.sum(), value)[0].item() == 0.0

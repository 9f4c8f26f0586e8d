"""Stabilizers: worked numbers, closed-form slopes, and where an ascent on the ratio ends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.objectives.stabilizers import clip, dual_clip, none, quadratic

F64 = torch.float64
ratio_values = st.floats(0, 6)
advantage_values = st.floats(-5, 5)


def number(x: float) -> torch.Tensor:
    return torch.tensor([x], dtype=F64)


@pytest.mark.parametrize(
    ("part", "ratio", "advantage", "value", "slope"),
    [
        (clip(0.2), 1.0, 1, 1.0, 1),
        (clip(0.2), 1.3, 1, 1.2, 0),
        (clip(0.2), 1.3, -1, -1.3, -1),
        (clip(0.2), 0.7, 1, 0.7, 1),
        (clip(0.2), 0.7, -1, -0.8, 0),
        (clip(0.2), 1.1, 2, 2.2, 2),
        (clip(0.2, 0.28), 1.25, 1, 1.25, 1),
        (clip(0.2, 0.28), 1.3, 1, 1.28, 0),
        (clip(0.2, 0.28), 0.75, -1, -0.8, 0),
        (dual_clip(0.2, bound=3.0), 2.9, -1, -2.9, -1),
        (dual_clip(0.2, bound=3.0), 3.5, -1, -3.0, 0),
        (dual_clip(0.2, bound=3.0), 3.5, 1, 1.2, 0),
        (dual_clip(0.2, bound=3.0), 0.7, -1, -0.8, 0),
        (quadratic(0.2), 1.0, 1, 1.0, 1),
        (quadratic(0.2), 1.3, 1, 1.075, -0.5),
        (quadratic(0.2), 1.3, -1, -1.525, -2.5),
        (quadratic(0.2), 0.7, 1, 0.475, 2.5),
        (quadratic(0.2), 0.7, -1, -0.925, 0.5),
        (quadratic(0.2), 1.1, 2, 2.15, 1),
        (quadratic(0.2), 0.9, -2, -1.85, -1),
        (none(), 1.7, -2, -3.4, -2),
    ],
)
def test_worked_numbers(part, ratio, advantage, value, slope):
    assert part(number(ratio), number(advantage)).item() == pytest.approx(value, abs=1e-12)
    assert part.weight(number(ratio), number(advantage)).item() == pytest.approx(slope, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(ratio=ratio_values, advantage=advantage_values, epsilon=st.floats(0.01, 0.9))
def test_clip_and_quadratic_are_pessimistic(ratio, advantage, epsilon):
    r, a = number(ratio), number(advantage)
    for part in (clip(epsilon), quadratic(epsilon)):
        assert part(r, a) <= r * a + 1e-12
    torch.testing.assert_close(quadratic(epsilon)(number(1.0), a), a)


@settings(max_examples=60, deadline=None)
@given(ratio=ratio_values, advantage=advantage_values)
def test_huge_epsilon_is_the_unclipped_surrogate(ratio, advantage):
    r, a = number(ratio), number(advantage)
    for part in (clip(1e9), quadratic(1e9)):
        torch.testing.assert_close(part(r, a), none()(r, a), rtol=1e-7, atol=1e-6)
        torch.testing.assert_close(part.weight(r, a), none().weight(r, a), rtol=1e-7, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(ratio=ratio_values, advantage=st.floats(0.1, 5), bad=st.booleans(), factor=st.floats(0.1, 10))
def test_scale_equivariance(ratio, advantage, bad, factor):
    r, a = number(ratio), number(-advantage if bad else advantage)
    for part in (none(), clip(), dual_clip(), quadratic()):
        torch.testing.assert_close(part(r, factor * a), factor * part(r, a))
        torch.testing.assert_close(part.weight(r, factor * a), factor * part.weight(r, a))


@settings(max_examples=40, deadline=None)
@given(advantage=st.floats(0.1, 5), bad=st.booleans(), epsilon=st.floats(0.05, 0.9))
def test_quadratic_peaks_at_the_edge_of_its_radius(advantage, bad, epsilon):
    a = -advantage if bad else advantage
    sign = -1 if bad else 1
    part, grid = quadratic(epsilon), torch.linspace(0, 2, 2001, dtype=F64)
    best = 1 + epsilon * sign
    top = a + abs(a) * epsilon / 2
    assert part(number(best), number(a)).item() == pytest.approx(top, abs=1e-12)
    assert part.weight(number(best), number(a)).item() == pytest.approx(0, abs=1e-12)
    assert part(grid, torch.full_like(grid, a)).max() <= top + 1e-12


def ascend(part, start: float, advantage: float) -> float:
    ratio = number(start)
    for _ in range(2000):
        ratio = ratio + 0.01 * part.weight(ratio, number(advantage))
    return ratio.item()


@pytest.mark.parametrize("start", [0.1, 0.8, 1.0, 1.5, 3.0])
def test_free_ratio_ascent(start):
    assert ascend(quadratic(0.2), start, 1.0) == pytest.approx(1.2, abs=1e-6)
    assert ascend(quadratic(0.2), start, -2.0) == pytest.approx(0.8, abs=1e-6)


def test_free_ratio_ascent_of_the_clip_stays_where_it_strayed():
    assert ascend(clip(0.2), 1.5, 1.0) == 1.5
    assert ascend(clip(0.2), 1.0, 1.0) == pytest.approx(1.2, abs=0.011)


def test_formulas():
    assert str(clip(0.2)) == "min(ρÂ, clip(ρ, 0.8, 1.2)Â)"
    assert str(dual_clip(0.2, 0.28, 5.0)) == "max(min(ρÂ, clip(ρ, 0.8, 1.28)Â), 5Â if Â<0)"
    assert str(quadratic(0.1)) == "ρÂ − |Â|(ρ−1)²/(2·0.1)"

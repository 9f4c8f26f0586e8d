"""Duals of regressed factors against the operator, which they must equal where a row is a distribution."""

from __future__ import annotations

import pytest
import torch

from surefoot.ambiguity import KL, ChiSquare, Contamination, TotalVariation, worst_case
from surefoot.envs.tabular.linear import simulated_linear
from surefoot.errors import UsageError
from surefoot.loops.tabular import least_squares, linear

CARD = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64), torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("ambiguity", "value"),
    [
        (None, 1.9),
        (TotalVariation(penalty=0.8), 1.4),
        (KL(penalty=0.8), 1.421219),
        (ChiSquare(penalty=0.8), 1.516406),
    ],
)
def test_numbers_worked_out_by_hand(ambiguity, value):
    assert float(linear.worst_factors(*CARD, ambiguity, 4.0)) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("strength", [0.01, 0.1, 0.5, 3.0])
@pytest.mark.parametrize(("kind", "form"), [(TotalVariation, "penalty"), (KL, "penalty"), (ChiSquare, "penalty")])
def test_penalties_of_distributions_are_the_operator(kind, form, strength):
    g = torch.Generator().manual_seed(int(100 * strength))
    rows = torch.rand(20, 6, generator=g, dtype=torch.float64)
    rows, values = rows / rows.sum(-1, keepdim=True), torch.randn(6, generator=g, dtype=torch.float64)
    ambiguity = kind(**{form: strength})
    expected = worst_case(values, rows, ambiguity).value
    torch.testing.assert_close(linear.worst_factors(rows, values, ambiguity, 5.0), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("radius", [0.05, 0.3, 0.8])
@pytest.mark.parametrize(("kind", "atol"), [(TotalVariation, 1e-12), (KL, 2e-3)])
def test_balls_of_distributions_are_the_operator(kind, atol, radius):
    """The dual of KL is a maximum over a grid: it may only fall short."""
    g = torch.Generator().manual_seed(3)
    rows = torch.rand(20, 6, generator=g, dtype=torch.float64)
    rows, values = rows / rows.sum(-1, keepdim=True), torch.rand(6, generator=g, dtype=torch.float64)
    found, expected = (
        linear.worst_factors(rows, values, kind(radius), 1.0),
        worst_case(values, rows, kind(radius)).value,
    )
    assert bool((found <= expected + 1e-12).all())
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def test_chi_square_of_signed_rows_is_the_maximum_over_all_levels():
    g = torch.Generator().manual_seed(4)
    rows = 0.3 * torch.randn(30, 5, generator=g, dtype=torch.float64) + 0.2
    values, lam = torch.rand(5, generator=g, dtype=torch.float64), 0.2
    levels = torch.linspace(float(values.min()), 2.0, 20_001, dtype=torch.float64)
    clipped = torch.minimum(values, levels[:, None])
    z, second = clipped @ rows.T, clipped**2 @ rows.T
    grid = (z + (z * z - second) / (4 * lam)).amax(0)
    found = linear.worst_factors(rows, values, ChiSquare(penalty=lam), 2.0)
    assert bool((found >= grid - 1e-12).all())
    torch.testing.assert_close(found, grid, rtol=0, atol=1e-4)  # of kinks a grid of steps of 1e-4 falls short


def test_the_lowest_value_is_that_of_outcomes_met_or_known():
    rows, values = torch.tensor([[0.0, 0.5, 0.5]], dtype=torch.float64), torch.tensor([-1.0, 1.0, 2.0]).double()
    tv = TotalVariation(penalty=0.5)
    assert float(linear.worst_factors(rows, values, tv, 2.0)) == pytest.approx(1.25)
    known = torch.tensor([True, False, False])
    assert float(linear.worst_factors(rows, values, tv, 2.0, known=known)) == pytest.approx(-0.5)


def test_a_strength_may_differ_by_step_and_factor():
    rows, values = CARD[0].expand(2, 3), CARD[1]
    ball = TotalVariation(torch.tensor([[0.0, 0.0], [0.0, 0.2]], dtype=torch.float64))
    assert linear.worst_factors(rows, values, ball, 4.0, 0).tolist() == pytest.approx([1.9, 1.9])
    assert linear.worst_factors(rows, values, ball, 4.0, 1).tolist() == pytest.approx([1.9, 1.3])


def test_sets_without_a_dual_are_refused():
    for ambiguity in (Contamination(0.1), ChiSquare(0.1)):
        with pytest.raises(UsageError, match="not allowed in a regression"):
            linear.check_set(ambiguity, simulated_linear())


def test_a_ball_of_radius_zero_holds_the_factor_alone_though_it_be_signed():
    rows, values = torch.tensor([[0.9, -0.3, 0.2]], dtype=torch.float64), CARD[1]
    for ball in (TotalVariation(0.0), KL(0.0)):
        assert float(linear.worst_factors(rows, values, ball, 4.0)) == pytest.approx(1.1)
    assert float(linear.worst_factors(rows, values, TotalVariation(1e-9), 4.0)) == pytest.approx(1.1, abs=1e-6)
    falling = torch.tensor([[0.9, 0.3, -0.2]], dtype=torch.float64)  # the dual alone would cut the values at 2
    assert float(linear.worst_factors(falling, values, TotalVariation(0.0), 4.0)) == pytest.approx(0.7)
    assert float(linear.worst_factors(falling, values, TotalVariation(1e-9), 4.0)) == pytest.approx(1.1, abs=1e-6)


def test_the_kl_ball_of_signed_rows_stays_between_the_lowest_and_the_highest_value():
    g = torch.Generator().manual_seed(5)
    rows, values = 3 * torch.randn(200, 6, generator=g, dtype=torch.float64), torch.rand(6, generator=g).double()
    found = linear.worst_factors(rows, values, KL(0.01), 1.0)
    assert bool((found >= values.min()).all() and (found <= values.max()).all())


def test_widths():
    gram = torch.diag(torch.tensor([1 / 4, 1 / 9], dtype=torch.float64))
    phi = torch.tensor([0.5, 0.5], dtype=torch.float64).view(1, 1, 2)
    assert float(least_squares.coordinate_width(phi, gram)) == pytest.approx(2.5)
    assert float(least_squares.diagonal_width(phi, gram)) == pytest.approx(3.25**0.5)
    assert float(least_squares.elliptical_width(phi, gram)) == pytest.approx(3.25**0.5)


def test_widths_of_many_steps_are_those_of_each():
    g = torch.Generator().manual_seed(6)
    phi, root = torch.rand(3, 4, 2, 5, generator=g).double(), torch.rand(3, 5, 5, generator=g).double()
    gram = root @ root.mT + torch.eye(5)
    for width in (least_squares.coordinate_width, least_squares.diagonal_width, least_squares.elliptical_width):
        each = torch.stack([width(x, m) for x, m in zip(phi, gram)])
        torch.testing.assert_close(width(phi, gram), each)

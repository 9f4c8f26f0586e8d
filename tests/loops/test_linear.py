"""Duals of regressed factors against the operator, which they must equal where a row is a distribution."""

from __future__ import annotations

import pytest
import torch

from surefoot.ambiguity import KL, ChiSquare, Contamination, TotalVariation, worst_case
from surefoot.errors import UsageError
from surefoot.loops import linear

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
            linear.check_set(ambiguity)


def test_widths():
    inverse = torch.diag(torch.tensor([4.0, 9.0], dtype=torch.float64))
    phi = torch.tensor([0.5, 0.5], dtype=torch.float64)
    assert float(linear.coordinate_width(phi, inverse)) == pytest.approx(2.5)
    assert float(linear.diagonal_width(phi, inverse)) == pytest.approx(3.25**0.5)
    assert float(linear.elliptical_width(phi, inverse)) == pytest.approx(3.25**0.5)

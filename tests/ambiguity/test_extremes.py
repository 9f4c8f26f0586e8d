"""Where a solver's tolerance says nothing: radii from 1e-14 to 1e4, values that nearly tie, probabilities of 1e-9.

The truth is the worst case of the same problem in 60 digits, by bisection on its optimality conditions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mpf

from surefoot.ambiguity import (
    KL,
    L1,
    ChiSquare,
    Contamination,
    CVaR,
    Ellipsoid,
    Hellinger,
    LInfinity,
    ReverseKL,
    TotalVariation,
    worst_case,
    worst_case_value,
)

mpmath.mp.dps = 60
Tilt = Callable[[Any], list[Any]]


def bisected(function: Callable[[Any], Any], low: Any, high: Any) -> Any:
    """The root of an increasing function of a positive number, by its logarithm."""
    low, high = mpmath.log(low), mpmath.log(high)
    for _ in range(150):
        middle = (low + high) / 2
        low, high = (middle, high) if function(mpmath.exp(middle)) < 0 else (low, middle)
    return mpmath.exp(low)


def on_support(v: list[float], p: list[float]) -> tuple[list[Any], list[Any]]:
    """Exact values and probabilities; those of a row of floats, which sums to one within rounding, rescaled to one."""
    pairs = [(mpf(a), mpf(b)) for a, b in zip(v, p) if b > 0]
    total = sum(b for _, b in pairs)
    return [a for a, _ in pairs], [b / total for _, b in pairs]


def normalised(weights: list[Any]) -> list[Any]:
    total = sum(weights)
    return [w / total for w in weights]


def tilted(v: list[Any], p: list[Any], shape: Callable[[Any, Any], Any]) -> Tilt:
    least = min(v)
    return lambda strength: normalised([b * shape(a - least, strength) for a, b in zip(v, p)])


FAMILIES: dict[str, tuple[Any, Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    # The set, its tilt by (gap, strength), and its divergence summed over (q, p).
    "kl": (KL, lambda g, s: mpmath.exp(-s * g), lambda q, p: q * mpmath.log(q / p) if q > 0 else 0),
    "chi-square": (
        ChiSquare,
        lambda g, s: max(1 - s * g, 0) if s < 1e280 else mpf(g == 0),
        lambda q, p: (q - p) ** 2 / p,
    ),
    "reverse-kl": (
        lambda radius: ReverseKL(radius, support="nominal"),
        lambda g, s: 1 / (g + 1 / s),
        lambda q, p: p * mpmath.log(p / q),
    ),
    "hellinger": (
        lambda radius: Hellinger(radius, support="nominal"),
        lambda g, s: 1 / (g + 1 / s) ** 2,
        lambda q, p: (mpmath.sqrt(q) - mpmath.sqrt(p)) ** 2 / 2,
    ),
}


def chi_square_tilts(v: list[Any], p: list[Any]) -> Tilt:
    """q ∝ p·(α − v)₊ for all levels: as 1 − s·(v − least) up to s = 1/(second lowest gap), where only ties are left."""
    return tilted(v, p, FAMILIES["chi-square"][1])


def truth(name: str, v: list[float], p: list[float], radius: float) -> float:
    _, shape, term = FAMILIES[name]
    v, p = on_support(v, p)
    tilt = tilted(v, p, shape)

    def divergence(q: list[Any]) -> Any:
        return sum(term(a, b) for a, b in zip(q, p))

    strength = bisected(lambda s: divergence(tilt(s)) - mpf(radius), mpf("1e-40"), mpf("1e600"))
    return float(sum(a * b for a, b in zip(tilt(strength), v)))


ROWS = {
    "plain": ([0.3, 1.0, -0.2, 0.7], [0.3, 0.2, 0.1, 0.4]),
    "rare lowest": ([0.0, 1.0, 0.5, 2.0], [1e-9, 0.4, 0.3, 0.3 - 1e-9]),
    "near tie below": ([0.0, 1e-9, 1.0, 0.3], [0.2, 0.3, 0.1, 0.4]),
    "near tie above": ([0.0, 1.0, 1.0 + 1e-12, 1.0 - 1e-9], [1e-3, 0.3, 0.4, 0.299]),
    "rare highest": ([0.1, 0.11, 0.12, 1e4], [0.5, 0.3, 0.2 - 1e-7, 1e-7]),
    "large and shifted": ([1e6, 1e6 + 1, 1e6 + 2, 1e6 + 5], [0.25, 0.25, 0.25, 0.25]),
    "ties": ([1.0, 1.0, 0.0, 0.0], [0.1, 0.4, 0.2, 0.3]),
}
RADII = [1e-14, 1e-10, 1e-6, 1e-3, 0.1, 0.5, 0.9, 3.0, 20.0, 600.0, 1e4]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("name", FAMILIES)
def test_smooth_balls_keep_nine_digits_at_every_radius(name, row):
    v, p = ROWS[row]
    radii = [r for r in RADII if name != "hellinger" or r < 1]
    found = worst_case(np.array(v), np.array(p), FAMILIES[name][0](np.array(radii)))
    scale = max(np.ptp(v), 1.0)
    np.testing.assert_allclose(found.value, [truth(name, v, p, r) for r in radii], rtol=0, atol=1e-9 * scale)
    assert np.isfinite(found.distribution).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_smallest_radii_follow_the_standard_deviation(name):
    """mean − √(c·radius·Var), with c = 2 for both KL, 1 for χ² and 8 for Hellinger."""
    v, p = np.array([0.3, 1.0, -0.2, 0.7]), np.array([0.3, 0.2, 0.1, 0.4])
    radii = np.array([1e-300, 1e-30, 1e-16, 1e-12])
    slope = {"kl": 2, "reverse-kl": 2, "chi-square": 1, "hellinger": 8}[name]
    found = worst_case(v, p, FAMILIES[name][0](radii))
    variance = p @ v**2 - (p @ v) ** 2
    np.testing.assert_allclose(found.value, p @ v - np.sqrt(slope * radii * variance), rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.distribution.sum(-1), 1, rtol=0, atol=1e-12)


def test_one_outcome_leaves_nothing_to_choose():
    for ambiguity in (KL(0.3), ChiSquare(penalty=2.0), TotalVariation(0.1), LInfinity(penalty=0.1), CVaR(0.2),
                      Ellipsoid(0.1), Ellipsoid(penalty=1.0), ReverseKL(1.0), Hellinger(0.5), Hellinger(penalty=0.1),
                      LInfinity(0.3), Contamination(0.2), L1(penalty=0.0)):  # fmt: skip
        value, distribution = worst_case(np.array([[1.5], [-2.0]]), np.ones(1), ambiguity)
        np.testing.assert_array_equal(value, [1.5, -2.0])
        np.testing.assert_array_equal(distribution, np.ones((2, 1)))


def test_values_far_outside_the_support_do_no_harm():
    v, p = np.array([0.3, 1.0, -1e30, 0.7, 1e30]), np.array([0.3, 0.3, 0.0, 0.4, 0.0])
    inside = p > 0
    for ambiguity in (KL(0.1), KL(penalty=0.3), ChiSquare(0.2), ReverseKL(0.1, support="nominal"), CVaR(0.2),
                      Hellinger(penalty=1.0, support="nominal"), TotalVariation(0.2, support="nominal"),
                      Ellipsoid(0.1, support="nominal"), LInfinity(0.1, support="nominal")):  # fmt: skip
        found = worst_case(v, p, ambiguity)
        alone = worst_case(v[inside], p[inside], ambiguity)
        assert found.value == pytest.approx(alone.value, abs=1e-9), ambiguity
        np.testing.assert_allclose(found.distribution[inside], alone.distribution, atol=1e-9)
        assert (found.distribution[~inside] == 0).all()


def test_many_outcomes_and_rows():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(500, generator=generator, dtype=torch.float64)
    nominal = torch.rand(300, 500, generator=generator, dtype=torch.float64) ** 8
    nominal /= nominal.sum(-1, keepdim=True)
    for ambiguity in (KL(0.3), ChiSquare(0.5), ReverseKL(0.3), Hellinger(0.1), Ellipsoid(1e-3), LInfinity(penalty=3.0)):
        value, q = worst_case(values, nominal, ambiguity)
        torch.testing.assert_close(worst_case_value(values, nominal, ambiguity), value, rtol=0, atol=1e-14)
        torch.testing.assert_close(q.sum(-1), torch.ones(300, dtype=torch.float64), rtol=0, atol=1e-12)
        if ambiguity.penalty is None:
            paid = ambiguity.divergence(q, nominal)
            torch.testing.assert_close(paid, torch.full_like(paid, ambiguity.radius), rtol=1e-8, atol=1e-12)

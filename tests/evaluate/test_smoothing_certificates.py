"""Radii of votes and bounds of medians: the card's numbers, linear policies in closed form, coverage by simulation."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from surefoot.evaluate.smoothing_certificates import (
    action_divergence,
    hoeffding_width,
    median_bounds,
    quantile_levels,
    return_level,
    vote_radius,
)


def test_the_card_s_numbers():
    """Exact checks 1 to 4; the card's levels are rounded in between and right to 1e-5, the others by `statistics`."""
    exact = NormalDist()
    assert hoeffding_width(100) == pytest.approx(0.122387, abs=5e-7)
    assert hoeffding_width(1000) == pytest.approx(0.0387023, abs=5e-8)
    assert vote_radius([0.9, 0.1], 0.1, 100) == pytest.approx(0.0764155, abs=5e-8)
    assert vote_radius([1.0, 0.0], 0.1, 100) == pytest.approx(0.1163135, abs=5e-8)
    assert vote_radius([[0.6, 0.4], [0.1, 0.9]], 0.1, 100).tolist() == [0.0, pytest.approx(0.0764155, abs=5e-8)]
    for budget, level in ((0.1, 0.208456), (0.2, 0.094795), (0.3, 0.035009)):
        own = exact.cdf(exact.inv_cdf(0.5 - hoeffding_width(100)) - budget / 0.2)
        assert own == pytest.approx(level, abs=1e-5)
        assert quantile_levels(budget, 0.2, 100) == pytest.approx((own, 1 - own), abs=1e-12)
    assert quantile_levels(0.0, 0.2, 100) == pytest.approx((0.5 - 0.122387, 0.5 + 0.122387), abs=5e-7)
    for budget, level in ((0.001, 0.275201), (0.003, 0.055115), (0.005, 0.004700)):
        own = exact.cdf(exact.inv_cdf(0.5 - hoeffding_width(1000)) - 50 * budget / 0.1)
        assert own == pytest.approx(level, abs=1e-5)
        assert return_level(budget, 0.1, 2500, 1000) == pytest.approx(own, abs=1e-12)
    for budget, level in ((0.002, 0.339662), (0.006, 0.147817), (0.010, 0.046644)):
        assert return_level(budget, 0.2, 1000, 1000) == pytest.approx(level, abs=1e-5)


def test_too_few_draws_say_nothing():
    assert quantile_levels(0.1, 0.2, 4) == (0.0, 1.0) and return_level(0.1, 0.2, 10, 4) == 0.0
    low, high = median_bounds(np.zeros((3, 1)), 0.1, 0.2, 100)
    assert low.tolist() == [-np.inf] and high.tolist() == [np.inf]


@given(st.floats(0.01, 2), st.floats(0, 2), st.integers(20, 2000))
def test_radii_and_levels_are_monotone(sigma, budget, draws):
    shares = np.linspace(0.5, 1, 20)
    radii = vote_radius(np.stack([shares, 1 - shares], -1), sigma, draws)
    assert (np.diff(radii) >= 0).all() and (radii >= 0).all()
    low, high = quantile_levels(budget, sigma, draws)
    assert low <= quantile_levels(0.0, sigma, draws)[0] < 0.5 < high and high == pytest.approx(1 - low)
    assert quantile_levels(budget, 2 * sigma, draws)[0] >= low


def test_a_linear_policy_attains_the_bound_of_the_median():
    """Exact check 6: for μ(s) = w·s the quantiles are w·s ± σ‖w‖Φ⁻¹, and δ = ε·w/‖w‖ moves the median by ε‖w‖."""
    w, s, sigma, budget = np.array([0.5, -1.0, 2.0]), np.array([0.3, 0.1, -0.4]), 0.2, 0.15
    rng = np.random.default_rng(0)
    noise = sigma * rng.standard_normal((400_000, 3))
    answers, attacked = (s + noise) @ w, (s + budget * w / np.linalg.norm(w) + noise) @ w
    size = np.linalg.norm(w)
    assert np.median(answers) == pytest.approx(w @ s, abs=0.003)
    level = norm.cdf(budget / sigma)  # Δ = 0
    assert np.quantile(answers, level) == pytest.approx(w @ s + budget * size, abs=0.006)
    assert np.median(attacked) - np.median(answers) == pytest.approx(budget * size, abs=1e-9)
    assert np.quantile(answers, 0.9) == pytest.approx(w @ s + sigma * size * norm.ppf(0.9), abs=0.006)
    assert action_divergence([w @ s - budget * size], [w @ s + budget * size], budget) == pytest.approx(size)


def test_bounds_of_medians_hold_as_often_as_they_say_and_not_much_oftener():
    """The strongest attack on a linear policy, 400 times: fresh samples for the bound, fresh draws for the policy."""
    sigma, budget, draws, rng = 0.2, 0.1, 100, np.random.default_rng(0)
    beaten = []
    for _ in range(400):
        _, high = median_bounds(sigma * rng.standard_normal((1000, 1)), budget, sigma, draws, confidence=0.9)
        beaten.append(np.median(budget + sigma * rng.standard_normal(draws)) > high[0])
    assert np.mean(beaten) < 0.1
    assert budget < np.median([high[0]]) < 4 * budget


def test_votes_of_a_threshold_policy_are_never_turned_within_their_radius():
    """The action is 1 where the noisy number is positive: the true radius is the distance to 0."""
    sigma, rng, draws = 0.5, np.random.default_rng(1), 400
    for s in (0.05, 0.2, 0.6, 1.5):
        for _ in range(50):
            share = (s + sigma * rng.standard_normal(draws) > 0).mean()
            assert vote_radius([1 - share, share], sigma, draws, 0.999) <= s + 1e-12


def test_vote_certificates_do_not_depend_on_the_scale_of_values():
    """Exact check 8: votes are the same for any monotone rescaling of Q; averages of Q are not."""
    values = np.random.default_rng(2).normal(size=(200, 3)) + [0.5, 0, 0]
    shares = [np.eye(3)[np.argmax(f(values), 1)].mean(0) for f in (lambda q: q, np.exp, lambda q: 100 * q**3)]
    assert np.array_equal(shares[0], shares[1]) and np.array_equal(shares[0], shares[2])
    means = [np.ptp(f(values).mean(0)) / np.ptp(f(values)) for f in (lambda q: q, np.exp)]
    assert abs(means[0] - means[1]) > 0.01

"""Certificates: the card's numbers, and that no attack beats them more often than their confidence allows."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binom

from surefoot.claims.robust.policy_smoothing import least_return
from surefoot.errors import UsageError
from surefoot.evaluate.certificates import (
    Survival,
    attacked,
    certified_mean,
    certified_probability,
    certified_quantile,
    dkw_width,
    lower_clopper_pearson,
    per_step_shift,
    survival,
    total_variation,
)

NORMAL = NormalDist()
WORKED = [50.0] * 100 + [100.0] * 200 + [200.0] * 700


@pytest.mark.parametrize(
    ("probability", "shift", "least"), [(0.9, 1, 0.610856), (0.99, 0.5, 0.966101), (0.3, 0, 0.3), (0, 2, 0), (1, 2, 1)]
)
def test_the_bound_of_neyman_and_pearson(probability, shift, least):
    """Card, exact check 1."""
    assert attacked(probability, shift) == pytest.approx(least, abs=5e-7)
    assert attacked(0.5, shift) == pytest.approx(NORMAL.cdf(-shift))


def test_clopper_pearson():
    """Card, exact check 2; the bound is the rate at which so many successes have probability α."""
    assert lower_clopper_pearson(9000, 10_000) == pytest.approx(0.894929, abs=5e-7)
    shared = lower_clopper_pearson(9000, 10_000, 1 - 0.05 / 200)
    assert shared == pytest.approx(0.889170, abs=5e-7)
    assert attacked(shared, 1) == pytest.approx(0.587892, abs=5e-7)
    rate = brentq(lambda p: binom.sf(6, 20, p) - 0.1, 1e-6, 1 - 1e-6)
    assert lower_clopper_pearson([0, 7, 20], 20, 0.9) == pytest.approx([0, rate, 0.1 ** (1 / 20)])


def test_the_width_of_the_band():
    """Card, exact check 3."""
    assert dkw_width(10_000) == pytest.approx(0.0135810, abs=5e-8)


@pytest.mark.parametrize(("shift", "mean"), [(0, 156.410612), (0.5, 126.342661), (1, 92.084991)])
def test_the_worked_mean(shift, mean):
    """Card, exact check 4."""
    assert certified_mean(survival(WORKED, bound="dkw"), shift) == pytest.approx(mean, abs=5e-7)


def test_published_survival_functions_give_the_certificates_of_the_card():
    """10,000 episodes of CartPole-v0, as printed for σ = 0.4: bounds of probabilities at two of its thresholds."""
    returns = np.repeat([100.0, 200.0], [10_000 - 2714, 2714])
    found = survival(returns, thresholds=np.arange(1, 201))
    assert found.low[-1] == pytest.approx(lower_clopper_pearson(2714, 10_000, 1 - 0.05 / 200))
    assert certified_probability(found, 0.5, 150) == pytest.approx(NORMAL.cdf(NORMAL.inv_cdf(found.low[-1]) - 0.5))
    assert certified_probability(found, 0.5, 201) == 0


def test_per_step():
    """Card, exact check 8, and 7: a budget b at each of T steps is one of b√T over the episode."""
    shift = per_step_shift(0.1, 0.2, 10)
    assert shift == pytest.approx(1.581139, abs=5e-7)
    assert attacked(0.95, shift) == pytest.approx(0.525401, abs=5e-7)
    assert total_variation(shift) == pytest.approx(0.570805, abs=5e-7)
    assert total_variation(shift) == pytest.approx(2 * NORMAL.cdf(shift / 2) - 1)


def test_a_linear_policy_attacked_along_its_weights_attains_the_bound():
    """Card, exact check 5: one step; and two, where a split budget attains what one step cannot."""
    rng, sigma, epsilon, cut = np.random.default_rng(0), 0.5, 0.4, -0.3
    noise = sigma * rng.standard_normal((400_000, 2))
    error = 3 * 0.5 / len(noise) ** 0.5
    found = (noise[:, 0] - epsilon >= cut).mean()
    assert found == pytest.approx(attacked(NORMAL.cdf(-cut / sigma), epsilon / sigma), abs=error)
    least = attacked(NORMAL.cdf(-cut / (sigma * 2**0.5)), epsilon / sigma)
    split, once = ((noise.sum(1) - spent >= cut).mean() for spent in (2 * epsilon / 2**0.5, epsilon))
    assert split == pytest.approx(least, abs=error)
    assert once > least + 0.05


def test_quantiles():
    found = Survival(np.array([1.0, 2.0, 3.0]), np.array([0.99, 0.8, 0.3]))
    assert [certified_quantile(found, 0, share) for share in (0.005, 0.1, 0.5, 0.75)] == [0, 1, 2, 3]
    assert certified_quantile(found, 1, 0.5) == 1 and certified_quantile(found, 9, 0.5, -5) == -5


scores = st.lists(st.integers(0, 12), min_size=8, max_size=60)
shifts = st.floats(0, 3)


@given(scores, shifts, shifts, st.sampled_from(["clopper-pearson", "dkw"]))
def test_bounds_are_monotone_and_below_what_was_seen(returns, one, other, bound):
    """Card, exact check 6."""
    found, (near, far) = survival(returns, bound=bound), sorted((one, other))
    assert (np.diff(found.low) <= 0).all()
    assert (np.diff(attacked(found.low, near)) <= 1e-15).all()
    means = [certified_mean(found, shift) for shift in (near, far)]
    assert means[1] <= means[0] + 1e-12 and means[0] <= np.mean(returns) + 1e-12
    assert certified_quantile(found, far) <= certified_quantile(found, near) <= np.median(returns)


@given(scores, shifts, st.floats(-50, 50), st.floats(0.1, 10))
def test_a_mean_moves_with_the_scale_of_returns(returns, shift, offset, scale):
    moved = survival(np.array(returns) * scale + offset)
    one = certified_mean(survival(returns), shift)
    assert certified_mean(moved, shift, offset) == pytest.approx(one * scale + offset, abs=1e-9)


def test_order_statistics_are_covered_together():
    """All bounds at the observed returns hold in 95 % of samples, without a grid fixed beforehand."""
    rng, misses = np.random.default_rng(1), {"clopper-pearson": 0, "dkw": 0}
    for _ in range(400):
        returns = rng.random(50)
        for bound in misses:
            found = survival(returns, bound=bound)
            misses[bound] += bool((found.low > 1 - found.values).any())
    assert all(binom.sf(count - 1, 400, 0.05) > 1e-3 for count in misses.values())
    assert misses["clopper-pearson"] > 0, "the bounds are so loose that this test could not fail"


@pytest.mark.parametrize("bound", ["clopper-pearson", "dkw"])
def test_the_best_adaptive_attacker_does_not_beat_the_bound(bound):
    """A walk that falls at the edge; the attacker sees where it is and what is left of its budget, and its best play is
    computed exactly. The certificate from 60 episodes exceeds what it leaves in at most 5 % of samples."""
    rng, steps, drift, sigma = np.random.default_rng(2), 12, 0.6, 1.0
    for budget in (0.0, 0.5, 1.0):
        left = least_return(steps, drift, sigma, budget)
        beaten = 0
        for _ in range(100):
            moves = np.where(rng.random((60, steps)) < NORMAL.cdf(drift / sigma), 1, -1)
            alive = (np.cumsum(moves, 1) > -2).cumprod(1)
            beaten += certified_mean(survival(alive.sum(1), bound=bound), budget / sigma) > left + 1e-9
        assert binom.sf(beaten - 1, 100, 0.05) > 1e-3, (budget, beaten)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: survival([1.0] * 7), "too few.*least are 8"),
        (lambda: survival([1.0] * 40, confidence=1 - 1e-13), "too few"),
        (lambda: survival([1.0] * 9, bound="hoeffding"), "clopper-pearson, dkw"),
        (lambda: survival([1.0] * 9, thresholds=[2, 1]), "ascending"),
        (lambda: survival([np.nan] * 9), "NaN"),
        (lambda: certified_mean(survival([-1.0] * 9), 1), "lowest=0"),
        (lambda: certified_mean(Survival(np.ones(1), np.ones(1)), -1), "shift=-1"),
        (lambda: attacked(1.5, 1), r"\[0, 1\]"),
        (lambda: lower_clopper_pearson(5, 4), "trials=4"),
    ],
)
def test_what_cannot_be_certified_says_why(call, words):
    with pytest.raises(UsageError, match=words):
        call()

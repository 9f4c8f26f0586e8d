"""Aggregates, intervals and tails against closed forms, brute force, scipy and rliable."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rliable import metrics

from surefoot.errors import UsageError
from surefoot.evaluate import statistics
from surefoot.evaluate.statistics import (
    bootstrap_interval,
    clopper_pearson,
    cvar,
    improvement_interval,
    interquartile_mean,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    profile_interval,
)

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines may be busy
values = st.floats(-1e3, 1e3, allow_nan=False, width=32)
matrices = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=values)


@pytest.fixture(scope="module")
def library():
    try:
        from rliable import library
    except TypeError as error:  # arch 7, on which rliable's bootstrap stands, does not import beside pandas >= 3.1
        pytest.skip(f"rliable's bootstrap does not import here: {error}")
    return library


@relaxed
@given(matrices)
def test_point_estimates_agree_with_rliable(scores):
    assert interquartile_mean(scores) == pytest.approx(metrics.aggregate_iqm(scores), rel=1e-9, abs=1e-9)
    assert mean(scores) == pytest.approx(metrics.aggregate_mean(scores), rel=1e-9, abs=1e-9)
    assert median(scores) == pytest.approx(metrics.aggregate_median(scores), rel=1e-9, abs=1e-9)
    assert optimality_gap(scores) == pytest.approx(metrics.aggregate_optimality_gap(scores), rel=1e-9, abs=1e-9)


@relaxed
@given(matrices, st.integers(0, 99))
def test_improvement_agrees_with_rliable_ties_included(x, seed):
    y = np.random.default_rng(seed).permuted(x, axis=0)[: 1 + seed % len(x)]
    assert probability_of_improvement(x, y) == pytest.approx(metrics.probability_of_improvement(x, y), abs=1e-12)
    assert probability_of_improvement(x, y) + probability_of_improvement(y, x) == pytest.approx(1)


def test_interquartile_mean_by_hand():
    assert interquartile_mean([0, 1, 2, 3, 4, 5, 6, 100]) == 3.5
    assert interquartile_mean([1, 2, 9]) == 4  # floor(3/4) = 0: nothing is cut
    assert interquartile_mean([[7.0]]) == 7


@relaxed
@given(matrices, st.floats(0.01, 100), values, st.integers(0, 99))
def test_interquartile_mean_properties(scores, scale, shift, seed):
    value = interquartile_mean(scores)
    assert scores.min() - 1e-9 <= value <= scores.max() + 1e-9
    shuffled = np.random.default_rng(seed).permutation(scores.ravel()).reshape(scores.shape)
    assert interquartile_mean(shuffled) == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert interquartile_mean(scale * scores + shift) == pytest.approx(scale * value + shift, rel=1e-6, abs=1e-6)
    assert interquartile_mean(-scores) == pytest.approx(-value, rel=1e-9, abs=1e-9)


@relaxed
@given(arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3)), elements=values))
def test_statistics_reduce_the_last_two_axes_one_by_one(batch):
    for statistic in (interquartile_mean, mean, median, optimality_gap):
        np.testing.assert_allclose(statistic(batch), [statistic(one) for one in batch], rtol=1e-12, atol=1e-12)


def test_bootstrap_interval_agrees_with_rliable(library):
    scores = np.random.default_rng(0).normal(np.arange(4), 1 + np.arange(4), size=(8, 4))
    for ours, theirs in ((interquartile_mean, metrics.aggregate_iqm), (mean, metrics.aggregate_mean)):
        np.random.seed(1)  # rliable resamples from the global generator
        _, interval = library.get_interval_estimates({"x": scores}, lambda s, f=theirs: np.array([f(s)]), reps=4000)
        np.testing.assert_allclose(bootstrap_interval(scores, ours, resamples=20_000), interval["x"][:, 0], atol=0.08)


def test_bootstrap_interval_of_the_mean_agrees_with_scipy():
    x = np.random.default_rng(3).normal(size=30)
    theirs = scipy.stats.bootstrap((x,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    np.testing.assert_allclose(bootstrap_interval(x, mean, resamples=20_000), theirs, atol=0.02)


def test_bootstrap_is_stratified_exactly():
    """All 4 equally likely resamples of two runs in each of two tasks, by enumeration."""
    scores = np.array([[0.0, 100.0], [1.0, 110.0]])
    drawn = set()

    def spy(batch):
        drawn.update(mean(batch).tolist())
        return mean(batch)

    bootstrap_interval(scores, spy, resamples=500)
    pairs = list(itertools.product([0, 1], repeat=2))
    expected = {
        np.mean([[scores[a, 0], scores[c, 1]], [scores[b, 0], scores[d, 1]]]) for a, b in pairs for c, d in pairs
    }
    assert drawn == expected


def test_bootstrap_is_seeded_and_nested():
    x = np.random.default_rng(0).normal(size=(10, 3))
    assert bootstrap_interval(x, seed=1) == bootstrap_interval(x, seed=1)
    assert bootstrap_interval(x, seed=1) != bootstrap_interval(x, seed=2)
    wide, narrow = bootstrap_interval(x, level=0.99), bootstrap_interval(x, level=0.5)
    assert wide.low < narrow.low < interquartile_mean(x) < narrow.high < wide.high
    assert bootstrap_interval(np.full((5, 2), 3.0)) == (3.0, 3.0)


def test_bootstrap_in_pieces_uses_every_resample(monkeypatch):
    x = np.random.default_rng(0).normal(size=(6, 2))
    sizes = []

    def spy(batch):
        sizes.append(len(batch))
        return mean(batch)

    monkeypatch.setattr(statistics, "_CHUNK", 12 * 7)
    interval = bootstrap_interval(x, spy, resamples=100)
    assert sizes == [7] * 14 + [2]
    assert interval.low < mean(x) < interval.high


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = sum(
        low <= 0 <= high
        for low, high in (bootstrap_interval(rng.normal(size=40), mean, level=0.8, resamples=300) for _ in range(400))
    )
    assert 0.72 < hits / 400 < 0.86


def test_improvement_interval_agrees_with_a_loop():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.5, 1, size=(7, 3)).round(1), rng.normal(size=(5, 3)).round(1)
    low, high = improvement_interval(x, y, resamples=20_000)
    drawn = [
        np.mean([
            probability_of_improvement(rng.choice(x[:, t], 7), rng.choice(y[:, t], 5)) for t in range(3)
        ])
        for _ in range(2000)
    ]  # fmt: skip
    np.testing.assert_allclose([low, high], np.quantile(drawn, [0.025, 0.975]), atol=0.02)
    assert improvement_interval(x, y, seed=4) == improvement_interval(x, y, seed=4)
    assert improvement_interval(x + 100, y) == (1.0, 1.0)


def test_performance_profile_by_hand_and_its_band():
    scores = np.array([[0.0, 1.0], [2.0, 3.0]])
    np.testing.assert_array_equal(performance_profile(scores, [-1, 0, 0.5, 1, 2.5, 3]), [1, 0.75, 0.75, 0.5, 0.25, 0])
    low, high = profile_interval(scores, [-1, 0.5, 2.5, 3], resamples=4000)
    # above 0.5: task 0 resamples to 0, 1/2, 1 with probability 1/4, 1/2, 1/4 and task 1 is always above
    np.testing.assert_array_equal(low, [1, 0.5, 0, 0])
    np.testing.assert_array_equal(high, [1, 1, 0.5, 0])


@relaxed
@given(arrays(np.float64, st.integers(1, 30), elements=values), st.floats(0.01, 1), st.floats(0.01, 1))
def test_cvar_properties(x, a, b):
    low, high = sorted((a, b))
    assert x.min() - 1e-6 <= cvar(x, low) <= cvar(x, high) + 1e-6 <= x.mean() + 2e-6
    assert cvar(x, 1) == pytest.approx(x.mean(), abs=1e-6)
    assert cvar(x, 1 / len(x) * 0.999) == pytest.approx(x.min(), abs=1e-6)
    # the dual, as an oracle: max over c of c - E[(c - x)^+] / level, attained at a data point
    assert cvar(x, a) == pytest.approx(max(c - np.maximum(c - x, 0).mean() / a for c in x), abs=1e-4)


def test_cvar_by_hand():
    assert cvar(np.arange(10), 0.1) == 0
    assert cvar(np.arange(10), 0.2) == 0.5
    assert cvar(np.arange(10), 0.25) == pytest.approx((0 + 1 + 0.5 * 2) / 2.5)
    assert cvar([[3, 1], [2, 4]], 0.5) == 1.5


@relaxed
@given(st.integers(1, 60), st.data())
def test_clopper_pearson_agrees_with_scipy(trials, data):
    successes = data.draw(st.integers(0, trials))
    theirs = scipy.stats.binomtest(successes, trials).proportion_ci(0.9, method="exact")
    np.testing.assert_allclose(clopper_pearson(successes, trials, 0.9), theirs, atol=1e-9)


BAD = [
    lambda: interquartile_mean([]),
    lambda: interquartile_mean([1.0, float("nan")]),
    lambda: mean(3.0),
    lambda: cvar([1.0, float("inf")], 0.1),
    lambda: cvar([1.0], 0.0),
    lambda: cvar([1.0], 1.5),
    lambda: cvar([1.0], float("nan")),
    lambda: bootstrap_interval([1.0, 2.0], level=1.0),
    lambda: bootstrap_interval([1.0, 2.0], resamples=0),
    lambda: bootstrap_interval([1.0, 2.0], seed=-1),
    lambda: bootstrap_interval([1.0, 2.0], lambda batch: batch.mean()),
    lambda: bootstrap_interval(np.zeros((2, 2, 2))),
    lambda: probability_of_improvement(np.zeros((2, 3)), np.zeros((2, 4))),
    lambda: performance_profile([1.0, 2.0], []),
    lambda: clopper_pearson(5, 4),
    lambda: clopper_pearson(0, 0),
]


@pytest.mark.parametrize("call", BAD)
def test_bad_input_is_refused(call):
    with pytest.raises(UsageError):
        call()

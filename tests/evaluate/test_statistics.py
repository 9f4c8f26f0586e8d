"""Aggregates, intervals and tails against closed forms, brute force, scipy and rliable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rliable import metrics

from surefoot.errors import UsageError
from surefoot.evaluate.statistics import (
    clopper_pearson,
    confidence_band,
    confidence_interval,
    cvar,
    improvement_interval,
    interquartile_mean,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    profile_interval,
    share_interval,
    summary,
    worst_interval,
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


# --- intervals: what they are -------------------------------------------------------------------------------------


@pytest.mark.parametrize("runs", [2, 3, 10])
def test_the_interval_of_a_mean_is_students_over_runs(runs):
    """Over tasks each run is one value, so that episodes of one run, taken for tasks, do not feign certainty."""
    scores = np.random.default_rng(runs).normal(3, 2, (runs, 4))
    for x, rows in ((scores[:, 0], scores[:, 0]), (scores, scores.mean(1))):
        theirs = scipy.stats.ttest_1samp(rows, 0).confidence_interval(0.9)
        assert confidence_interval(x, mean, level=0.9) == pytest.approx((theirs.low, theirs.high))
    repeated = np.repeat(scores[:, :1], 50, axis=1)
    assert confidence_interval(repeated, mean) == pytest.approx(confidence_interval(scores[:, 0], mean))


def test_other_statistics_have_the_standard_error_of_a_jackknife():
    scores = np.random.default_rng(1).normal([0, 100, 200], 1, (6, 3))
    assert confidence_interval(scores, median) == pytest.approx(confidence_interval(scores[:, 1], mean))
    capped = 1 - np.minimum(scores[:, 0], 1)
    assert confidence_interval(scores[:, 0], optimality_gap) == pytest.approx(confidence_interval(capped, mean))

    def product(batch):  # of two means: the delta method's standard error, which the jackknife tends to
        return batch[..., 0].mean(-1) * batch[..., 1].mean(-1)

    many = np.random.default_rng(2).normal([3, 5], 1, (4000, 2))
    low, high = confidence_interval(many, product)
    spread = np.sqrt((many.mean(0)[::-1] ** 2 @ np.cov(many.T).diagonal() + 2 * 15 * np.cov(many.T)[0, 1]) / 4000)
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.01)


def test_of_many_runs_the_interval_of_the_interquartile_mean_is_scipys_bootstrap():
    x = np.random.default_rng(3).exponential(size=400)

    def middle(batch, axis):
        return scipy.stats.trim_mean(batch, 0.25, axis=axis)

    theirs = scipy.stats.bootstrap((x,), middle, n_resamples=4000, method="BCa", rng=1).confidence_interval
    np.testing.assert_allclose(confidence_interval(x), theirs, atol=0.02)
    assert np.diff(confidence_interval(x)) == pytest.approx(np.diff(theirs), rel=0.08)


def test_of_many_runs_in_several_tasks_it_is_rliables(library):
    scores = np.random.default_rng(0).normal(np.arange(4), 1 + np.arange(4), size=(300, 4))
    np.random.seed(1)  # rliable resamples from the global generator
    _, interval = library.get_interval_estimates(
        {"x": scores}, lambda s: np.array([metrics.aggregate_iqm(s)]), reps=2000
    )
    low, high = confidence_interval(scores)
    assert high - low == pytest.approx(float(np.diff(interval["x"][:, 0])[0]), rel=0.07)
    np.testing.assert_allclose([low, high], interval["x"][:, 0], atol=0.02)


def test_the_standard_error_of_a_trimmed_mean_by_hand():
    """1 to 8: two are cut at either end and count as 3 and 6; how many errors normal samples need is simulated here."""
    low, high = confidence_interval([1, 2, 3, 4, 5, 6, 7, 8])
    error = np.sqrt((6 * 1.5**2 + 2 * 0.5**2) / 7 / 8) * 8 / 4
    drawn = np.sort(np.random.default_rng(0).normal(size=(50_000, 8)), axis=1)
    errors = drawn[:, [2, 2, 2, 3, 4, 5, 5, 5]].std(axis=1, ddof=1) / np.sqrt(8) * 2
    needed = np.quantile(np.abs(drawn[:, 2:6].mean(axis=1)) / errors, 0.95)
    assert low + high == pytest.approx(9) and (high - low) / 2 / error == pytest.approx(needed, rel=0.03)


def test_intervals_are_nested_and_move_with_the_scores():
    x = np.random.default_rng(0).normal(size=(10, 3))
    for statistic in (interquartile_mean, mean, median):
        wide, narrow = (confidence_interval(x, statistic, level=level) for level in (0.99, 0.5))
        assert wide.low < narrow.low < statistic(x) < narrow.high < wide.high
        moved = confidence_interval(5 + 3 * x, statistic, level=0.5)
        assert moved == pytest.approx((5 + 3 * narrow.low, 5 + 3 * narrow.high))


def test_nothing_is_said_where_nothing_is_known():
    for statistic in (interquartile_mean, mean, median):
        assert confidence_interval([3.0], statistic) is None
        assert confidence_interval([[3.0, 4.0]], statistic) is None
        assert confidence_interval(np.full((5, 2), 0.1), statistic) is None
    assert confidence_interval([1, 5, 5, 5, 5, 5, 5, 9]) is None  # the middle half does not differ
    assert improvement_interval([1.0], [2.0, 3.0]) is None and worst_interval([[1.0, 2.0]], 0.5) is None
    assert worst_interval([[1.0, 2.0]] * 3, 0.5) is None
    assert np.isnan(confidence_band([[1.0, 2.0]])).all()
    low, high = confidence_band([[1.0, 2.0], [1.0, 4.0]])
    assert np.isnan([low[0], high[0]]).all() and low[1] < 3 < high[1]


def test_a_summary_says_why_there_is_no_interval():
    one, equal, two = summary([3.0]), summary([3.0] * 4), summary([3.0, 4.0])
    assert one["mean_interval"] is None and one["no_interval"] == "no interval from one episode"
    assert equal["no_interval"] == "no interval, as all 4 returns are equal" and equal["interquartile_mean"] == 3
    assert "no_interval" not in two and two["mean_interval"] == list(confidence_interval([3.0, 4.0], mean))
    assert (two["min"], two["max"], two["returns"]) == (3, 4, [3, 4])


# --- intervals: what they cover -----------------------------------------------------------------------------------

RUNS = [2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30]


def covered(samples, truth, statistic):
    """How often the interval of a sample `[runs, samples]` holds the truth."""
    low, high = confidence_band(samples, statistic)
    return ((low <= truth) & (truth <= high)).mean()


@pytest.mark.parametrize("runs", RUNS)
def test_95_percent_covers_95_percent_of_normal_scores(runs):
    samples = np.random.default_rng(1).normal(2, 3, (runs, 20_000))
    for statistic in (mean, interquartile_mean):
        assert 0.943 <= covered(samples, 2, statistic) <= 0.957
    x, noise = np.random.default_rng(2).normal(size=(2, runs, 20_000))  # two arms on the same seeds
    assert 0.945 <= covered(x - (0.8 * x + 0.6 * noise - 1), 1, mean) <= 0.955


SKEWED = {2: (90.9, 90.9), 3: (88.5, 88.5), 5: (88.4, 93.4), 10: (89.8, 93.5), 30: (92.5, 94.3)}


@pytest.mark.parametrize("runs", SKEWED)
def test_what_is_covered_of_skewed_scores_is_what_the_documentation_says(runs):
    samples = np.random.default_rng(1).exponential(size=(runs, 20_000))
    # the mean of the middle half of an exponential distribution: the integral of -log(1 - u) from 1/4 to 3/4, doubled
    middle = 2 * (0.25 * np.log(0.25) - 0.75 * np.log(0.75)) + 1 if runs > 3 else 1
    found = covered(samples, 1, mean), covered(samples, middle, interquartile_mean)
    assert [100 * x for x in found] == pytest.approx(SKEWED[runs], abs=0.6)
    row = next(line for line in Path("docs/statistics.md").read_text().splitlines() if line.startswith(f"| {runs} |"))
    assert [float(x) for x in row.split("|")[4:6]] == list(SKEWED[runs])


@pytest.mark.parametrize("runs", [2, 3, 4, 8, 30])
@pytest.mark.parametrize(("tasks", "apart"), [(2, 0), (2, 3), (3, 4)])
def test_several_tasks_are_covered_together_or_far_apart(runs, tasks, apart):
    """As a comparison pools them. The truth is the mean over many samples, as the tasks are fixed."""
    offsets = apart * (np.arange(tasks) - (tasks - 1) / 2)
    samples = np.random.default_rng(3).normal(size=(1500, runs, tasks)) + offsets
    for statistic in (interquartile_mean, mean):
        ends = np.array([confidence_interval(one, statistic) for one in samples])
        assert ((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).mean() >= 0.94


@pytest.mark.parametrize("runs", RUNS)
def test_the_better_learner_is_covered_whatever_the_spreads(runs):
    rng = np.random.default_rng(4)
    for truth, spread in ((0.5, 1), (0.8, 1), (0.97, 1), (0.5, 5), (0.9, 5)):
        ahead = scipy.stats.norm.ppf(truth) * np.hypot(1, spread)
        pairs = zip(rng.normal(ahead, 1, (300, runs)), rng.normal(0, spread, (300, runs)), strict=True)
        ends = np.array([improvement_interval(x, y) for x, y in pairs])
        assert ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean() >= 0.96
        assert (ends[:, 0] < ends[:, 1]).all()


@relaxed
@given(matrices, st.integers(2, 8), st.integers(0, 99))
def test_the_interval_of_the_better_learner_is_never_a_point(x, runs, seed):
    x = np.concatenate([x, x])
    y = np.random.default_rng(seed).normal(0, 500, (runs, x.shape[1]))
    low, high = improvement_interval(x, y)
    assert 0 <= low <= probability_of_improvement(x, y) <= high <= 1
    assert high - low > 0.05  # 36 pairs that are all won or lost leave 0.097


def test_three_wins_of_three_prove_little():
    assert improvement_interval([4, 5, 6], [1, 2, 3]) == pytest.approx((0.025 ** (1 / 3), 1))
    assert improvement_interval([1, 2, 3], [4, 5, 6]) == pytest.approx((0, 1 - 0.025 ** (1 / 3)))
    assert improvement_interval([4, 5, 6], [1, 2]) == clopper_pearson(2, 2) == improvement_interval([4, 5], [1, 2, 3])
    two_tasks = improvement_interval([[4, 4], [5, 5], [6, 6]], [[1, 1], [2, 2], [3, 3]])
    assert two_tasks == pytest.approx((0.025 ** (1 / 6), 1))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 30])
def test_shares_of_successes_are_covered_exactly(count):
    """By enumeration: the binomial probability of all outcomes whose interval holds the truth."""
    ends = np.array([share_interval([1] * k + [0] * (count - k)) for k in range(count + 1)])
    for truth in (0.02, 0.1, 0.5, 0.77, 0.99):
        held = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
        assert scipy.stats.binom.pmf(np.arange(count + 1), count, truth)[held].sum() >= 0.95
    assert (ends[:, 1] - ends[:, 0] > 0.05).all()


@pytest.mark.parametrize("examples", [2, 5, 10, 30, 128])
def test_a_chance_estimated_from_several_samples_is_covered(examples):
    """pass@1 of 8 samples: each example has its own chance, from a beta distribution; the truth is their mean."""
    rng = np.random.default_rng(5)
    for a, b, least in ((1, 1, 0.94), (20, 20, 0.94), (0.3, 2.7, 0.92)):  # the last one is skewed
        solved = rng.binomial(8, rng.beta(a, b, (600, examples))) / 8
        ends = np.array([share_interval(one) for one in solved])
        assert ((ends[:, 0] <= a / (a + b)) & (a / (a + b) <= ends[:, 1])).mean() >= least
    wide, narrow = (np.diff(share_interval(x))[0] for x in ([0, 1] * 20, [0.4, 0.6] * 20))
    assert narrow < wide / 3


@pytest.mark.parametrize("runs", [2, 3, 10])
def test_the_worst_place_is_covered_though_it_was_picked(runs):
    rng = np.random.default_rng(6)
    for truth, share, level in ((np.zeros(9), 1 / 9, 0), (np.arange(9) / 4, 1 / 9, 0), (np.arange(9) / 4, 0.3, None)):
        level = cvar(truth, share) if level is None else level
        common = rng.normal(size=(400, runs, 1))
        ends = [worst_interval(truth + x, share) for x in 0.7 * common + 0.7 * rng.normal(size=(400, runs, 9))]
        assert np.mean([low <= level <= high for low, high in ends]) >= 0.95


def test_the_interval_of_the_worst_place_by_hand():
    """Of places with means 1 and 2: the lower end is Student's, the upper one that of two places at once."""
    scores = np.array([[0.0, 2.0], [2.0, 2.5], [1.0, 1.5]])
    low, high = worst_interval(scores, 0.5)
    assert low == pytest.approx(1 - scipy.stats.t.ppf(0.975, 2) / np.sqrt(3))
    upper = 2 + scipy.stats.t.ppf(1 - 0.025 / 2, 2) * 0.5 / np.sqrt(3)
    assert high == pytest.approx(min(upper, 1 + scipy.stats.t.ppf(1 - 0.025 / 2, 2) / np.sqrt(3)))
    assert worst_interval(scores, 1.0).low < 1.5 < worst_interval(scores, 1.0).high
    assert worst_interval(scores, 0.5, distinct=1).high < high


# --- profiles and tails -------------------------------------------------------------------------------------------


def test_performance_profile_by_hand_and_its_band():
    scores = np.array([[0.0, 1.0], [2.0, 3.0]])
    np.testing.assert_array_equal(performance_profile(scores, [-1, 0, 0.5, 1, 2.5, 3]), [1, 0.75, 0.75, 0.5, 0.25, 0])
    low, high = profile_interval(scores, [-1, 0.5, 2.5, 3])
    for place, above in enumerate((4, 3, 1, 0)):
        assert (low[place], high[place]) == clopper_pearson(above, 4)


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
    lambda: confidence_interval([1.0, 2.0], level=1.0),
    lambda: confidence_interval([1.0, 2.0], level="0.95"),
    lambda: confidence_interval([1.0, 2.0], lambda batch: batch.mean(-1)),
    lambda: confidence_interval(np.zeros((2, 2, 2))),
    lambda: confidence_band(np.zeros((2, 2, 2))),
    lambda: confidence_interval([[1.0, 2.0], [3.0]]),
    lambda: confidence_interval(["1", "2"]),
    lambda: confidence_interval({"a": [1.0, 2.0]}),
    lambda: confidence_interval([1.0, None]),
    lambda: mean("3"),
    lambda: mean([1 + 2j]),
    lambda: probability_of_improvement({"a": 1}, [1.0]),
    lambda: improvement_interval([[1.0], [2.0, 3.0]], [1.0]),
    lambda: share_interval([0.5, 1.5]),
    lambda: share_interval([[0.5]]),
    lambda: worst_interval([1.0, 2.0], 0.0),
    lambda: cvar([1.0], "all"),
    lambda: clopper_pearson("1", 2),
    lambda: probability_of_improvement(np.zeros((2, 3)), np.zeros((2, 4))),
    lambda: performance_profile([1.0, 2.0], []),
    lambda: clopper_pearson(5, 4),
    lambda: clopper_pearson(0, 0),
]


@pytest.mark.parametrize("call", BAD)
def test_bad_input_is_refused(call):
    with pytest.raises(UsageError):
        call()

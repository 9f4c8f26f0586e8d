"""The share kept: hand-worked numbers, its interval against a search over tests, its coverage, the worst of several."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import UsageError
from surefoot.evaluate.kept import ALL, episodes_for, kept, kept_interval, worst_kept
from surefoot.evaluate.statistics import ConfidenceInterval


@pytest.mark.parametrize(
    ("perturbed", "nominal", "share"),
    [
        ([50, 150], [100, 300], 0.5),  # half of a positive return
        ([-60, -20], [40, 40], -1.0),  # as far below zero as it was above
        ([-300], [-200], 0.5),  # a cost grown by half
        ([-400], [-200], 0.0),  # a cost doubled
        ([-100], [-200], 1.5),  # a cost halved
        ([0, 0], [0, 0], 1.0),
        ([7, 7], [7, 7], 1.0),
    ],
)
def test_the_share_by_hand(perturbed, nominal, share):
    assert kept(perturbed, nominal) == pytest.approx(share)


def test_a_change_from_nothing_has_no_share():
    assert math.isnan(kept([1.0, 1.0], [-1.0, 1.0])) and kept_interval([1.0, 1.0], [-1.0, 1.0]) == ALL


def test_the_interval_by_hand():
    """The nominal return is 100 in both episodes, the perturbed one 40 and 60: 0.5 ± t(1, 0.975) * 10 / 100."""
    low, high = kept_interval([40, 60], [100, 100])
    half = scipy.stats.t.ppf(0.975, 1) * 10 / 100
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))
    low, high = kept_interval([-140, -160], [-100, -100])
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_interval_is_what_a_paired_t_test_does_not_reject(sign, level):
    rng = np.random.default_rng(4)
    nominal = sign * rng.normal(100, 15, 8)
    perturbed = 0.6 * nominal + rng.normal(0, 10, 8)
    low, high = kept_interval(perturbed, nominal, level=level)

    def rejected(share):  # share = 1 + (x - y) / |y| of means, so that the mean of x - y - (share - 1) |y| is zero
        return scipy.stats.ttest_1samp(perturbed - nominal - (share - 1) * sign * nominal, 0).pvalue < 1 - level

    assert not rejected(low + 1e-6) and not rejected(high - 1e-6) and rejected(low - 1e-6) and rejected(high + 1e-6)
    assert low < kept(perturbed, nominal) < high


def test_a_pair_in_constant_proportion_has_an_interval_of_no_width():
    nominal = np.array([90.0, 100.0, 130.0])
    interval = kept_interval(nominal / 4, nominal)
    assert interval == pytest.approx((0.25, 0.25), abs=1e-7)


def test_where_nothing_differs_there_is_no_interval():
    assert kept_interval([5, 5], [10, 10]) is None
    assert kept_interval([3, 8], [3, 8]) is None, "unchanged returns, whatever their spread"
    assert kept_interval([5], [10]) is None


def test_a_nominal_return_of_about_zero_says_nothing():
    assert kept_interval([5, 1, 9], [-10, 11, 1]) == ALL


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-100, 100), st.floats(50, 100)), min_size=2, max_size=8),
    st.floats(0.01, 1000),
    st.sampled_from([-1, 1]),
)
def test_it_contains_its_share_and_does_not_depend_on_the_unit(pairs, unit, sign):
    x, y = sign * np.array(pairs).T
    interval = kept_interval(x, y)
    if interval is not None:
        assert interval.low - 1e-8 <= kept(x, y) <= interval.high + 1e-8
        scaled = kept_interval(unit * x, unit * y)
        if math.isfinite(interval.low) and interval != ALL:
            assert scaled == pytest.approx(interval, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_it_covers_the_truth_as_often_as_it_says(sign):
    rng, hits = np.random.default_rng(0), 0
    for _ in range(1500):
        shared = rng.normal(size=6)
        nominal = 100 + 20 * shared
        perturbed = 70 + 20 * shared + 10 * rng.normal(size=6)
        truth = 0.7 if sign > 0 else 1.3
        low, high = kept_interval(sign * perturbed, sign * nominal)
        hits += low <= truth <= high
    assert hits / 1500 == pytest.approx(0.95, abs=0.015)


def test_the_worst_of_several_by_hand():
    nominal = np.array([100.0, 100.0, 100.0])
    cells = [[90, 100, 95], [40, 60, 50], [40, 60, 50], [80, 0, 90]]
    value, interval, place = worst_kept(cells, nominal)
    error = np.std([40, 60, 50], ddof=1) / np.sqrt(3) / 100
    wide = np.std([80, 0, 90], ddof=1) / np.sqrt(3) / 100
    assert (value, place) == (pytest.approx(0.5), 1)
    assert interval.low == pytest.approx(170 / 300 - scipy.stats.t.ppf(0.975, 2) * wide)  # that of any cell
    assert interval.high == pytest.approx(0.5 + scipy.stats.t.isf(0.025 / 3, 2) * error)  # of three that differ
    assert worst_kept([[50, 50]], [100, 100]) == (0.5, ConfidenceInterval(0.5, 0.5), 0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: kept([1, 2], [1]), r"perturbed has shape \(2,\), nominal \(1,\)"),
        (lambda: kept([[1]], [[1]]), "shape"),
        (lambda: kept([math.nan], [1]), "NaN"),
        (lambda: kept_interval([1, 2], [2, 1], level=95), "level=95"),
    ],
)
def test_bad_input_is_refused(call, match):
    with pytest.raises(UsageError, match=match):
        call()


def test_a_number_of_episodes_for_a_width_is_that_of_the_interval_with_the_pilot_s_spread():
    nominal, change = np.full(5, 10.0), np.array([-2.0, -1, 0, 1, 2])
    pilot = kept_interval(nominal + change, nominal)
    assert episodes_for(nominal + change, nominal, pilot.high - pilot.low, 99) == 5
    spread = change.std(ddof=1) / 10
    for count in (2, 3, 8, 40):
        width = 2 * scipy.stats.t.isf(0.025, count - 1) * spread / count**0.5
        assert episodes_for(nominal + change, nominal, width * 1.0001, 99) == count
        assert episodes_for(nominal + change, nominal, width * 0.9999, 99) == min(count + 1, 99)
    assert episodes_for(nominal + change, nominal, 1e-9, 99) == 99
    assert episodes_for(nominal - 1, nominal, 1e-9, 99) == 5, "no episode differs"


def test_two_stages_cover_and_peeking_does_not():
    rng, trials, missed, peeked = np.random.default_rng(1), 500, 0, 0
    for _ in range(trials):
        nominal, returns = rng.normal(10, 0.01, 64), 10 + rng.normal(size=64)  # what is kept is 1
        count = episodes_for(returns[:4], nominal[:4], 0.1, 32)
        low, high = kept_interval(returns[4 : 4 + max(count, 4)], nominal[4 : 4 + max(count, 4)])
        missed += not low <= 1 <= high
        for seen in range(2, 33):  # stops as soon as it looks sure, with all that it has seen
            low, high = kept_interval(returns[:seen], nominal[:seen])
            if high - low <= 0.1:
                break
        peeked += not low <= 1 <= high
    assert missed / trials < 0.07 < 0.08 < peeked / trials

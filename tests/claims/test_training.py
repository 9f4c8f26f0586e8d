"""The series that training leaves, for experiments."""

from __future__ import annotations

import numpy as np

from surefoot.claims.training import area, final, last_fifth, metric_of

HISTORY = [
    [{"return": 0.0}, {}],
    [{"return": 2.0}, {"return": 5.0}],
    [{}, {"return": 7.0}],
    [{"return": 4.0}, {"return": float("nan")}],
]  # [iterations][seeds]


def test_a_metric_holds_on_where_an_iteration_has_none():
    np.testing.assert_array_equal(metric_of(HISTORY, "return"), [[0, 2, 2, 4], [5, 5, 7, 7]])
    np.testing.assert_array_equal(metric_of(HISTORY, "unknown"), np.zeros((2, 4)))


def test_the_end_and_the_area_of_a_curve():
    assert area(HISTORY) == [2.0, 6.0]
    rows = [{"return": 1.0, "episodes": i + 1} for i in range(18)]
    last = [{"return": 6.0, "episodes": 19}, {"return": 9.0, "episodes": 21}]  # of one episode, and of two
    assert final([[row] for row in rows + last]) == [8.0]  # of 20 iterations the last two count
    assert final([[row] for row in rows + last + [{"episodes": 21}] * 2]) == [9.0]  # the last one known
    assert final([[{"return_mean": 2.0}, {"return_mean": 3.0}], [{"return_mean": 4.0}, {}]]) == [4.0, 3.0]


def test_the_last_fifth():
    history = [[{"return": float(i)}, {"return": 2.0 * i}] for i in range(10)]
    assert last_fifth(history) == [8.5, 17.0]
    assert last_fifth(history[:2]) == [1.0, 2.0]

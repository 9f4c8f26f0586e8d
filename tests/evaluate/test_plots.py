"""Figures show the numbers they are given, in colours that differ, without a display and the same every time."""

from __future__ import annotations

import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from surefoot.errors import UsageError
from surefoot.evaluate import plots
from surefoot.evaluate.statistics import confidence_interval, interquartile_mean, performance_profile


def test_learning_curves_show_the_interquartile_mean_in_its_band():
    scores = np.random.default_rng(0).normal(size=(8, 5)).cumsum(axis=1)
    figure = plots.learning_curves({"a": (np.arange(5), scores), "b": (np.arange(5), scores[0])})
    first, second = figure.axes[0].lines
    np.testing.assert_allclose(first.get_ydata(), [interquartile_mean(c) for c in scores.T])
    np.testing.assert_allclose(second.get_ydata(), scores[0])
    (band,) = figure.axes[0].collections  # one run has no band
    heights = band.get_paths()[0].vertices[:, 1]
    low, high = confidence_interval(scores[:, -1])
    assert np.isclose(heights, low).any() and np.isclose(heights, high).any()
    assert (first.get_color(), second.get_color()) == plots.COLOURS[:2]


def test_profiles_show_shares():
    scores, thresholds = np.random.default_rng(0).random((6, 3)), np.linspace(0, 1, 7)
    figure = plots.profiles({"a": scores}, thresholds)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), performance_profile(scores, thresholds))


def test_curve_marks_the_worst_and_the_nominal():
    figure = plots.curve([0, 1, 2], [3.0, 1.0, 2.0], ([2, 0, 1], [4, 2, 3]), nominal=5)
    assert [t.get_text() for t in figure.legends[0].texts] == ["nominal: 5", "worst: 1"]
    marker = figure.axes[0].lines[-1]
    assert (list(marker.get_xdata()), list(marker.get_ydata())) == ([1], [1])


def test_a_heat_map_labels_few_places_with_few_digits():
    places = np.linspace(0.1, 3, 10)
    axes = plots.heat_map(places, places[:3], np.arange(30).reshape(10, 3)).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.1", "0.744", "1.39", "2.03", "2.68"]
    assert len(axes.get_yticks()) == 3


def test_svg_is_one_element_and_the_same_twice():
    def svg():
        return plots.to_svg(plots.heat_map([0, 1], [0, 1, 2], np.arange(6).reshape(2, 3), title="a < b"))

    text = svg()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert text.startswith("<svg")
    assert text == svg()


def test_the_style_stays_inside():
    before = dict(matplotlib.rcParams)
    plots.to_svg(plots.curve([0], [1.0]))
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in {name for name in sys.modules if name in plots.__dict__}


# Machado et al. (2009): how colours look without the medium-wave and without the long-wave cones.
BLIND = {
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}


@pytest.mark.parametrize("kind", BLIND)
def test_colours_differ_for_colour_blind_readers(kind):
    def nearest(colours):
        seen = np.array([matplotlib.colors.to_rgb(c) for c in colours]) @ np.transpose(BLIND[kind])
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        return apart[~np.eye(len(seen), dtype=bool)].min()

    assert nearest(plots.COLOURS) > 0.15
    assert nearest(["#d62728", "#2ca02c", "#8c564b"]) < nearest(plots.COLOURS[:3])


@pytest.mark.parametrize(
    "call",
    [
        lambda: plots.learning_curves({}),
        lambda: plots.learning_curves({"a": ([0, 1], [[1.0, 2.0, 3.0]])}),
        lambda: plots.heat_map([0, 1], [0, 1], np.zeros((2, 3))),
    ],
)
def test_wrong_shapes_are_refused(call):
    with pytest.raises(UsageError):
        call()

"""Sets from counts: the formulas by hand, and how often they hold the truth, by enumeration of all samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom, chi2

from surefoot.ambiguity import L1, Box, from_counts
from surefoot.ambiguity.counts import SETS
from surefoot.errors import UsageError


def test_radii_by_hand():
    counts = [[6, 3, 1], [0, 0, 0]]
    nominal, ball = from_counts(counts, "l1-weissman", 0.9)
    assert nominal.tolist() == [[0.6, 0.3, 0.1], [1 / 3] * 3] and isinstance(ball, L1)
    assert ball.radius.tolist() == pytest.approx([math.sqrt(2 * math.log((2**3 - 2) / 0.05) / 10), 2])
    width = math.sqrt(math.log(2 * 3 / 0.05) / 20)
    box = from_counts(counts, "box-hoeffding", 0.9).ambiguity
    assert isinstance(box, Box) and float(box.upper[0, 2]) == pytest.approx(0.1 + width)
    assert box.lower[1].tolist() == [0] * 3 and box.upper[1].tolist() == [1] * 3
    width = math.sqrt(2 * 0.09 * math.log(240) / 9) + 7 * math.log(240) / 27
    box = from_counts([[900, 100], [1, 0]], "box-bernstein", 0.9).ambiguity
    log = math.log(4 * 2 / 0.05)
    width = math.sqrt(2 * 0.09 * log / 999) + 7 * log / (3 * 999)
    assert float(box.upper[0, 1] - 0.1) == pytest.approx(width)
    assert float(from_counts([6, 3, 1], "kl", 0.9).ambiguity.radius) == pytest.approx(chi2.ppf(0.9, 2) / 20)
    x = 10 * float(from_counts([6, 3, 1], "reverse-kl", 0.9).ambiguity.radius)
    assert math.exp(-x) * (math.e * x / 2) ** 2 == pytest.approx(0.1) and x > 2
    box = from_counts([6, 3], "box-dirichlet", 0.9).ambiguity
    assert float(box.lower[0]) == pytest.approx(beta.ppf(0.025, 7, 4))
    assert float(from_counts([5, 5, 0, 0], "l1-weissman", 0.9, outcomes=2).ambiguity.radius) == pytest.approx(
        math.sqrt(2 * math.log(2 / 0.1) / 10)
    )


@pytest.mark.parametrize("name", ["l1-weissman", "box-hoeffding", "box-bernstein", "reverse-kl"])
@pytest.mark.parametrize("truth", [0.5, 0.9, 0.99])
def test_the_truth_is_in_the_set_as_often_as_promised(name, truth):
    """All samples of two outcomes, each weighed by how likely it is."""
    p, covered = torch.tensor([truth, 1 - truth], dtype=torch.float64), 0.0
    for k in range(31):
        nominal, ambiguity = from_counts([k, 30 - k], name, 0.8)
        if isinstance(ambiguity, Box):
            inside = bool(((ambiguity.lower <= p) & (p <= ambiguity.upper)).all())
        else:
            inside = bool(ambiguity.divergence(p, nominal) <= ambiguity.radius)
        covered += inside * binom.pmf(k, 30, truth)
    assert covered >= 0.8


def test_more_rows_share_the_confidence_and_more_data_shrink_the_set():
    one, two = (from_counts(np.full((n, 2), 50), "l1-weissman").ambiguity.radius[0] for n in (1, 20))
    more = from_counts([[5000, 5000]], "l1-weissman").ambiguity.radius[0]
    assert more < one < two
    posterior = from_counts([50, 50], "l1-dirichlet", 0.9).ambiguity.radius
    assert float(posterior) == pytest.approx(2 * (beta.ppf(0.95, 51, 51) - 0.5), rel=0.05)


@pytest.mark.parametrize("name", SETS[:5])
def test_rows_without_data_hold_everything(name):
    nominal, ambiguity = from_counts([[0, 0, 0], [5, 4, 1]], name)
    corner = torch.tensor([0.999, 0.0005, 0.0005], dtype=torch.float64)
    if isinstance(ambiguity, Box):
        assert bool(((ambiguity.lower[0] <= corner) & (corner <= ambiguity.upper[0])).all())
    else:
        assert float(ambiguity.divergence(corner, nominal[0])) <= float(ambiguity.radius[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_counts([1, 2], "weissman"), "set='weissman' is not allowed"),
        (lambda: from_counts([1, 2], confidence=1), "confidence=1 is not allowed"),
        (lambda: from_counts([0.5, 0.5]), r"counts\[0\] = 0.5 is not a count"),
        (lambda: from_counts([1, -1]), r"counts\[1\] = -1 is not a count"),
        (lambda: from_counts([3, 1, 0], outcomes=1), "whole number from 2"),
        (lambda: from_counts([3, 1], "box-dirichlet", prior=0), "prior=0"),
        (lambda: from_counts(3), r"counts has shape \[\]"),
    ],
)
def test_what_is_no_data_is_told(call, message):
    with pytest.raises(UsageError, match=message):
        call()

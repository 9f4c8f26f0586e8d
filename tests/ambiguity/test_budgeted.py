"""Budgeted sets: worst cases against linear programming and corners, projections against bisection and their law."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from surefoot.ambiguity.budgeted import ascend, project, worst_concave, worst_linear

G = torch.Generator().manual_seed(0)
POINTS = 1.5 * torch.randn(60, 5, generator=G, dtype=torch.float64)
budgets = pytest.mark.parametrize("budget", [0.0, 0.4, 1.0, 2.7, 5.0, 9.0])


@budgets
def test_the_worst_case_of_a_linear_function_is_that_of_a_linear_programme(budget):
    values, points = worst_linear(POINTS, budget)
    assert (values - (POINTS * points).sum(-1)).abs().max() < 1e-12
    for slope, value in zip(POINTS.numpy(), values.tolist(), strict=True):
        found = linprog(-slope, np.ones((1, 5)), [budget], bounds=[(0, 1)] * 5)
        assert value == pytest.approx(-found.fun, abs=1e-9)


@budgets
def test_a_projection_is_inside_and_no_point_of_the_set_is_nearer(budget):
    nearest = project(POINTS, budget)
    assert nearest.min() >= 0 and nearest.max() <= 1 and nearest.sum(-1).max() <= budget + 1e-12
    # (x − p)·(q − p) ≤ 0 for all q of the set: the linear function x − p is greatest at p
    greatest, _ = worst_linear(POINTS - nearest, budget)
    assert (greatest - ((POINTS - nearest) * nearest).sum(-1)).max() < 1e-12
    assert (project(nearest, budget) - nearest).abs().max() < 1e-12


def test_ascent_finds_the_corner_of_a_convex_function_and_counts_its_starts():
    target = torch.tensor([2.0, 0.5, -1.0, 0.1]).double()

    def convex(xi: torch.Tensor) -> torch.Tensor:
        return ((xi + target) ** 2).sum(-1)

    corners = [np.array(c) for c in itertools.product((0.0, 1.0), repeat=4) if sum(c) <= 2]
    best = max(float(convex(torch.as_tensor(c))) for c in corners)
    starts = torch.rand(20, 4, generator=G, dtype=torch.float64)
    values, points = ascend(convex, starts, 2.0, steps=40, length=0.2)
    assert values.shape == (20,) and float(values.max()) == pytest.approx(best, abs=1e-9)
    assert (values >= convex(project(starts, 2.0))).all() and (convex(points) - values).abs().max() < 1e-12


def test_cutting_planes_find_the_greatest_of_the_least_of_some_linear_functions():
    stream = np.random.default_rng(1)
    for budget in (0.5, 1.5, 4.0):
        slopes, offsets = stream.normal(size=(7, 4)), stream.normal(size=7)

        def above(xi: np.ndarray, slopes=slopes, offsets=offsets) -> tuple[float, np.ndarray]:
            values = slopes @ xi + offsets
            return float(values.min()), slopes[values.argmin()]

        found = worst_concave(above, 4, budget)
        rows = np.vstack([np.hstack([-slopes, np.ones((7, 1))]), [1, 1, 1, 1, 0]])
        whole = linprog([0, 0, 0, 0, -1], rows, [*offsets, budget], bounds=[(0, 1)] * 4 + [(None, None)])
        assert found.value == pytest.approx(-whole.fun, abs=1e-8)
        assert above(found.point)[0] == found.value
        assert all(a >= b - 1e-9 for a, b in zip(found.bounds, found.bounds[1:]))

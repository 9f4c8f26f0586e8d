"""Directions of instability: numbers by hand, the Gram route, invariances, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.models.directions import (
    decision_gradients,
    explained_share,
    mean_gradients,
    oscillation,
    overlap,
    principal,
    rayleigh,
    spectral_entropy,
    unit,
)


def f64(x) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def network(seed: int = 0, actions: int = 3, size: int = 4):
    first, second = drawn(seed, 6, size), drawn(seed + 1, actions, 6)
    return lambda states: torch.tanh(states @ first.T) @ second.T


# --- gradients -------------------------------------------------------------------------------------------------------


def test_a_linear_network_by_hand():
    weight = f64([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    found = decision_gradients(lambda s: s @ weight.T, f64([[2.0, 1.0]]))[0, 0]
    np.testing.assert_allclose(found, [-0.329735, 0.294615], atol=1e-6)
    assert float(found.norm()) == pytest.approx(0.442180, abs=1e-6)


def test_the_gradient_is_that_of_the_cross_entropy_with_the_greedy_action_fixed():
    q, states, step = network(), drawn(3, 5, 4), 1e-6
    found, greedy = decision_gradients(q, states)[:, 0], q(states).argmax(-1)

    def escape(moved: torch.Tensor) -> torch.Tensor:
        return -torch.log_softmax(q(moved), -1)[torch.arange(5), greedy]

    for j in range(4):
        shift = step * torch.eye(4, dtype=torch.float64)[j]
        expected = (escape(states + shift) - escape(states - shift)) / (2 * step)
        torch.testing.assert_close(found[:, j], expected, rtol=1e-6, atol=1e-8)
    ahead = escape(states + step * unit(found)) - escape(states)
    torch.testing.assert_close(ahead / step, found.norm(dim=-1), rtol=1e-4, atol=1e-6)


def test_a_constant_changes_nothing_and_large_values_saturate():
    q, states = network(), drawn(4, 8, 4)
    g = decision_gradients(q, states)
    torch.testing.assert_close(decision_gradients(lambda s: q(s) + 7, states), g)
    assert float(decision_gradients(lambda s: 1e4 * q(s), states).norm()) < 1e-3 * float(g.norm())


def test_means_have_the_jacobian_as_rows():
    weight = drawn(5, 2, 4)
    found = mean_gradients(lambda s: s @ weight.T, drawn(6, 3, 4))
    torch.testing.assert_close(found, weight.expand(3, 2, 4))


# --- the direction ---------------------------------------------------------------------------------------------------

THREE = f64([[3.0, 0.0], [0.0, 4.0], [3.0, 3.0]])


def test_three_gradients_by_hand_and_by_both_routes():
    found = principal(THREE)
    np.testing.assert_allclose(found.direction, [0.564603, 0.825362], atol=1e-6)
    assert float(found.largest) == pytest.approx(31.156604, abs=1e-6)
    assert found.concentration == pytest.approx(0.724572, abs=1e-6)
    wide = torch.cat([THREE, torch.zeros(3, 5, dtype=torch.float64)], 1)  # 3 rows of 7: the Gram matrix
    by_gram = principal(wide)
    torch.testing.assert_close(by_gram.direction[:2], found.direction)
    torch.testing.assert_close(by_gram.largest, found.largest)


def test_both_candidates_by_hand_and_their_identity():
    direction, others = principal(THREE).direction, f64([[1.0, 0.0], [0.0, 2.0]])  # L = diag(1, 4)
    assert explained_share(direction, others) == pytest.approx(0.608734, abs=1e-6)
    assert rayleigh(direction, others) == pytest.approx(0.760917, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(2, 6))
def test_properties_of_both_candidates(seed, states, size):
    rows, others = drawn(seed, states, size), drawn(seed + 1, states + 1, size)
    direction = principal(rows).direction
    share, ratio = explained_share(direction, others), rayleigh(direction, others)
    assert 0 <= share <= ratio <= 1 + 1e-12
    assert share == pytest.approx(ratio * principal(others).concentration)
    assert explained_share(-direction, 3 * others.flip(0)) == pytest.approx(share)
    assert rayleigh(direction, rows) == pytest.approx(1.0)
    assert explained_share(direction, rows) == pytest.approx(principal(rows).concentration)
    turn = torch.linalg.qr(drawn(seed + 2, size, size))[0]
    assert explained_share(turn @ direction, others @ turn.T) == pytest.approx(share)
    assert float((turn @ direction @ principal(rows @ turn.T).direction).abs()) == pytest.approx(1.0, abs=1e-4)


def test_collinear_and_isotropic_gradients():
    line = drawn(7, 20, 1) * drawn(8, 1, 5)
    found = principal(line)
    assert found.concentration == pytest.approx(1.0) == explained_share(found.direction, line)
    noise = drawn(9, 40_000, 5)
    assert explained_share(found.direction, noise) == pytest.approx(1 / 5, abs=0.01)


def test_no_gradients_at_all():
    nothing = torch.zeros(4, 3, dtype=torch.float64)
    found = principal(nothing)
    assert found.concentration == 0 and explained_share(found.direction, nothing) == 0 == rayleigh(
        found.direction, nothing
    )
    assert torch.equal(unit(nothing), nothing)


# --- statistics ------------------------------------------------------------------------------------------------------


def test_overlap_oscillation_and_spectrum_by_hand():
    one, other = f64([1.0, 0.0]), f64([0.6, 0.8])
    assert overlap(one, other) == pytest.approx(0.36) and overlap(one, one) == 1 and overlap(one, f64([0.0, 1.0])) == 0
    assert oscillation(f64([1.0, 3.0, 2.0])) == pytest.approx(1.5 / 2) and oscillation(f64([2.0, 2.0])) == 0
    assert spectral_entropy(torch.ones(8, 8)) == pytest.approx(0.0, abs=1e-6)
    point = torch.zeros(8, 8)
    point[2, 3] = 1
    assert spectral_entropy(point) == pytest.approx(1.0, abs=1e-6)

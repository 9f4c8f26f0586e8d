"""Matrix games: known ones, enumeration of supports, duality, and games with many solutions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surefoot.errors import UsageError
from surefoot.solvers.matrix_game import equilibrium, exploitability

ROCK = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])


@pytest.mark.parametrize(
    ("payoffs", "value", "row", "column"),
    [
        ([[2, -1], [-1, 1]], 0.2, [0.4, 0.6], [0.4, 0.6]),
        (ROCK, 0, [1 / 3] * 3, [1 / 3] * 3),
        ([[1, -1], [-1, 1]], 0, [0.5, 0.5], [0.5, 0.5]),
        ([[3, 1], [2, 0]], 1, [1, 0], [0, 1]),  # dominance
        ([[3, -2, 4], [-1, 4, 2]], 1, [0.5, 0.5], [0.6, 0.4, 0]),  # a column that is never played
        ([[5]], 5, [1], [1]),
        (ROCK[:2, :2], 0, [0, 1], [0, 1]),  # rock and paper: paper
    ],
)
def test_known_games(payoffs, value, row, column):
    found = equilibrium(payoffs)
    assert found.value == pytest.approx(value, abs=1e-8)
    np.testing.assert_allclose(found.row, row, atol=1e-8)
    np.testing.assert_allclose(found.column, column, atol=1e-8)


def test_ties_have_the_value_of_the_game():
    for payoffs in (np.full((3, 4), -7.0), np.vstack([ROCK, ROCK[:1]]), [[1, 0, 0], [1, 0, 0], [0, 0, 0]]):
        found = equilibrium(payoffs)
        assert exploitability(payoffs, found.row, found.column) == pytest.approx(0, abs=1e-8)


def enumerated(payoffs: np.ndarray) -> float:
    """The value by the kernel theorem: the saddle point of a square sub-game whose mixtures hold in the whole one."""
    for size in range(1, min(payoffs.shape) + 1):
        for rows in combinations(range(payoffs.shape[0]), size):
            for columns in combinations(range(payoffs.shape[1]), size):
                system = np.zeros((size + 1, size + 1))
                system[:size, size], system[size, :size], right = -1.0, 1.0, np.append(np.zeros(size), 1.0)
                mixtures = []
                for part in (payoffs[np.ix_(rows, columns)].T, payoffs[np.ix_(rows, columns)]):
                    system[:size, :size] = part
                    if abs(np.linalg.det(system)) < 1e-12:
                        break
                    mixtures.append(np.linalg.solve(system, right))
                if len(mixtures) < 2 or min(m[:size].min() for m in mixtures) < -1e-9:
                    continue
                x, y, v = np.zeros(payoffs.shape[0]), np.zeros(payoffs.shape[1]), mixtures[0][size]
                x[list(rows)], y[list(columns)] = mixtures[0][:size], mixtures[1][:size]
                if (x @ payoffs).min() >= v - 1e-9 and (payoffs @ y).max() <= v + 1e-9:
                    return float(v)
    raise AssertionError("no equilibrium")


@pytest.mark.parametrize("seed", range(20))
def test_random_games_against_enumeration(seed):
    draw = np.random.default_rng(seed)
    payoffs = draw.normal(size=(draw.integers(1, 5), draw.integers(1, 5)))
    assert equilibrium(payoffs).value == pytest.approx(enumerated(payoffs), abs=1e-8)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.sampled_from([1e-3, 1.0, 1e5]), st.booleans())
def test_duality_and_the_laws_of_growing_populations(seed, rows, columns, scale, whole):
    draw = np.random.default_rng(seed)
    payoffs = scale * (draw.integers(-2, 3, (rows, columns)) if whole else draw.normal(size=(rows, columns)))
    found = equilibrium(payoffs)
    assert found.row.sum() == pytest.approx(1) and found.column.sum() == pytest.approx(1)
    assert min(found.row.min(), found.column.min()) >= 0
    assert (
        0 <= exploitability(payoffs, found.row, found.column) + 1e-12 * scale <= 4e-8 * scale
    )  # row value = column value
    assert equilibrium(payoffs[:-1] if rows > 1 else payoffs).value <= found.value + 1e-8 * scale
    assert equilibrium(payoffs[:, :-1] if columns > 1 else payoffs).value >= found.value - 1e-8 * scale


@pytest.mark.parametrize("payoffs", [[1, 2], [[]], [[np.nan]], [[np.inf, 0]]])
def test_what_is_no_game_is_refused(payoffs):
    with pytest.raises(UsageError, match="finite numbers"):
        equilibrium(payoffs)

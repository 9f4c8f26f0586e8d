"""Matrix completion and its intervals: numbers by hand, ridge regression as oracle, coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from surefoot.methods.tabular.pamc.completion import Completion, complete, conformal_width, leverage, regressed
from surefoot.seeding import torch_stream


def filled(values, weight, rank=1, ridge=1e-6, sparse=10.0, **options):
    return complete(values, weight, rank, ridge, sparse, torch_stream(0, "completion"), **options)


def low_rank(states=30, actions=20, rank=2, seed=0):
    g = torch_stream(seed, "matrix")
    left, right = (torch.rand(n, rank, generator=g, dtype=torch.float64) for n in (states, actions))
    return left @ right.T, torch.rand(states, actions, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("ridge", [0.02, 0.1])
def test_the_entry_that_rank_one_leaves_no_choice_for(ridge):
    """[[1, 2], [2, ?]]: nearly 4, as a general minimiser finds it too."""
    values = torch.tensor([[1.0, 2], [2, 99]], dtype=torch.float64)
    made = filled(values, torch.tensor([[1.0, 1], [1, 0]], dtype=torch.float64), ridge=ridge, sweeps=800)

    def loss(x):
        rest = np.array([[1, 2], [2, np.outer(x[:2], x[2:])[1, 1]]]) - np.outer(x[:2], x[2:])
        return (rest**2).sum() + ridge * (x**2).sum()

    best = minimize(loss, np.array([1.0, 2, 1, 2]), tol=1e-14, method="BFGS").x
    assert float(made.matrix[1, 1]) == pytest.approx(best[1] * best[3], abs=1e-4)
    assert 0 < 4 - float(made.matrix[1, 1]) < 25 * ridge


def test_a_matrix_of_low_rank_is_found_from_half_of_it():
    matrix, noise = low_rank()
    made = filled(matrix, (noise < 0.5).double(), rank=2, sweeps=80)
    torch.testing.assert_close(made.matrix, matrix, rtol=0, atol=5e-3)


def test_a_spike_is_told_from_the_rest():
    matrix, _ = low_rank()
    spiked = matrix.clone()
    spiked[3, 4] += 2
    made = filled(spiked, torch.ones_like(matrix), rank=2, sparse=0.2, sweeps=100)
    torch.testing.assert_close(made.matrix, matrix, rtol=0, atol=0.1)
    assert int((made.spikes != 0).sum()) == 1 and float(made.spikes[3, 4]) == pytest.approx(2, abs=0.2)


def test_a_row_that_is_never_seen_is_zero():
    matrix, _ = low_rank()
    weight = torch.ones_like(matrix)
    weight[5] = 0
    made = filled(matrix, weight, rank=2)
    assert bool((made.left[5] == 0).all()) and bool((made.matrix[5] == 0).all()) and bool((made.spikes[5] == 0).all())


def test_a_rotation_of_the_factors_changes_nothing():
    g = torch_stream(1, "factors")
    left, right, turn = (torch.randn(n, 2, generator=g, dtype=torch.float64) for n in (5, 4, 2))
    turned = Completion(left @ turn, right @ torch.linalg.inv(turn).T, left.new_zeros(5, 4))
    torch.testing.assert_close(turned.matrix, left @ right.T)


def test_rows_are_ridge_regressions_and_leverage_is_their_standard_error():
    g = torch_stream(2, "rows")
    values, weight = (torch.rand(5, 7, generator=g, dtype=torch.float64) for _ in range(2))
    factors = torch.randn(7, 3, generator=g, dtype=torch.float64)
    found, spread = regressed(values, weight, factors, 0.2), leverage(weight, factors, 0.2)
    V = factors.numpy()
    for s in range(5):
        gram = V.T @ np.diag(weight[s].numpy()) @ V + 0.2 * np.eye(3)
        np.testing.assert_allclose(found[s], np.linalg.solve(gram, V.T @ (weight[s] * values[s]).numpy()), atol=1e-12)
        np.testing.assert_allclose(spread[s], np.sqrt(np.diag(V @ np.linalg.inv(gram) @ V.T)), atol=1e-12)


def test_weighing_by_propensity_is_unbiased():
    loss, chance = low_rank(seed=3)
    chance = chance.clamp(min=0.1)
    seen = torch.rand(4000, *loss.shape, generator=torch_stream(0, "mask"), dtype=torch.float64) < chance
    totals = (seen * loss / chance).sum((-2, -1))
    assert float(totals.mean()) == pytest.approx(float(loss.sum()), abs=4 * float(totals.std()) / 4000**0.5)
    assert float((seen * loss).sum((-2, -1)).mean()) < 0.7 * float(loss.sum())


@pytest.mark.parametrize(
    ("weights", "target", "alpha", "width"),
    [
        (np.ones(9), 1.0, 0.1, 0.9),
        (np.ones(9), 1.0, 0.2, 0.8),
        (np.linspace(2, 0.5, 9), 1.0, 0.2, 0.7),
        (np.ones(9), 4.0, 0.1, np.inf),
        (np.ones(9), 1.0, 1e-9, np.inf),
        (np.ones(0), 1.0, 0.5, np.inf),
    ],
)
def test_widths_are_order_statistics(weights, target, alpha, width):
    scores = torch.arange(1, len(weights) + 1, dtype=torch.float64) / 10
    found = conformal_width(scores.flip(0), torch.from_numpy(weights).flip(0), torch.tensor([target]).double(), alpha)
    assert float(found) == pytest.approx(width)


def test_odds_cover_what_is_not_seen_where_equal_weights_do_not():
    """Errors are three times as large where little is seen."""
    g, covered = torch_stream(0, "coverage"), {"odds": [], "equal": []}
    for _ in range(100):
        chance = torch.tensor([0.05, 0.2, 0.8], dtype=torch.float64)[torch.randint(3, (600,), generator=g)]
        error = torch.randn(600, generator=g, dtype=torch.float64).abs() * torch.where(chance == 0.05, 3.0, 1.0)
        seen = torch.rand(600, generator=g, dtype=torch.float64) < chance
        for name, weight in (("odds", (1 - chance) / chance), ("equal", torch.ones_like(chance))):
            width = conformal_width(error[seen], weight[seen], weight, 0.1)
            covered[name].append(float((error <= width)[~seen].double().mean()))
    assert np.mean(covered["odds"]) == pytest.approx(0.904, abs=0.02)
    assert np.mean(covered["equal"]) < 0.75

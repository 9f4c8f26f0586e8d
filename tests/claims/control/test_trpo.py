"""Drops are counted on the way up, and the exact update is the solution of its problem."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surefoot.claims.control import trpo


def test_drops_count_up_to_the_first_return_near_the_ceiling():
    curves = [[100, 200, 170, 400, 480, 100], [100, 90, 80, 300, 250, 280], [500, 100, 500, 100, 500, 100]]
    assert trpo.drops(curves).tolist() == [0.25, 0.4, 0.0]


def test_an_exact_update_goes_to_the_edge_along_the_natural_gradient():
    """One state repeated, so that the Fisher matrix is diag(p) − pp' and the direction is the advantage itself."""
    reward = torch.tensor([[1.0, 0.5, 0.0, 0.0]] * trpo.STATES, dtype=torch.float64)
    transition = torch.full((trpo.STATES, trpo.ACTIONS, trpo.STATES), 1 / trpo.STATES, dtype=torch.float64)
    logits, value, kl = trpo.exact_update(torch.zeros_like(reward), transition, reward)
    assert value == pytest.approx(0.375 / (1 - trpo.DISCOUNT))
    advantage = reward[0] - reward[0].mean()
    length = float((2 * 0.01 / (0.25 * (advantage**2).sum())).sqrt())
    share = float(logits[0, 0] / (length * advantage[0]))
    assert share in (pytest.approx(1.0), pytest.approx(0.8)) and 0.6 < kl <= 1
    assert torch.allclose(logits, share * length * advantage.expand_as(logits))


def test_the_worst_of_three_settings_is_chosen_seed_by_seed():
    finals = {"trpo 0.003": (1, 9), "trpo 0.01": (5, 5), "trpo 0.03": (7, 2)}
    found = {
        arm: {"evaluated": [[0.0, x] for x in finals.get(arm, (4, 4))], "kl": [[0.1, 0.2]] * 2} for arm in trpo.ARMS
    }
    summary = trpo.of_learning(found)
    assert np.array_equal(summary["worst of three radii"], [1, 2])
    assert np.array_equal(summary["worst of three rates"], [4, 4])

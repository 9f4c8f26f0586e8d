"""The two linear environments against their definitions."""

from __future__ import annotations

import pytest
import torch

from surefoot.envs.tabular.linear import american_put, linear_mdp, shifted_factors, simulated_linear
from surefoot.errors import UsageError
from surefoot.loops.tabular import linear
from surefoot.solvers.solve import solve


def test_simulated_linear_is_made_of_its_factors():
    mdp = simulated_linear()
    assert mdp.features.sum(-1).sub(1).abs().max() < 1e-12
    torch.testing.assert_close(mdp.rows, mdp.features @ shifted_factors().unsqueeze(1), rtol=0, atol=1e-15)
    most, least = mdp.rows[0, 0, -1], mdp.rows[0, 0, 0]
    assert most.tolist() == pytest.approx([0, 0.4995, 0, 0.0005, 0.5])
    assert least.tolist() == pytest.approx([0, 0.8991, 0, 0.0009, 0.1])
    assert mdp.ended.tolist() == [False, False, False, True, False]
    assert linear.ceilings(mdp).tolist() == [2, 2, 1, 0]


def test_the_best_value_of_the_nominal_world_by_hand():
    later = 0.5 + 0.5 + 0.4995 * 0.5  # in x2, u = 0.5: reward, x5's reward, x3's reward
    assert float(solve(simulated_linear()).value[0, 0]) == pytest.approx(0.5 * 2 + 0.4995 * later, abs=1e-9)


def test_a_shift_fails_only_in_the_first_step():
    world = simulated_linear(0.4)
    assert world.rows[0, 0, -1].tolist() == pytest.approx([0, 0.5, 0, 0.2, 0.3])
    assert torch.equal(world.rows[1:], simulated_linear().rows[1:])


def test_the_put_walks_and_pays():
    put = american_put(horizon=3, starts=1)
    assert float(put.initial @ put.reward[0, :, 1]) == 0
    assert put.reward[2, 0, 1] == pytest.approx(100 * (1 - 0.98**2))  # two falls
    assert put.features[0, 0, 0].sum() == pytest.approx(1)
    assert put.features[:, :, 1].abs().sum() == 0
    assert put.ended.tolist() == [False] * 4 + [True]
    last = 0.25 * 100 * (1 - 0.98**2) + 0.5 * 100 * (1 - 0.98 * 1.02)
    assert float(put.initial @ solve(put).value[0]) == pytest.approx(max(last, 0.5 * 2), abs=1e-9)


@pytest.mark.parametrize(
    "call", [lambda: simulated_linear(1.5), lambda: simulated_linear(delta=0.9), lambda: american_put(2)]
)
def test_what_is_no_world_is_refused(call):
    with pytest.raises(UsageError):
        call()


def test_sizes_must_fit():
    with pytest.raises(UsageError, match="do not fit"):
        linear_mdp(torch.ones(2, 1, 1), torch.ones(2, 2) / 2, [0, 0])

"""The policy gradient reaches what the other solvers find, and its direction is the derivative."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surefoot.ambiguity import KL, L1, CVaR
from surefoot.envs.tabular import TabularMDP
from surefoot.solvers import evaluate_policy, solve
from surefoot.solvers.backups import make_backup


def garnet(seed: int) -> TabularMDP:
    rng = np.random.default_rng(seed)
    return TabularMDP(rng.dirichlet(np.full(5, 0.5), (5, 3)), rng.normal(size=(5, 3)), gamma=0.8)


@pytest.mark.parametrize("ambiguity, rectangular", [(None, "sa"), (KL(0.2), "sa"), (CVaR(0.5), "sa"), (L1(0.5), "s")])
def test_it_reaches_the_best_value(ambiguity, rectangular):
    mdp = garnet(0)
    best = solve(mdp, ambiguity, rectangular=rectangular, tolerance=1e-8).value
    found = solve(mdp, ambiguity, rectangular=rectangular, method="policy-gradient", tolerance=0.05, sweeps=500)
    assert found.gap <= 0.05
    own = evaluate_policy(mdp, found.policy, ambiguity, rectangular=rectangular, tolerance=1e-8).value
    assert float((best - own).max()) <= found.gap
    assert float((found.value - own).abs().max()) <= 0.5 * found.gap + 1e-9


@pytest.mark.parametrize("ambiguity, rectangular", [(KL(0.2), "sa"), (KL(0.2), "s"), (KL(penalty=0.7), "s")])
def test_its_direction_is_the_derivative_of_a_backup(ambiguity, rectangular):
    mdp, values = garnet(1), torch.randn(5, dtype=torch.float64)
    backup = make_backup(mdp, ambiguity, rectangular, mdp.gamma)
    policy = torch.rand(5, 3, dtype=torch.float64)
    policy /= policy.sum(-1, keepdim=True)
    slope = backup.marginal(values, policy)
    for a in range(3):
        side = torch.zeros(5, 3, dtype=torch.float64)
        side[:, a] = 1e-5
        ends = [backup.follow(policy + sign * side).backup(values) for sign in (1, -1)]
        assert ((ends[0] - ends[1]) / 2e-5).numpy() == pytest.approx(slope[:, a].numpy(), abs=1e-6)

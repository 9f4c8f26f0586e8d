"""Where solvers guard against rounding: inputs on which each guard is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import surefoot as sf
from surefoot.ambiguity import KL, ChiSquare, LInfinity, TotalVariation, worst_case_value
from surefoot.solvers.budgets import family
from surefoot.solvers.states import under_price


@pytest.mark.filterwarnings("ignore:the gap is")
def test_sweeps_end_when_rounding_is_all_that_changes():
    """A tolerance that no arithmetic reaches: without a floor up to five times as many sweeps change the last digit."""
    rng = np.random.default_rng(0)
    sets = [None, KL(0.1), TotalVariation(0.3), ChiSquare(1.0)]
    for i in range(24):
        mdp = sf.TabularMDP(rng.dirichlet(np.ones(3), size=(3, 2)), 1e6 * rng.normal(size=(3, 2)), gamma=0.99)
        assert sf.solve(mdp, sets[i % 4], tolerance=1e-300, sweeps=100).iterations <= 12


@pytest.mark.parametrize("shift", [0.0, 1e3, 1e6, 1e9])
@pytest.mark.parametrize("make", [TotalVariation, LInfinity])
def test_the_policy_under_a_price_holds_its_value_wherever_values_lie(make, shift):
    """Slopes jump at the value, and how near to it they are looked at depends on its rounding too."""
    rng = np.random.default_rng(0)
    z = torch.tensor(rng.integers(0, 8, size=(150, 3, 4)) / 8.0) + shift
    p = torch.tensor(rng.dirichlet(np.ones(4), size=(150, 3)))
    unit = torch.tensor(rng.choice([0.5, 0.25, 1.0, 0.1], size=(150, 1)))
    value, policy = under_price(family(make(penalty=1.0), z, p), torch.ones(150, 3, dtype=torch.bool), unit)
    rows = worst_case_value(z, p, make(penalty=unit / policy.clamp(min=1e-12)))
    held = torch.where(policy > 1e-12, policy * rows, 0.0).sum(-1)
    torch.testing.assert_close(held, value, rtol=0, atol=1e-9 + 1e-14 * shift)

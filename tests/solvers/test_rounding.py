"""Where solvers guard against rounding: inputs on which each guard is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import surefoot as sf
from surefoot.ambiguity import (
    KL,
    ChiSquare,
    Ellipsoid,
    Hellinger,
    LInfinity,
    ReverseKL,
    TotalVariation,
    worst_case_value,
)
from surefoot.ambiguity.transport import hull_edges
from surefoot.solvers.budgets import family
from surefoot.solvers.fixed_point import Stop, iterate
from surefoot.solvers.states import under_budget, under_price

SMOOTH = [KL, ChiSquare, ReverseKL, Hellinger, Ellipsoid]


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


def rare(states: int, most: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values and nominals `[B, 3, 4]` with probabilities down to 1e-300, policies `[B, 3]` with such down to 1e-30 and
    budgets `[B, 1]` up to `most`."""
    rng = np.random.default_rng(1)
    i = np.arange(states)
    values = rng.normal(size=(states, 3, 4))
    values[i % 3 == 1] = rng.integers(0, 3, size=values[i % 3 == 1].shape)
    depth = np.array([300, 30, 2, 60, 16])[i % 5]
    nominal = 10 ** (-depth[:, None, None] * rng.random(values.shape))
    np.put_along_axis(nominal, rng.integers(0, 4, size=(states, 3, 1)), 1.0, -1)
    policy = rng.dirichlet(np.ones(3), size=states)
    policy[i % 4 == 3] = 10 ** (-30 * rng.random((states // 4, 3)))
    parts = values, nominal / nominal.sum(-1, keepdims=True), policy / policy.sum(-1, keepdims=True)
    values, nominal, policy = map(torch.tensor, parts)
    return values, nominal, policy, torch.tensor(10 ** rng.uniform(-15, np.log10(most), size=(states, 1)))


def guaranteed(make, values: Tensor, nominal: Tensor, policy: Tensor, budget: Tensor) -> Tensor:
    """The value of policies by duality: max over λ of Σ_a min { π_a·q·z_a + λ·D(q) } − λ·budget, each by itself."""
    low, high = torch.full_like(budget, -50.0), torch.full_like(budget, 50.0)
    found = torch.full_like(budget, -torch.inf)
    for _ in range(9):  # concave in λ: what is looked at is narrowed to the neighbours of the best
        grid = torch.linspace(0, 1, 31, dtype=low.dtype) * (high - low) + low
        price = grid.exp().unsqueeze(-1)
        rows = worst_case_value(values.unsqueeze(1), nominal.unsqueeze(1), make(penalty=price / policy.unsqueeze(1)))
        dual = (policy.unsqueeze(1) * rows).sum(-1) - grid.exp() * budget
        best, place = dual.max(-1, keepdim=True)
        found = found.maximum(best)
        low, high = grid.gather(-1, (place - 1).clamp(min=0)), grid.gather(-1, (place + 1).clamp(max=30))
    return found.squeeze(-1)


@pytest.mark.parametrize("make", SMOOTH)
def test_a_shared_budget_is_spent_where_it_hurts_most_on_rare_outcomes(make):
    values, nominal, policy, budget = rare(60, 1.0 if make is Hellinger else 100.0)
    share = family(make(1.0), values, nominal).bought(policy, budget)
    assert (share >= 0).all() and (share.sum(-1, keepdim=True) <= budget * (1 + 1e-9)).all()
    reached = (policy * worst_case_value(values, nominal, make(share))).sum(-1)
    torch.testing.assert_close(reached, guaranteed(make, values, nominal, policy, budget), rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", SMOOTH)
def test_the_best_policy_under_a_budget_on_rare_outcomes(make):
    """What the policy guarantees, and what the adversary can bring all actions down to, are one number."""
    values, nominal, _, budget = rare(60, 1.0 if make is Hellinger else 100.0)
    rows = family(make(1.0), values, nominal)
    value, policy = under_budget(rows, torch.ones_like(rows.mean, dtype=torch.bool), budget)
    policy = policy.clamp(min=1e-30)
    torch.testing.assert_close(guaranteed(make, values, nominal, policy, budget), value, rtol=0, atol=1e-9)
    brought = worst_case_value(values, nominal, make(rows.at_value(value.unsqueeze(-1)).spent)).amax(-1)
    torch.testing.assert_close(brought, value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", SMOOTH)
def test_the_best_policy_under_a_price_on_rare_outcomes(make):
    values, nominal, _, unit = rare(60, 100.0)
    rows = family(make(penalty=1.0), values, nominal)
    value, policy = under_price(rows, torch.ones_like(rows.mean, dtype=torch.bool), unit)
    rows_held = worst_case_value(values, nominal, make(penalty=unit / policy.clamp(min=1e-30)))
    torch.testing.assert_close((policy * rows_held).sum(-1), value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("wrong", [-3.0, 3.0, 30.0])
def test_a_step_between_sweeps_that_widens_the_bounds_is_undone(wrong):
    """T v = r + γ·P v, with a chain that is not P between the sweeps: sweeps alone must converge all the same."""
    kernel = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.0, 0.1, 0.9]], dtype=torch.float64)
    reward, gamma = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64), 0.9
    exact = torch.linalg.solve(torch.eye(3, dtype=torch.float64) - gamma * kernel, reward)

    def backup(values):
        return reward + gamma * kernel @ values, lambda: None

    found = iterate(
        backup, torch.zeros_like(reward), gamma, Stop(1e-9, 3000), chain=lambda sweep: lambda v: wrong * v, steps=32
    )
    assert found.gap <= 1e-9
    torch.testing.assert_close(found.after, exact, rtol=0, atol=1e-8)


def test_the_rates_of_a_hull_never_rise():
    """Not even by rounding, which would let an edge be bought before the one that leads to it."""
    values = torch.tensor(np.random.default_rng(0).random((4000, 6)))
    place = torch.arange(6, dtype=torch.float64)
    for cost in (0.3 * (place - place.unsqueeze(-1)).abs(), 0.1 * (place - place.unsqueeze(-1)) ** 2):
        _, edges = hull_edges(values, cost, torch.ones(6, dtype=torch.bool))
        assert (edges.rate[:, 1:] <= edges.rate[:, :-1]).all()
    linear = 0.3 * (values.unsqueeze(-1) - values.unsqueeze(-2)).abs()
    _, edges = hull_edges(values, linear, torch.ones(6, dtype=torch.bool))
    assert (edges.rate[:, 1:] <= edges.rate[:, :-1]).all()

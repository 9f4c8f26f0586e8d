"""SPO: the numbers of its quadratic penalty, and that it pulls back what PPO leaves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_ppo import moved, ready

from surefoot.loops.on_policy.method import pick
from surefoot.methods.control.spo import SPO
from surefoot.objectives import stabilizers

F64 = torch.float64


def small(**settings: Any) -> SPO:
    return SPO(**{"num_envs": 4, "num_steps": 32, "minibatch_size": 32, "epochs": 2, "hidden": (8,), **settings})


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope"),
    [
        (1, 1, 1, 1),
        (1.3, 1, 1.075, -0.5),
        (1.3, -1, -1.525, -2.5),
        (0.7, 1, 0.475, 2.5),
        (0.7, -1, -0.925, 0.5),
        (1.1, 2, 2.15, 1),
        (0.9, -2, -1.85, -1),
    ],
)
def test_the_surrogate(ratio, advantage, value, slope):
    """Card, exact check 1."""
    ratios, advantages = (torch.tensor([float(x)], dtype=F64) for x in (ratio, advantage))
    quadratic = small(epsilon=0.2).objective().stabilizer
    assert float(quadratic(ratios, advantages)) == pytest.approx(value)
    assert float(quadratic.weight(ratios, advantages)) == pytest.approx(slope)


@pytest.mark.parametrize(("advantage", "best", "at"), [(2.0, 2.2, 1.2), (-2.0, -1.8, 0.8)])
def test_the_optimal_ratio_is_at_the_edge(advantage, best, at):
    """Card, exact check 2."""
    ratio = torch.linspace(0.5, 1.5, 1001, dtype=F64)
    values = stabilizers.quadratic(0.2)(ratio, torch.full_like(ratio, advantage))
    assert float(values.max()) == pytest.approx(best)
    assert float(ratio[values.argmax()]) == pytest.approx(at)


def test_a_free_ratio_returns_to_the_edge_where_clipping_leaves_it():
    """Card, exact check 5."""
    advantage = torch.ones(1, dtype=F64)
    for stabilizer, end in ((stabilizers.quadratic(0.2), 1.2), (stabilizers.clip(0.2), 1.5)):
        ratio = torch.full((1,), 1.5, dtype=F64)
        for _ in range(400):
            ratio = ratio + 0.01 * stabilizer.weight(ratio, advantage)
        assert float(ratio) == pytest.approx(end)


def test_the_loss_is_that_of_the_paper():
    learner, batch = ready(small(epsilon=0.1, standardize=False, value_coefficient=0.4))
    one, model, vector = pick(batch, 0), learner.model, moved(learner)

    def by_hand(v: torch.Tensor) -> torch.Tensor:
        params, value = model.evaluate(v, one)
        ratio = (model.distribution.log_prob(params, one["action"]) - one["old_log_prob"]).exp()
        advantage = one["advantage"]
        gain = ratio * advantage - advantage.abs() * (ratio - 1) ** 2 / (2 * 0.1)
        return -(gain - 0.4 * 0.5 * (value - one["target"]) ** 2)[one["valid"]].mean()

    found = torch.func.grad(lambda v: learner.method.loss(model, v, one, {})[0])(vector)
    torch.testing.assert_close(found, torch.func.grad(by_hand)(vector), atol=2e-5, rtol=1e-4)

"""The tabular experiment of the Polyak policy gradient: values by hand, and samples of what it computes."""

from __future__ import annotations

import pytest
import torch

from surefoot.claims.control import polyak_pg as experiment

F64 = torch.float64


def test_exact_values_of_the_chain():
    """Best: five steps forward, then seven rewards of 1. Always back: 0.02 at each of the twelve steps."""
    mdp = experiment.chains([0])
    assert experiment.value(mdp).item() == pytest.approx(sum(0.95**t for t in range(5, 12)))
    back = torch.zeros(1, 6, 2, dtype=F64)
    back[..., 0] = 50.0
    assert experiment.value(mdp, back).item() == pytest.approx(0.02 * sum(0.95**t for t in range(12)))


def test_the_experiment_samples_the_value_and_the_gradient_that_it_computes():
    mdp = experiment.random_mdps([0])
    logits = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0), dtype=F64).requires_grad_()
    exact = experiment.value(mdp, logits)
    (gradient,) = torch.autograd.grad(exact.sum(), logits)
    noise = torch.rand(20, 1, 20_000, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    tau, experiment.ENTROPY = experiment.ENTROPY, 0.0
    try:
        point, _ = experiment.look(mdp, logits, noise, 1.0)
    finally:
        experiment.ENTROPY = tau
    assert point.value.item() == pytest.approx(exact.item(), abs=0.03)
    torch.testing.assert_close(point.gradient, gradient.flatten(1), rtol=0, atol=0.03)
    assert gradient.abs().max() > 0.1

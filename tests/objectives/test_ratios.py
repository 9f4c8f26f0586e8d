"""Ratios: what divides the policy's probability."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.objectives import PolicyObjective, ratios, stabilizers

F64 = torch.float64
seeds = st.integers(0, 2**31 - 1)


def ratio_of(part: ratios.Ratio, log_prob, old_log_prob, valid=None) -> torch.Tensor:
    return torch.exp(log_prob - part.log_denominator(log_prob, old_log_prob, valid))


def test_worked_token_example():
    log_prob, old = (torch.tensor(p, dtype=F64).log() for p in ((0.5, 0.1), (0.4, 0.2)))
    expected = {
        ratios.old(): (1.25, 0.5),
        ratios.current(): (1.0, 1.0),
        ratios.constant(): (0.5, 0.1),
        ratios.sequence(): (0.7905694150420949, 0.7905694150420949),
        ratios.truncated(high=0.28): (1.25, 0.5),
        ratios.truncated(low=0.2, high=0.1): (1.1, 0.8),
    }
    for part, numbers in expected.items():
        assert ratio_of(part, log_prob, old).tolist() == pytest.approx(numbers, abs=1e-12), part


@settings(max_examples=30, deadline=None)
@given(seed=seeds, axis=st.sampled_from([-1, 0, 1]))
def test_sequence_is_the_geometric_mean_over_valid_elements(seed, axis):
    g = torch.Generator().manual_seed(seed)
    log_prob, old = (torch.randn(4, 5, generator=g, dtype=F64) for _ in range(2))
    valid = torch.rand(4, 5, generator=g) > 0.3
    garbage = torch.where(valid, log_prob, torch.nan)
    ratio = ratio_of(ratios.sequence(axis=axis), garbage, old, valid)
    for i in range(4):
        for j in range(5):
            line = (slice(None), j) if axis == 0 else (i, slice(None))
            keep = valid[line]
            if valid[i, j]:
                mean = ((log_prob - old)[line][keep]).sum().item() / int(keep.sum())
                assert ratio[i, j].item() == pytest.approx(math.exp(mean), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, low=st.floats(0, 0.9), high=st.floats(0, 3))
def test_truncated_stays_within_its_bounds(seed, low, high):
    g = torch.Generator().manual_seed(seed)
    log_prob, old = (3 * torch.randn(20, generator=g, dtype=F64) for _ in range(2))
    ratio = ratio_of(ratios.truncated(low=low, high=high), log_prob, old)
    torch.testing.assert_close(ratio, torch.exp(log_prob - old).clip(1 - low, 1 + high))


def test_extreme_log_ratios_stay_finite():
    log_prob = torch.tensor([-400.0, 0.0, 50.0], requires_grad=True)
    old = torch.tensor([0.0, -400.0, -50.0])
    for part in (ratios.old(), ratios.truncated(), ratios.sequence(), ratios.constant()):
        objective = PolicyObjective(ratio=part, stabilizer=stabilizers.quadratic())
        loss, metrics = objective.loss(log_prob, old, torch.ones(3))
        (gradient,) = torch.autograd.grad(loss, log_prob)
        assert gradient.isfinite().all() and all(m.isfinite() for m in metrics.values()), part

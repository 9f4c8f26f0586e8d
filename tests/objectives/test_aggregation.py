"""Aggregations against loops over sequences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.objectives.aggregation import constant_length, mean, per_sequence

F64 = torch.float64
seeds = st.integers(0, 2**31 - 1)
VALID = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
X = torch.tensor([[1.0, 2.0, 3.0], [10.0, torch.nan, torch.nan], [torch.nan] * 3], dtype=F64)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (mean(), 16 / 4),
        (per_sequence(), (2 + 10) / 2),
        (constant_length(length=4.0), (6 / 4 + 10 / 4) / 2),
        (per_sequence(axis=0), (11 / 2 + 2 + 3) / 3),
        (constant_length(length=4.0, axis=0), (11 / 4 + 2 / 4 + 3 / 4) / 3),
    ],
)
def test_worked_numbers_with_padding(part, expected):
    assert part(X, VALID).item() == pytest.approx(expected, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, axis=st.sampled_from([-1, 0, 1]), length=st.floats(0.5, 20))
def test_by_loop(seed, axis, length):
    g = torch.Generator().manual_seed(seed)
    x, valid = torch.randn(4, 3, 5, generator=g, dtype=F64), torch.rand(4, 3, 5, generator=g) > 0.4
    sequences = [
        x_i[keep].tolist()
        for x_i, keep in zip(x.movedim(axis, -1).reshape(-1, x.shape[axis]), valid.movedim(axis, -1).flatten(0, 1))
        if keep.any()
    ]
    everything = [v for s in sequences for v in s]
    expected = {
        mean(): sum(everything) / len(everything),
        per_sequence(axis=axis): sum(sum(s) / len(s) for s in sequences) / len(sequences),
        constant_length(length=length, axis=axis): sum(everything) / length / len(sequences),
    }
    for part, number in expected.items():
        assert part(x, valid).item() == pytest.approx(number, abs=1e-12), part


def test_without_a_mask_everything_counts():
    x = torch.arange(6, dtype=F64).reshape(2, 3)
    assert mean()(x).item() == per_sequence()(x).item() == constant_length(length=3.0)(x).item() == 2.5


def test_nothing_valid_is_zero():
    for part in (mean(), per_sequence(), constant_length()):
        assert part(torch.full((2, 3), torch.nan), torch.zeros(2, 3, dtype=torch.bool)).item() == 0


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_shards_of_equal_size_average_to_the_whole(seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 5, generator=g, dtype=F64)
    for part in (mean(), per_sequence(), constant_length(length=5.0)):
        shards = torch.stack([part(shard) for shard in x.chunk(4)])
        torch.testing.assert_close(shards.mean(), part(x))


def test_gradient_is_the_weight_even_where_padding_is_nan():
    for part in (mean(), per_sequence(), constant_length()):
        x = X.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(part(x, VALID), x)
        torch.testing.assert_close(gradient, part.weights(VALID, F64), rtol=0, atol=0)

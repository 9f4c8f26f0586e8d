"""Running moments against NumPy on all data at once, however the data were cut and masked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surefoot.models.normalizers import CLIP, Moments, normalize

F64 = torch.float64


@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=6),
    st.integers(0, 2**31 - 1),
    st.sampled_from([(), (2,), (2, 3)]),
    st.sampled_from([1.0, 1e-3, 1e4]),
    st.floats(-100, 100),
)
def test_update_equals_numpy_on_all_valid_data(sizes, seed, leading, scale, offset):
    rng, dim = np.random.default_rng(seed), 3
    moments, seen, flags = Moments.start(*leading, dim), [], []
    for size in sizes:
        x, valid = rng.normal(offset, scale, (*leading, size, dim)), rng.random((*leading, size)) < 0.7
        dirty = np.where(valid[..., None], x, rng.choice([np.nan, np.inf, 1e30]))
        moments = moments.update(torch.from_numpy(dirty), torch.from_numpy(valid))
        seen.append(x)
        flags.append(valid)
    x, valid = np.concatenate(seen, -2), np.concatenate(flags, -1)
    for index in np.ndindex(*leading):
        kept = x[index][valid[index]]
        assert moments.count[index] == len(kept)
        mean, variance = (kept.mean(0), kept.var(0)) if len(kept) else (np.zeros(dim), np.ones(dim))
        size = scale + abs(offset)
        np.testing.assert_allclose(moments.mean[index], mean, rtol=1e-10, atol=1e-12 * size)
        np.testing.assert_allclose(moments.variance[index], variance, rtol=1e-8, atol=1e-12 * size**2)


def test_an_empty_batch_changes_nothing_to_the_bit():
    before = Moments.start(2).update(torch.randn(9, 2), torch.ones(9, dtype=torch.bool))
    for empty in (torch.zeros(0, 2), torch.full((4, 2), torch.nan)):
        after = before.update(empty, torch.zeros(len(empty), dtype=torch.bool))
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_large_float32_offsets_lose_no_variance():
    x = (1e6 + torch.arange(1000) % 2).float().unsqueeze(-1)
    moments = Moments.start(1)
    for batch in x.split(100):
        moments = moments.update(batch, torch.ones(len(batch), dtype=torch.bool))
    assert float(moments.variance) == pytest.approx(0.25, rel=1e-9)


def test_nothing_seen_leaves_data_unchanged():
    x = torch.tensor([[0.5, -3.0]])
    torch.testing.assert_close(normalize(x, *Moments.start(2).scale()), x)


def test_normalized_data_have_mean_zero_and_deviation_one_and_are_clipped():
    x = 5 + 3 * torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0))
    moments = Moments.start(2).update(x, torch.ones(len(x), dtype=torch.bool))
    scale = moments.scale()
    assert all(s.dtype == torch.float32 for s in scale)
    y = normalize(x, *scale)
    torch.testing.assert_close(y.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
    assert normalize(torch.tensor([1e9, -1e9]), *scale).tolist() == [CLIP, -CLIP]


def test_a_constant_entry_becomes_zero():
    moments = Moments.start(1).update(torch.full((5, 1), 3.0), torch.ones(5, dtype=torch.bool))
    assert normalize(torch.tensor([3.0]), *moments.scale()).tolist() == [0.0]

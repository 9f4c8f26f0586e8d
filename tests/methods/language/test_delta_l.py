"""ΔL: the numbers of its card."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.methods.language.delta_l import DeltaL
from surefoot.objectives.aggregation import constant_length, delta_l, mean, per_sequence

LENGTHS = torch.tensor([10, 20, 40, 130])
F64 = torch.float64


def valid(lengths=LENGTHS, width=200):
    return torch.arange(width) < lengths[:, None]


def per_row(part, lengths=LENGTHS):
    """The weight of one token of each row."""
    return part.weights(valid(lengths), F64)[:, 0]


@pytest.mark.parametrize(
    ("power", "wanted", "variance"),
    [
        (1.0, (0.547368, 0.273684, 0.136842, 0.042105), 5.473684),
        (0.75, (0.477505, 0.283926, 0.168823, 0.069746), 5.664826),
        (0.5, (0.402502, 0.284612, 0.201251, 0.111634), 6.480329),
        (0.0, (0.25, 0.25, 0.25, 0.25), 12.5),
    ],
)
def test_weights_and_their_variance(power, wanted, variance):
    found = per_row(delta_l(power))
    assert found.tolist() == pytest.approx(wanted, abs=1e-6)
    assert (found**2 * LENGTHS).sum().item() == pytest.approx(variance, abs=1e-6)


@pytest.mark.parametrize(
    ("part", "wanted"), [(per_sequence(), 5.473684), (mean(), 12.5), (constant_length(200.0), 12.5)]
)
def test_the_other_aggregations_have_the_proportions_of_its_ends(part, wanted):
    found = per_row(part) / per_row(part).sum()
    assert (found**2 * LENGTHS).sum().item() == pytest.approx(wanted, abs=1e-6)


def test_equal_lengths_or_power_zero_are_dr_grpo():
    same = torch.full((4,), 30)
    torch.testing.assert_close(per_row(delta_l(0.6, 200.0), same), per_row(constant_length(200.0), same))
    torch.testing.assert_close(per_row(delta_l(0.0, 200.0)), per_row(constant_length(200.0)))


def test_the_total_is_one_constant_and_only_proportions_count():
    for power in (0.0, 0.3, 1.0):
        found = per_row(delta_l(power, 50.0))
        assert found.sum().item() == pytest.approx(1 / 50)
        torch.testing.assert_close(found, per_row(delta_l(power, 50.0), LENGTHS // 10))


def test_no_weights_have_less_variance():
    other = torch.rand(100, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    other = other / other.sum(1, keepdim=True)
    assert bool(((other**2 * LENGTHS).sum(1) >= 1 / (1 / LENGTHS.double()).sum() - 1e-12).all())


def test_it_is_the_released_codes_form():
    """A ← A·q/mean(q) with q = (L/mean L)^−α, then the mean over all positions of the padded batch."""
    power, width = 0.75, 200
    q = (LENGTHS / LENGTHS.double().mean()) ** -power
    released = (q / q.mean())[:, None] * valid() / (len(LENGTHS) * width)
    torch.testing.assert_close(delta_l(power, width).weights(valid(), F64), released)


def test_an_empty_row_has_no_weight():
    found = delta_l(1.0).weights(valid(torch.tensor([0, 5])), F64)
    assert found[0].sum() == 0 and found[1, 0] == 1


def test_the_method_uses_the_longest_completion_as_constant():
    assert DeltaL(max_tokens=80).objective().aggregation == delta_l(1.0, 80)

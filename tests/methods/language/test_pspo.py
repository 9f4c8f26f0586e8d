"""PSPO: the numbers of its card, and what it is equal to."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.methods.language.pspo import PSPO
from surefoot.objectives import stabilizers

F64 = torch.float64


def test_the_smoothed_ratio():
    ratio = torch.tensor([0.5, 0.8, 1, 1.2, 2], dtype=F64)
    found = stabilizers.smoothed(0.1)(ratio, torch.ones(5, dtype=F64))
    assert found.tolist() == pytest.approx([0.55, 0.82, 1, 1.18, 1.9])


def test_the_mixture_is_nearer_to_the_old_policy():
    new, old = torch.tensor([0.6, 0.3, 0.1], dtype=F64), torch.tensor([0.3, 0.3, 0.4], dtype=F64)
    mixed = stabilizers.smoothed(0.1)(new / old, old)
    assert mixed.tolist() == pytest.approx([0.57, 0.3, 0.13])

    def kl(p, q):
        return (p * (p / q).log()).sum().item()

    def tv(p, q):
        return 0.5 * (p - q).abs().sum().item()

    assert (tv(new, old), tv(mixed, old)) == pytest.approx((0.3, 0.27))
    assert (kl(new, old), kl(mixed, old)) == pytest.approx((0.277259, 0.219746), abs=1e-6)
    assert (kl(old, new), kl(old, mixed)) == pytest.approx((0.346574, 0.257016), abs=1e-6)


def gradient(method, new, old, advantage):
    log_prob = new.clone().requires_grad_()
    loss, _ = method.objective().loss(log_prob, old, advantage)
    return torch.autograd.grad(loss, log_prob)[0]


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0])
def test_its_gradient_is_a_multiple_of_the_unclipped_one(alpha):
    g = torch.Generator().manual_seed(0)
    old, advantage = -torch.rand(4, 6, generator=g, dtype=F64), torch.randn(4, 6, generator=g, dtype=F64)
    new = old + 0.5 * torch.randn(4, 6, generator=g, dtype=F64)
    unclipped = gradient(PSPO(alpha=0.0), new, old, advantage)
    torch.testing.assert_close(gradient(PSPO(alpha=alpha), new, old, advantage), (1 - alpha) * unclipped)
    assert unclipped.abs().sum() > 0


def test_under_plain_gradient_descent_it_is_a_smaller_step():
    """50 steps of both on one softmax, from the same start: the same policies to 1e-9."""
    reward = torch.tensor([1.0, 0.0, 0.5], dtype=F64)

    def train(alpha, rate):
        logits = torch.zeros(3, dtype=F64)
        for _ in range(10):
            old = logits.log_softmax(-1)
            for _ in range(5):
                pull = gradient(PSPO(alpha=alpha), logits.log_softmax(-1), old, reward)
                p = logits.softmax(-1)
                logits = logits - rate * p * (pull / p - pull.sum())  # ∂log π/∂logits, every action as often as old
        return logits

    torch.testing.assert_close(train(0.3, 0.1), train(0.0, 0.07), rtol=0, atol=1e-9)


def test_inside_the_clip_the_range_is_wider():
    """The gradient vanishes for Â > 0 beyond ρ = 1 + .2/.9."""
    part = PSPO(alpha=0.1, form="clip").objective().stabilizer
    one = torch.ones(2, dtype=F64)
    edge = 1 + 0.2 / 0.9
    assert part.weight(torch.tensor([edge - 1e-6, edge + 1e-6], dtype=F64), one).tolist() == pytest.approx([0.9, 0])


def test_in_the_logarithm_the_pull_saturates():
    part = PSPO(alpha=0.1, form="log").objective().stabilizer
    ratio = torch.tensor([1.0, 10.0, 1e6], dtype=F64)
    pull = part.weight(ratio, torch.ones(3, dtype=F64)) * ratio
    torch.testing.assert_close(pull, 0.9 * ratio / (0.9 * ratio + 0.1))
    assert bool((pull <= 1).all())


def test_the_released_setting_weighs_tokens_alike_and_divides_by_the_unbiased_deviation():
    released = PSPO(**PSPO.presets["gsm8k-2025"]).objective()
    valid = torch.tensor([[True, True, True], [True, False, False]])
    assert released.aggregation.weights(valid).tolist() == [[0.25, 0.25, 0.25], [0.25, 0.0, 0.0]]
    assert PSPO().objective().aggregation.weights(valid)[1].tolist() == [0.5, 0.0, 0.0]
    reward = torch.tensor([[1.0, 0, 0, 0]], dtype=F64)
    assert released.advantage(reward)[0, 0].item() == pytest.approx(0.75 / (0.5 + 1e-4))
    assert PSPO().objective().advantage(reward)[0, 0].item() == pytest.approx(0.75 / (0.1875**0.5 + 1e-4))

"""ΔL's experiment: lengths and rewards of what is written, and the slope of the variance in the length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.claims.language import delta_l


def test_a_completion_ends_with_its_end_and_is_rewarded_by_its_right_positions():
    wanted = [[2, 2, 4, 2], [2, 1, 2, 4], [4, 0, 0, 0]]  # 2 twice is right for 2; two of three; nothing for 1
    table = torch.zeros(3, delta_l.LONGEST, delta_l.SYMBOLS + 1)
    for row, symbols in enumerate(wanted):
        table[row, range(4), symbols] = 50.0
    tokens, lengths, reward = delta_l.written(torch.tensor([2, 2, 1]), table, torch.Generator())
    assert tokens[:, :4].tolist() == wanted and lengths.tolist() == [3, 4, 1]
    assert reward.tolist() == pytest.approx([1, 1 / 3, 0])


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
def test_the_slope_is_that_of_the_variance_and_not_of_the_mean(power):
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 40, 6000)
    noise = lengths[:, None] ** (power / 2) * draw.normal(size=(6000, 20))
    bins = np.zeros((6000, 1))
    for rows in np.array_split(np.argsort(lengths, kind="stable"), delta_l.BINS):
        bins[rows] = lengths[rows].mean()
    assert delta_l.growth(noise + 5 * bins, lengths) == pytest.approx(power, abs=0.1)


def test_gradients_are_sums_over_the_tokens_up_to_the_end():
    made, weights = delta_l.network(0)
    number, tokens = torch.tensor([3, 3]), torch.randint(delta_l.SYMBOLS, (2, delta_l.LONGEST))
    valid = torch.arange(delta_l.LONGEST) < torch.tensor([[2], [5]])
    found = delta_l.token_sums(made, weights, number, tokens, valid, torch.tensor([1.0, -2.0]))
    for row, factor, length in ((0, 1.0, 2), (1, -2.0, 5)):
        log_prob = delta_l.logs(made, dict(made.named_parameters()), number[row])
        total = factor * log_prob[range(length), tokens[row, :length]].sum()
        wanted = torch.autograd.grad(total, list(made.parameters()))
        torch.testing.assert_close(found[row], torch.cat([x.flatten() for x in wanted]))

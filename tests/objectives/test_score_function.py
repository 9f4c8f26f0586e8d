"""The score-function gradient with a group's mean as baseline."""

from __future__ import annotations

import itertools

import pytest
import torch

from surefoot.objectives.score_function import over_group, score_function_loss


@pytest.mark.parametrize("draws", [1, 2, 5])
def test_in_the_mean_it_is_the_gradient_shrunk_by_the_group(draws):
    """Two actions with rewards 1 and 0: the mean over all groups that may be drawn."""
    logits, reward = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True), torch.tensor([1.0, 0.0])
    p = logits.softmax(0)
    (wanted,) = torch.autograd.grad((p * reward).sum(), logits)
    mean = torch.zeros(2, dtype=torch.float64)
    for group in itertools.product((0, 1), repeat=draws):
        which, log_p = torch.tensor(group), logits.log_softmax(0)
        (found,) = torch.autograd.grad(score_function_loss(log_p[which], over_group(reward[which])), logits)
        mean -= found * log_p.detach()[which].sum().exp()
    torch.testing.assert_close(mean, wanted * (draws - 1) / draws)


def test_a_constant_of_the_input_changes_nothing_and_equal_rewards_teach_nothing():
    rewards, log_probs = torch.randn(4, 3), torch.randn(4, 3)
    shifted = over_group(rewards + torch.tensor([5.0, -1.0, 2.0]))
    torch.testing.assert_close(shifted, over_group(rewards))
    torch.testing.assert_close(shifted.sum(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert float(score_function_loss(log_probs, over_group(torch.ones(4, 3)))) == 0

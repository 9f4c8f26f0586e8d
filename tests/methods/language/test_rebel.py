"""REBEL: the numbers of its card on a softmax of three arms, by enumeration of the pairs."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.errors import UsageError
from surefoot.loops.group_rollout.method import Batch
from surefoot.methods.language.rebel import REBEL

F64 = torch.float64
OLD, REWARD, ETA = torch.tensor([0.5, 0.3, 0.2], dtype=F64), torch.tensor([1.0, 0.0, 2.0], dtype=F64), 0.5


def loss(log_prob, pairs, *, reward=REWARD, eta=ETA, **changes):
    """Of pairs of arms `[pairs, 2]`, each arm a sequence of one token."""
    rows = pairs.flatten()
    one = torch.ones(len(rows), 1)
    kept = {"reference": None, "extra": {"reward": reward[rows]}, **changes}
    batch = Batch(one.bool(), OLD.log()[rows, None], one, one, group=torch.arange(len(rows)) // 2, **kept)
    return REBEL(eta=eta, kl=0.5).loss(None, batch, log_prob[rows, None], torch.zeros(len(rows), 1))[0]


EVERY = torch.cartesian_prod(torch.arange(3), torch.arange(3))


def test_the_first_gradient_is_reinforce_with_two_samples():
    """In expectation over iid pairs it is −4η∇J: (−.1, .54, −.44) here."""
    logits = OLD.log().requires_grad_()
    chance = OLD[EVERY].prod(1)
    each = torch.stack([loss(logits.log_softmax(-1), pair[None]) for pair in EVERY])
    (found,) = torch.autograd.grad((chance * each).sum(), logits)
    assert found.tolist() == pytest.approx([-0.1, 0.54, -0.44])
    value = (logits.softmax(-1) * REWARD).sum()
    torch.testing.assert_close(found, -4 * ETA * torch.autograd.grad(value, logits)[0])


def test_where_it_can_be_solved_the_new_policy_is_mirror_descent():
    new = OLD * torch.exp(ETA * REWARD)
    new = new / new.sum()
    assert new.tolist() == pytest.approx([0.494216, 0.179854, 0.325930], abs=1e-6)
    assert loss(new.log(), EVERY).item() == pytest.approx(0, abs=1e-20)


def test_a_gauss_newton_step_is_the_natural_gradient():
    score = torch.eye(3, dtype=F64) - OLD  # ∇log π of each arm
    shift = score[EVERY[:, 0]] - score[EVERY[:, 1]]
    gain, chance = REWARD[EVERY[:, 0]] - REWARD[EVERY[:, 1]], OLD[EVERY].prod(1)
    matrix, vector = shift.T @ (chance[:, None] * shift), shift.T @ (chance * gain)
    step = ETA * torch.linalg.pinv(matrix) @ vector
    fisher = score.T @ (OLD[:, None] * score)
    natural = ETA * torch.linalg.pinv(fisher) @ (score.T @ (OLD * REWARD))
    torch.testing.assert_close(step, natural)
    assert (step - step.mean()).tolist() == pytest.approx([0, -0.5, 0.5])


def test_one_pair():
    logits = OLD.log().requires_grad_()
    found = loss(logits.log_softmax(-1), torch.tensor([[0, 1]]))
    assert found.item() == pytest.approx(0.25)  # η²(r − r')²
    assert torch.autograd.grad(found, logits)[0].tolist() == pytest.approx([-1, 1, 0])


def test_shifts_of_rewards_and_likelihoods_and_the_order_of_a_pair_change_nothing():
    g = torch.Generator().manual_seed(0)
    log_prob, pairs = torch.randn(3, generator=g, dtype=F64), EVERY[1:3]
    wanted = loss(log_prob, pairs)
    torch.testing.assert_close(loss(log_prob, pairs, reward=REWARD + 5), wanted)
    torch.testing.assert_close(loss(log_prob + 1.7, pairs), wanted)
    torch.testing.assert_close(loss(log_prob, pairs.flip(1)), wanted)


def test_equal_rewards_hold_the_policy_and_equal_completions_do_nothing():
    log_prob = OLD.log().clone()
    log_prob[0] += 0.3
    assert loss(log_prob, EVERY[1:2], reward=torch.ones(3, dtype=F64)).item() == pytest.approx(0.09)
    logits = OLD.log().requires_grad_()
    same = loss(logits.log_softmax(-1), torch.tensor([[2, 2]]))
    assert same.item() == 0 and torch.autograd.grad(same, logits)[0].abs().sum() == 0


def test_the_kl_in_the_reward_is_that_of_the_policy_that_wrote():
    """r − kl·log π_old/π_ref of each completion, here with kl = ½."""
    pairs = torch.tensor([[0, 1]])
    reference = torch.tensor([0.2, 0.3, 0.5], dtype=F64).log()
    found = loss(OLD.log(), pairs, reference=reference[pairs.flatten(), None])
    shifted = REWARD - 0.5 * (OLD.log() - reference)
    assert found.item() == pytest.approx((ETA * (shifted[0] - shifted[1])).item() ** 2)


@pytest.mark.parametrize("setting", [{"entropy": 0.1}, {"correction": "truncate"}])
def test_what_would_do_nothing_is_refused(setting):
    with pytest.raises(UsageError, match="REBEL: .* is not allowed"):
        REBEL(**setting)

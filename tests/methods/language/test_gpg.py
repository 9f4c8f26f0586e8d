"""GPG: the numbers of its card."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.errors import UsageError
from surefoot.methods.language.baselines import RLOO, DrGRPO
from surefoot.methods.language.gpg import GPG

REWARD = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.float64)


def advantage(reward=REWARD, **settings):
    return GPG(**settings).objective().advantage(reward)


def test_silent_groups_are_made_up_for():
    assert advantage()[:2].tolist() == [[1.5, -0.5, -0.5, -0.5], [0.5, 0.5, -1.5, 0.5]]
    assert advantage()[2:].abs().sum() == 0


def test_division_by_the_deviation():
    found = advantage(standardized=True, corrected=False)
    assert found[0].tolist() == pytest.approx([1.4997, -0.4999, -0.4999, -0.4999], abs=1e-4)


def test_without_correction_it_is_dr_grpos_advantage_and_rloos_up_to_a_factor():
    plain = advantage(corrected=False)
    torch.testing.assert_close(plain, DrGRPO().objective().advantage(REWARD))
    torch.testing.assert_close(plain * 4 / 3, RLOO().objective().advantage(REWARD))
    assert plain.sum(1).abs().max() < 1e-12


def gradient(method, reward, lengths):
    """Of the loss in the log-probabilities, `[rows, length]`."""
    valid = torch.arange(6) < lengths[:, None]
    log_prob = torch.full(valid.shape, -1.0, dtype=torch.float64, requires_grad=True)
    weighed = method.objective().advantage(reward).flatten()[:, None].expand(valid.shape)
    loss, _ = method.objective().loss(log_prob, log_prob.detach(), weighed, valid=valid)
    return torch.autograd.grad(loss, log_prob)[0]


def test_the_factor_is_the_same_as_leaving_silent_groups_out_where_lengths_are_equal():
    lengths = torch.full((16,), 6)
    every = gradient(GPG(), REWARD, lengths)[:8]
    some = gradient(GPG(corrected=False), REWARD[:2], lengths[:8])
    torch.testing.assert_close(every, some)


def test_where_lengths_differ_it_is_off_by_the_share_of_tokens():
    lengths = torch.tensor([2] * 8 + [6] * 8)  # uninformative groups are long: 48 of 64 tokens
    every = gradient(GPG(), REWARD, lengths)[:8]
    some = gradient(GPG(corrected=False), REWARD[:2], lengths[:8])
    torch.testing.assert_close(every, some * 2 * 16 / 64)


def test_if_no_group_says_anything_there_is_no_gradient():
    found = advantage(torch.ones(3, 4))
    assert found.abs().sum() == 0 and found.isfinite().all()


def test_shifts_leave_it_and_scalings_scale_it():
    torch.testing.assert_close(advantage(REWARD + 7), advantage())
    torch.testing.assert_close(advantage(3 * REWARD), 3 * advantage())
    torch.testing.assert_close(advantage(1e6 * REWARD, standardized=True), advantage(1e7 * REWARD, standardized=True))


def test_a_second_step_on_a_batch_is_refused():
    with pytest.raises(UsageError, match="minibatches=2"):
        GPG(minibatches=2)

"""Several rewards: gauges that cancel constants, variances with a mean of 1, and the gradient of the penalty."""

from __future__ import annotations

import pytest
import torch

from surefoot.objectives.ensembles import aligned, disagreement, penalized, relative

F64 = torch.float64


def test_constants_of_the_members_cancel():
    scores = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    shifted = scores + torch.tensor([3.0, -1, 0, 7, 2], dtype=F64)
    first, second = (aligned(x, x.mean(0)) for x in (scores, shifted))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(disagreement(first), disagreement(second))
    assert disagreement(shifted).mean() > 2 * disagreement(first).mean()


def test_the_unbiased_variance_and_units_of_the_usual_one():
    variance = disagreement(torch.tensor([[0.0, 2, 4], [1, 1, 1]], dtype=F64))
    assert variance.tolist() == [4, 0]
    found = relative(variance, variance.mean(), 0.25)
    assert found.tolist() == pytest.approx([(2 + 0.25) / 1.25, 0.25 / 1.25]) and found.mean() == 1


def test_the_score_function_gradient_is_that_of_the_objective_and_rewards_to_go_have_another():
    """Two binary tokens: logits of the first, and of the second after 0 and after 1."""
    theta = torch.tensor([0.3, -0.2, 0.5], dtype=F64, requires_grad=True)
    reward = torch.tensor([[1, 0.2], [0.5, 0]], dtype=F64)
    weight = torch.tensor([[1, 0.25], [0.25, 2]], dtype=F64)
    first = torch.nn.functional.logsigmoid(torch.stack([-theta[0], theta[0]]))
    second = torch.nn.functional.logsigmoid(torch.stack([-theta[1:], theta[1:]], 1))
    log_prob = first[:, None] + second
    policy, before = log_prob.exp(), torch.tensor(0.25, dtype=F64)
    objective = (policy * reward - 0.5 * weight * (policy * (policy / before).log() - policy + before)).sum()
    (exact,) = torch.autograd.grad(objective, theta, retain_graph=True)
    shaped = penalized(reward, weight, (log_prob - before.log()).detach(), 0.5)
    (found,) = torch.autograd.grad((policy.detach() * shaped * log_prob).sum(), theta, retain_graph=True)
    assert exact.tolist() == pytest.approx([-0.1712, -0.084248, -0.118207], abs=1e-6)
    torch.testing.assert_close(found, exact)
    moved = torch.stack([(first - 0.5 * before.log())[:, None].expand(2, 2), second - 0.5 * before.log()]).detach()
    to_go = [penalized(reward, weight, x, 0.5) for x in (moved.sum(0), moved[1])]
    early, late = (first[:, None].expand(2, 2), second)
    (wrong,) = torch.autograd.grad((policy.detach() * (to_go[0] * early + to_go[1] * late)).sum(), theta)
    assert wrong.tolist() == pytest.approx([-0.1712, -0.07788, -0.101812], abs=1e-6)

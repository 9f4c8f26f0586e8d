"""rDPO and RPO: the cards' exact numbers through the shipped methods."""

from __future__ import annotations

import math

import pytest
import torch

from surefoot.errors import UsageError
from surefoot.methods.preference.baselines import CDPO, DPO
from surefoot.methods.preference.rdpo import RDPO
from surefoot.methods.preference.rpo import RPO
from surefoot.objectives.preferences import Compared

F64 = torch.float64


def of(method, log_prob, reference=(0.0, 0.0), tokens=(4.0, 6.0)):
    """The loss of one pair, and its slopes."""
    leaf = torch.tensor([log_prob], dtype=F64, requires_grad=True)
    pairs = Compared(leaf, torch.tensor([reference], dtype=F64), torch.tensor([tokens], dtype=F64))
    loss = method.pair_objective().losses(pairs).sum()
    (slope,) = torch.autograd.grad(loss, leaf)
    return loss.item(), slope[0].tolist()


def test_without_flips_it_is_dpo():
    assert of(RDPO(label_noise=0.0), (3.0, -2.0)) == of(DPO(), (3.0, -2.0))


def test_the_papers_numbers():
    """β = 0.1, a difference of 5, a flip rate of 0.2; and the same pair with its label turned round."""
    method = RDPO(beta=0.1, label_noise=0.2)
    right, wrong = of(method, (5.0, 0.0))[0], of(method, (0.0, 5.0))[0]
    assert (right, wrong) == pytest.approx((0.307410, 1.140744), abs=1e-6)
    assert 0.8 * right + 0.2 * wrong == pytest.approx(of(DPO(beta=0.1), (5.0, 0.0))[0])
    assert of(method, (5.0, 0.0))[1] == pytest.approx([-0.0710874, 0.0710874], abs=1e-7)


def test_it_is_smoothing_with_a_negative_rate_and_is_not_bounded():
    z, rate = 0.7, 0.2
    found = of(RDPO(beta=1.0, label_noise=rate), (z, 0.0))[0]
    assert found == pytest.approx(math.log1p(math.exp(-z)) - rate / (1 - 2 * rate) * z)
    assert of(RDPO(beta=1.0, label_noise=rate), (50.0, 0.0))[0] == pytest.approx(-16.666667, abs=1e-6)


def test_smoothing_has_its_minimum_at_the_log_odds_of_the_rate():
    z = math.log(0.8 / 0.2)
    assert of(CDPO(beta=1.0, label_noise=0.2), (z, 0.0))[1] == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize("rate", [0.5, 0.6, -0.1])
def test_rates_that_leave_nothing_to_learn_are_refused(rate):
    with pytest.raises(UsageError, match="label_noise"):
        RDPO(label_noise=rate)


# --- RPO -------------------------------------------------------------------------------------------------------------

PAIR = {"log_prob": (-12.0, -15.0), "reference": (-13.0, -14.0)}


def test_the_imitation_is_added_with_its_weight():
    for eta, loss in ((0.0, 0.598139), (0.005, 0.604139), (0.2, 0.838139)):
        assert of(RPO(eta=eta), **PAIR)[0] == pytest.approx(loss, abs=1e-6)
    assert of(RPO(eta=0.2), **PAIR)[1] == pytest.approx([-0.0650166, 0.0450166], abs=1e-6)
    assert of(RPO(eta=1e-7), **PAIR) == of(DPO(), **PAIR)


def test_sum_and_mean_agree_on_single_tokens_at_matched_weights():
    summed = of(RPO(eta=0.3, beta=0.1), **PAIR, tokens=(1.0, 1.0))
    mean = of(RPO(eta=0.3 * 0.1, beta=0.1, imitated="mean"), **PAIR, tokens=(1.0, 1.0))
    assert summed[0] == pytest.approx(mean[0]) and summed[1] == pytest.approx(mean[1])


def test_the_maximin_problem_has_the_same_value_either_way_round_and_its_solution_is_stationary():
    """One prompt, three answers: η·(E_π r − E_base r − β·KL) + L_D(r), for a minimum over r of the maximum over π."""
    reference, base = torch.tensor([0.5, 0.3, 0.2], dtype=F64), torch.tensor([0.6, 0.4, 0.0], dtype=F64)
    pairs, beta, eta = torch.tensor([[0, 1], [0, 1], [1, 0], [0, 2]]), 0.5, 0.3
    reward = torch.zeros(3, dtype=F64, requires_grad=True)
    optimizer = torch.optim.LBFGS([reward], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def fit() -> torch.Tensor:
        gaps = reward[pairs[:, 0]] - reward[pairs[:, 1]]
        return torch.nn.functional.softplus(-gaps).mean()

    def dual() -> torch.Tensor:
        value = beta * (reference.log() + reward / beta).logsumexp(0) - base @ reward
        return eta * value + fit() + 1e-12 * reward.square().sum()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        dual().backward()
        return dual()

    optimizer.step(closure)
    policy = (reference.log() + reward.detach() / beta).softmax(0)
    ratio = (policy / reference).log()
    gaps = beta * (ratio[pairs[:, 0]] - ratio[pairs[:, 1]])
    one = torch.eye(3, dtype=F64)
    pull = (beta * (-gaps).sigmoid()[:, None] * (one[pairs[:, 0]] - one[pairs[:, 1]])).mean(0)
    torch.testing.assert_close(pull + eta * beta * (base - policy), torch.zeros(3, dtype=F64), atol=1e-5, rtol=0)
    # The maximum over policies of the minimum over rewards, at this policy: the same value.
    inner = torch.zeros(3, dtype=F64, requires_grad=True)
    fixed = torch.optim.LBFGS([inner], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def worst() -> torch.Tensor:
        gaps = inner[pairs[:, 0]] - inner[pairs[:, 1]]
        divergence = (policy * (policy / reference).log()).sum()
        return eta * (policy @ inner - base @ inner - beta * divergence) + torch.nn.functional.softplus(-gaps).mean()

    def again() -> torch.Tensor:
        fixed.zero_grad()
        worst().backward()
        return worst()

    fixed.step(again)
    assert float(worst()) == pytest.approx(float(dual()), abs=1e-5)

"""BNPO: the numbers of its card."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.errors import UsageError
from surefoot.loops.group_rollout.rewards import in_unit
from surefoot.methods.language.bnpo import BNPO
from surefoot.objectives import advantages
from surefoot.objectives.beta import beta_normalized, fitted, normalizer

F64 = torch.float64


def density(p, alpha, beta):
    return torch.distributions.Beta(torch.tensor(alpha, dtype=F64), torch.tensor(beta, dtype=F64)).log_prob(p).exp()


def test_fit_and_weights():
    p = torch.tensor([0.125, 0.25, 0.5, 0.875], dtype=F64)
    alpha, beta = fitted(p)
    assert (alpha.item(), beta.item()) == pytest.approx((1.182292, 1.234375), abs=1e-6)
    assert normalizer(p, 1e6).tolist() == pytest.approx([1.007954, 0.920992, 0.892590, 1.115466], abs=1e-6)
    torch.testing.assert_close(1 / normalizer(p, 1e6), density(p, alpha.item(), beta.item()))


def test_grpo_is_the_member_of_three_halves():
    """f(p) = (8/π)√(p(1−p)) for α = β = 3/2: the advantage is π/8 times GRPO's."""
    p = torch.tensor([0.125, 0.25, 0.5], dtype=F64)
    torch.testing.assert_close(density(p, 1.5, 1.5) / (p * (1 - p)).sqrt(), torch.full((3,), 8 / math.pi, dtype=F64))


def test_dr_grpo_is_the_member_of_ones_where_the_moments_are_those_of_no_beta():
    reward = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]], dtype=F64)
    assert [x.item() for x in fitted(reward.mean(1))] == [1, 1]  # p at the ends: v > m(1 − m)
    torch.testing.assert_close(beta_normalized()(reward), advantages.group_mean()(reward))


@pytest.mark.parametrize(
    ("alpha", "beta", "wanted"), [(2.0, 1.5, 0.124444), (1.0, 1.0, 0.181818), (1.5, 1.5, 0.154213)]
)
def test_the_variance_is_least_at_a_third_of_the_parameters(alpha, beta, wanted):
    """E[p(1−p)/f²] for p ~ Beta(3, 1.5), by quadrature."""
    p = (torch.arange(200_000, dtype=F64) + 0.5) / 200_000
    value = (density(p, 3.0, 1.5) * p * (1 - p) / density(p, alpha, beta) ** 2).mean()
    assert value.item() == pytest.approx(wanted, abs=1e-4)


def test_groups_that_agree_have_no_advantage_at_all():
    reward = torch.tensor([[1.0, 1], [0, 0], [1, 0], [1, 0], [1, 0]], dtype=F64)
    found = beta_normalized()(reward)
    assert found[:2].abs().sum() == 0 and found.isfinite().all() and found[2:].abs().sum() > 0


def test_success_and_failure_change_places():
    reward = (torch.rand(32, 8, generator=torch.Generator().manual_seed(0), dtype=F64) < 0.3).double()
    torch.testing.assert_close(beta_normalized()(1 - reward), -beta_normalized()(reward))
    (a, b), (c, d) = fitted(reward.mean(1)), fitted(1 - reward.mean(1))
    torch.testing.assert_close(torch.stack([a, b]), torch.stack([d, c]))


def test_a_single_prompt_and_equal_prompts_are_defined():
    assert beta_normalized()(torch.tensor([[1.0, 0]])).tolist() == [[0.5, -0.5]]
    assert beta_normalized()(torch.tensor([[1.0, 0]] * 3)).isfinite().all()


def test_a_reward_outside_the_unit_interval_is_refused():
    with pytest.raises(UsageError, match="length.*must be in"):
        in_unit("length", torch.tensor([[1.0, 3.0]]), "BNPO")
    assert BNPO().objective().to_dict()["advantage"]["part"] == "beta_normalized"


def test_a_function_that_does_not_apply_counts_nothing():
    from types import SimpleNamespace

    one, none = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.full((2, 2), math.nan)
    found = BNPO(prompts=2, samples=2).advantages(SimpleNamespace(components={"one": one, "none": none}))
    alone = BNPO(prompts=2, samples=2).advantages(SimpleNamespace(components={"one": one}))
    torch.testing.assert_close(found, alone / 2)

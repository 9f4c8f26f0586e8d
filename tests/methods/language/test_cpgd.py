"""CPGD: the table of its card, and its drift by enumeration."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.loops.group_rollout.method import Batch
from surefoot.methods.language.cpgd import CPGD
from surefoot.objectives import PolicyObjective, stabilizers

F64 = torch.float64
TABLE = [  # Â, π, value, slope in log π, PPO's slope, drift
    (1, 0.23, -0.139762, -1, -1.15, 0.15),
    (1, 0.25, -0.182322, 0, 0, 0.25),
    (1, 0.10, 0.693147, -1, -0.5, -0.5),
    (-1, 0.17, -0.162519, 1, 0.85, -0.15),
    (-1, 0.15, -0.223144, 0, 0, -0.25),
    (-1, 0.50, 0.916291, 1, 2.5, 1.5),
]


def batch(old, advantage, weights=None):
    one = torch.ones_like(old, dtype=torch.bool)
    weights = torch.ones_like(old) if weights is None else weights
    return Batch(one, old, advantage, weights, None, torch.arange(len(old)), {})


def slope(method, log_prob, old, advantage, weights=None):
    """Of the loss in log π, every element weighing 1."""
    log_prob = log_prob.clone().requires_grad_()
    found = batch(old, advantage, weights)
    loss, _ = method.loss(method.objective(), found, log_prob, torch.zeros_like(log_prob))
    return torch.autograd.grad(loss, log_prob)[0]


@pytest.mark.parametrize(("advantage", "probability", "value", "pull", "ppo", "drift"), TABLE)
def test_the_table(advantage, probability, value, pull, ppo, drift):
    old, new = torch.tensor([[0.2]], dtype=F64).log(), torch.tensor([[probability]], dtype=F64).log()
    a = torch.tensor([[float(advantage)]], dtype=F64)
    part = CPGD().objective().stabilizer
    assert (a - part((new - old).exp(), a)).item() == pytest.approx(value, abs=1e-6)  # the part is Â at ρ = 1
    assert slope(CPGD(drift=0.0), new, old, a).item() == pytest.approx(pull, abs=1e-9)
    assert slope(CPGD(drift=1.0), new, old, a).item() - pull == pytest.approx(drift, abs=1e-9)
    _, theirs = PolicyObjective(stabilizer=stabilizers.clip(0.2)).coefficient(new, old, a)
    assert -theirs.item() == pytest.approx(ppo, abs=1e-9)


def test_no_token_pulls_more_than_its_advantage():
    g = torch.Generator().manual_seed(0)
    old, advantage = -3 * torch.rand(8, 9, generator=g, dtype=F64), torch.randn(8, 9, generator=g, dtype=F64)
    new = old + 2 * torch.randn(8, 9, generator=g, dtype=F64)
    found = slope(CPGD(drift=0.0), new, old, advantage)
    assert bool((found.abs() <= advantage.abs() + 1e-12).all())
    ratio = (new - old).exp()
    stopped = torch.where(advantage > 0, ratio > 1.2, ratio < 0.8)
    assert torch.equal(found == 0, stopped)


def test_the_drift_is_the_gradient_of_the_kl_from_the_old_policy():
    """Σ_a π_old (ρ − 1) ∇log π = ∇KL(π_old ‖ π), on a softmax, where no ratio reaches the cap."""
    g = torch.Generator().manual_seed(1)
    logits, old = torch.randn(5, generator=g, dtype=F64).requires_grad_(), torch.randn(5, generator=g, dtype=F64)
    old = 0.3 * old + 0.7 * logits.detach()
    p_old = old.softmax(-1)
    kl = (p_old * (p_old.log() - logits.log_softmax(-1))).sum()
    log_prob = logits.log_softmax(-1)[None]
    found = batch(p_old.log()[None], torch.zeros(1, 5, dtype=F64), p_old[None])
    method = CPGD(drift=1.0, drift_cap=100.0)
    loss, _ = method.loss(method.objective(), found, log_prob, torch.zeros_like(log_prob))
    mine, theirs = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (loss, kl))
    torch.testing.assert_close(mine, theirs)
    assert theirs.abs().sum() > 0.01


def test_on_the_policy_that_wrote_it_is_reinforce_and_has_no_drift():
    old = -torch.rand(2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    advantage = torch.tensor([[1.0, -1, 2]] * 2, dtype=F64)
    torch.testing.assert_close(slope(CPGD(drift=5.0), old, old, advantage), -advantage)


def test_the_three_advantages():
    reward = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=F64)
    found = CPGD(advantage="filtered").objective().advantage(reward)
    assert found.tolist() == [[1, -1, -1, 1], [-0.5, 1.5, -0.5, -0.5], [0] * 4, [0] * 4]
    few = torch.cat([reward[:1], torch.ones(3, 4, dtype=F64)])
    assert CPGD(advantage="filtered").objective().advantage(few)[0].tolist() == [1.5, -1.5, -1.5, 1.5]  # the cap, 3
    informative = reward[:2]
    torch.testing.assert_close(
        CPGD(advantage="filtered").objective().advantage(informative),
        CPGD(advantage="centred").objective().advantage(informative),
    )
    standard = CPGD().objective().advantage(reward)
    assert standard[0].tolist() == pytest.approx([0.866025, -0.866025, -0.866025, 0.866025], abs=1e-5)


def test_the_released_setting_takes_eight_steps_with_ten_times_the_drift():
    released = CPGD(**CPGD.presets["mm-eureka-2025"])
    assert released.prompts * released.samples // released.minibatches == 128  # responses a step
    assert released.drift == 10 * CPGD().drift and released.learning_rate == 1e-6
    assert released.advantage == "standardized" and released.clip == 0.2 and released.epochs == 1

"""RPG: the numbers of its card, and the gradients of four divergences on a softmax."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.errors import UsageError
from surefoot.loops.group_rollout.method import Batch
from surefoot.methods.language.rpg_kl import RPG
from surefoot.objectives import stabilizers
from surefoot.objectives.divergences import k3, k3_weighted
from surefoot.objectives.regularized import DIVERGENCES, LARGEST, divergence, pull, regularized

F64 = torch.float64
OLD, NEW = (torch.tensor(x, dtype=F64) for x in ((0.5, 0.3, 0.2), (0.6, 0.25, 0.15)))
REWARD, BETA, RATIO = torch.tensor([1.0, 0, 0.5], dtype=F64), 0.1, NEW / OLD
WIDE = {"clip": 0.99, "clip_high": 1e6, "dual_clip": 1e6}
FORMS = ("reinforce", "differentiable")
EXACT = {
    "forward": ((1.3, 0.1, 0.475), (0.185, -0.16375, -0.02125)),
    "reverse": ((1.058121, -0.068140, 0.321576), (0.1853, -0.163675, -0.021625)),
    "forward-unnormalised": ((1.18, 0.016667, 0.4), (0.185, -0.16375, -0.02125)),
    "reverse-unnormalised": ((1.178121, 0.015193, 0.396576), (0.1853, -0.163675, -0.021625)),
}


def slopes(method, log_prob, old, advantage):
    """−n times the gradient of the loss of n completions of one token in their log-probabilities."""
    rows = len(log_prob)
    leaf, valid = log_prob.clone()[:, None].requires_grad_(), torch.ones(rows, 1, dtype=torch.bool)
    weights = method.objective().aggregation.weights(valid, F64)
    batch = Batch(valid, old[:, None], advantage[:, None], weights, None, torch.arange(rows), {})
    loss, _ = method.loss(method.objective(), batch, leaf, torch.zeros_like(leaf))
    return -rows * torch.autograd.grad(loss, leaf)[0][:, 0]


def expected(weights, policy=NEW):
    """E_old[weight·∇log π] in the logits."""
    pulled = OLD * weights
    return pulled - policy * pulled.sum()


def of_divergence(kind, policy):
    """The divergence of softmax policies, by its definition."""
    forward, reverse = (OLD * (OLD / policy).log()).sum(), (policy * (policy / OLD).log()).sum()
    return {"forward": forward, "reverse": reverse, "jeffreys": (forward + reverse) / 2}[kind.split("-")[0]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", EXACT)
def test_the_weights_of_all_forms_and_their_expected_gradients(kind, form):
    method = RPG(divergence=kind, beta=BETA, form=form, **WIDE)
    found = slopes(method, NEW.log(), OLD.log(), REWARD)
    weights, gradient = EXACT[kind]
    assert found.tolist() == pytest.approx(weights, abs=1e-6)
    assert expected(found).tolist() == pytest.approx(gradient, abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", DIVERGENCES)
def test_the_expected_gradient_is_that_of_the_objective(kind, form):
    logits = NEW.log().requires_grad_()
    policy = logits.softmax(0)
    target = (policy * REWARD).sum() - BETA * of_divergence(kind, policy)
    (wanted,) = torch.autograd.grad(target, logits)
    found = slopes(RPG(divergence=kind, beta=BETA, form=form, **WIDE), NEW.log(), OLD.log(), REWARD)
    torch.testing.assert_close(expected(found), wanted)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_the_pull_is_the_slope_and_the_mean_is_the_divergence(kind):
    log_ratio = torch.linspace(-3, 1.5, 40, dtype=F64).requires_grad_()
    (wanted,) = torch.autograd.grad(divergence(log_ratio.exp(), kind).sum(), log_ratio)
    torch.testing.assert_close(pull(log_ratio.detach().exp(), kind), wanted)
    torch.testing.assert_close((OLD * divergence(RATIO, kind)).sum(), of_divergence(kind, NEW))


def test_unnormalised_forms_have_other_weights_but_the_same_mean():
    for kind, by in (("forward", -RATIO), ("reverse", torch.ones_like(RATIO) * RATIO)):
        plain, other = (-BETA * pull(RATIO, name) for name in (kind, f"{kind}-unnormalised"))
        torch.testing.assert_close(other - plain, BETA * by)
        torch.testing.assert_close(expected(other), expected(plain), atol=1e-12, rtol=0)


def test_on_the_sampling_policy_only_normalised_forms_shift_the_reward():
    for kind, shift in (
        ("forward", BETA),
        ("reverse", -BETA),
        ("forward-unnormalised", 0),
        ("reverse-unnormalised", 0),
    ):
        found = slopes(RPG(divergence=kind, beta=BETA, **WIDE), OLD.log(), OLD.log(), REWARD)
        torch.testing.assert_close(found, REWARD + shift)


def test_k3_is_a_divergence_of_the_policy_that_drew():
    log_ratio = RATIO.log()
    assert (OLD * k3(log_ratio)).sum().item() == pytest.approx(0.021072, abs=1e-6)
    assert (NEW * k3(-log_ratio)).sum().item() == pytest.approx(0.020660, abs=1e-6)


def test_grpos_penalty_needs_the_ratio():
    """With the reference π_old the unweighted penalty is χ² − KL, and its gradient is not that of the reverse KL."""
    gradients = {}
    for name in ("k3", "weighted", "exact"):
        logits = NEW.log().requires_grad_()
        now = logits.log_softmax(0)
        each = k3(OLD.log() - now) if name == "k3" else k3_weighted(OLD.log() - now, now - OLD.log())
        value = of_divergence("reverse", now.exp()) if name == "exact" else (OLD * each).sum()
        gradients[name] = torch.autograd.grad(value, logits)[0].tolist()
        if name == "k3":
            chi2 = (OLD**2 / NEW).sum().item() - 1
            assert chi2 == pytest.approx(0.043333, abs=1e-6) and value.item() == pytest.approx(0.022261, abs=1e-6)
    assert gradients["k3"] == pytest.approx([0.109333, -0.049167, -0.060167], abs=1e-6)
    assert gradients["weighted"] == pytest.approx([0.096997, -0.050745, -0.046251], abs=1e-6)
    assert gradients["weighted"] == pytest.approx(gradients["exact"])


def test_the_dual_clip():
    clip = stabilizers.dual_clip(0.2, 0.28, 10)
    cases = {(1.5, 1): 1.28, (0.5, 1): 0.5, (0.5, -1): -0.8, (1.5, -1): -1.5, (12, -1): -10}
    for (ratio, advantage), value in cases.items():
        found = clip(*(torch.tensor(float(x)) for x in (ratio, advantage)))
        assert found.item() == pytest.approx(value), (ratio, advantage)


def test_without_a_divergence_both_forms_are_the_dual_clip():
    g = torch.Generator().manual_seed(0)
    old = -torch.rand(200, generator=g, dtype=F64)
    now, advantage = old + torch.randn(200, generator=g, dtype=F64), torch.randn(200, generator=g, dtype=F64)
    clip = stabilizers.dual_clip(0.2, 0.28, 10.0)
    ratio = (now - old).exp()
    for form in FORMS:
        found = slopes(RPG(beta=0.0, form=form), now, old, advantage)
        torch.testing.assert_close(found, ratio * clip.weight(ratio, advantage))


def by_hand(ratio, advantage, kind, beta, low=0.2, high=0.28, bound=10.0):
    """The rule of the paper's Algorithm 2, one token at a time."""
    near = min(max(ratio, 1 - low), 1 + high)
    log = torch.tensor(near, dtype=F64).log().item()
    c = {
        "forward": 1,
        "reverse": -near * (log + 1),
        "forward-unnormalised": 1 - near,
        "reverse-unnormalised": -near * log,
    }
    changed = advantage + beta * c[kind] / ratio
    if changed >= 0:
        return ratio * changed if ratio < 1 + high else 0.0
    return ratio * changed if 1 - low < ratio < bound else 0.0


@pytest.mark.parametrize("kind", EXACT)
def test_tokens_are_stopped_by_the_sign_of_the_advantage_with_its_correction(kind):
    g = torch.Generator().manual_seed(1)
    old = -torch.rand(300, generator=g, dtype=F64)
    now, advantage = old + 1.5 * torch.randn(300, generator=g, dtype=F64), torch.randn(300, generator=g, dtype=F64)
    found = slopes(RPG(divergence=kind, beta=0.5), now, old, advantage).tolist()
    wanted = [by_hand(r, a, kind, 0.5) for r, a in zip((now - old).exp().tolist(), advantage.tolist())]
    assert found == pytest.approx(wanted, abs=1e-12)
    assert 0 < sum(x == 0 for x in found) < 300


def test_beside_the_clip_the_divergence_pulls_on_stopped_tokens_up_to_a_limit():
    ratio = torch.tensor([1.5, 3.0, 8.0], dtype=F64)  # the last one has ρ·log ρ − ρ + 1 = 9.6, and ρ·log ρ = 16.6
    one = torch.ones(3, dtype=F64)
    found = slopes(RPG(form="differentiable", beta=0.5), ratio.log(), 0 * one, one)
    torch.testing.assert_close(found, -0.5 * ratio * ratio.log())
    found = slopes(RPG(form="differentiable", beta=0.5, divergence="reverse"), ratio.log(), 0 * one, one)
    torch.testing.assert_close(found[:2], -0.5 * ratio[:2] * (ratio[:2].log() + 1))
    assert found[2] == 0 and divergence(ratio, "reverse")[2] == LARGEST


def test_the_gradient_in_double_precision():
    part = regularized("reverse", 0.3, stabilizers.none())
    advantage = torch.randn(6, dtype=F64, generator=torch.Generator().manual_seed(2))
    ratio = torch.linspace(0.3, 3, 6, dtype=F64).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: part(r, advantage), ratio)
    torch.testing.assert_close(
        torch.autograd.grad(part(ratio, advantage).sum(), ratio)[0], part.weight(ratio.detach(), advantage)
    )


def test_a_fixed_reference_is_weighted_by_the_ratio():
    assert RPG().kl_estimator == "weighted" and not RPG().refers and RPG(kl=0.1).refers


@pytest.mark.parametrize("given", [{"divergence": "js"}, {"form": "loss"}, {"beta": -1.0}, {"dual_clip": 1.0}])
def test_what_cannot_be_is_refused(given):
    with pytest.raises(UsageError, match=f"{next(iter(given))}="):
        RPG(**given)

"""The one estimator: worked examples, known methods as choices of parts, and what it refuses."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import UsageError
from surefoot.objectives import PolicyObjective, advantages, aggregation, divergences, likelihoods, ratios, stabilizers

F64 = torch.float64
seeds = st.integers(0, 2**31 - 1)
UNCLIPPED = stabilizers.none()


def gradient(objective: PolicyObjective, log_prob, old, advantage, **kwargs) -> torch.Tensor:
    log_prob = log_prob.detach().clone().requires_grad_()
    loss, _ = objective.loss(log_prob, old, advantage, **kwargs)
    return torch.autograd.grad(loss, log_prob)[0]


def batch(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    log_prob = -torch.rand(*shape, generator=g, dtype=F64) * 3
    return (
        log_prob,
        log_prob + 0.4 * torch.randn(*shape, generator=g, dtype=F64),
        torch.randn(*shape, generator=g, dtype=F64),
    )


@pytest.mark.parametrize(
    ("objective", "sign", "expected"),
    [
        (PolicyObjective(ratio=ratios.current(), stabilizer=UNCLIPPED), 1, (1.0, 1.0)),
        (PolicyObjective(stabilizer=stabilizers.clip(0.2)), 1, (0.0, 0.5)),
        (PolicyObjective(stabilizer=stabilizers.clip(0.2, 0.28)), 1, (1.25, 0.5)),
        (PolicyObjective(ratio=ratios.truncated(high=0.28), stabilizer=UNCLIPPED), 1, (1.25, 0.5)),
        (PolicyObjective(ratio=ratios.sequence(), stabilizer=UNCLIPPED), 1, (0.7905694, 0.7905694)),
        (PolicyObjective(ratio=ratios.constant(), stabilizer=UNCLIPPED), 1, (0.5, 0.1)),
        (
            PolicyObjective(ratio=ratios.constant(), stabilizer=UNCLIPPED, likelihood=likelihoods.saturating(0.1)),
            1,
            (0.1388889, 0.25),
        ),
        (PolicyObjective(stabilizer=stabilizers.clip(0.2)), -1, (-1.25, 0.0)),
        (PolicyObjective(ratio=ratios.truncated(high=0.28), stabilizer=UNCLIPPED), -1, (-1.25, -0.5)),
    ],
    ids=lambda x: str(x).replace("\n", " ") if isinstance(x, PolicyObjective) else None,
)
def test_worked_token_example(objective, sign, expected):
    log_prob, old = (torch.tensor([p], dtype=F64).log() for p in ((0.5, 0.1), (0.4, 0.2)))
    advantage = torch.full((1, 2), float(sign), dtype=F64)
    _, coefficient = objective.coefficient(log_prob, old, advantage)
    assert coefficient[0].tolist() == pytest.approx(expected, abs=1e-7)
    assert (-2 * gradient(objective, log_prob, old, advantage))[0].tolist() == pytest.approx(expected, abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, epsilon=st.floats(0.05, 0.5))
def test_clip_is_the_pessimistic_surrogate_in_gradient_and_metric(seed, epsilon):
    log_prob, old, advantage = batch(seed, 5, 4)
    objective = PolicyObjective(stabilizer=stabilizers.clip(epsilon))
    x = log_prob.clone().requires_grad_()
    ratio = (x - old).exp()
    surrogate = torch.min(ratio * advantage, ratio.clip(1 - epsilon, 1 + epsilon) * advantage).mean()
    (expected,) = torch.autograd.grad(-surrogate, x)
    torch.testing.assert_close(gradient(objective, log_prob, old, advantage), expected)
    _, metrics = objective.loss(log_prob, old, advantage)
    torch.testing.assert_close(metrics["surrogate"], surrogate.detach())
    stopped = (advantage > 0) & (ratio > 1 + epsilon) | (advantage < 0) & (ratio < 1 - epsilon)
    torch.testing.assert_close(metrics["stopped_fraction"], stopped.to(F64).mean())
    torch.testing.assert_close(metrics["clip_fraction"], ((ratio - 1).abs() > epsilon).to(F64).mean())
    torch.testing.assert_close(metrics["kl"], (ratio - 1 - ratio.log()).mean().detach())


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_at_the_old_policy_every_stabilizer_gives_the_vanilla_gradient(seed):
    log_prob, _, advantage = batch(seed, 5, 4)
    for stabilizer in (UNCLIPPED, stabilizers.clip(0.05), stabilizers.dual_clip(), stabilizers.quadratic(0.05)):
        for ratio in (ratios.old(), ratios.current(), ratios.sequence(), ratios.truncated()):
            found = gradient(PolicyObjective(stabilizer=stabilizer, ratio=ratio), log_prob, log_prob, advantage)
            torch.testing.assert_close(found, -advantage / 20)


def test_one_step_through_a_network_is_one_vanilla_policy_gradient_step():
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=g, dtype=F64, requires_grad=True)
    observations, actions = torch.randn(6, 4, generator=g, dtype=F64), torch.randint(3, (6,), generator=g)
    advantage = torch.randn(6, generator=g, dtype=F64)
    log_prob = (observations @ weight).log_softmax(-1).gather(-1, actions[:, None])[:, 0]
    loss, _ = PolicyObjective().loss(log_prob, log_prob.detach(), advantage)
    (found,) = torch.autograd.grad(loss, weight)
    probability = (observations @ weight).softmax(-1).detach()
    score = torch.nn.functional.one_hot(actions, 3).to(F64) - probability
    torch.testing.assert_close(found, -torch.einsum("n,ni,nj->ij", advantage, observations, score) / 6)


@pytest.mark.parametrize("same", ["old", "advantage"])
def test_only_log_prob_carries_the_gradient(same):
    log_prob, old, advantage = batch(3, 5)
    x = log_prob.clone().requires_grad_()
    arguments = {"old": (x, advantage), "advantage": (old, x)}[same]
    loss, _ = PolicyObjective(stabilizer=UNCLIPPED).loss(x, *arguments)
    constant = [a.detach() for a in arguments]
    expected = gradient(PolicyObjective(stabilizer=UNCLIPPED), log_prob, *constant)
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected)


def test_supervised_fine_tuning_is_a_choice_of_parts():
    """Denominator the policy itself, advantage 1: the gradient of the mean negative log-likelihood of the tokens."""
    g = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 5, 7, generator=g, dtype=F64, requires_grad=True)
    tokens, valid = torch.randint(7, (3, 5), generator=g), torch.rand(3, 5, generator=g) > 0.3
    log_prob = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    objective = PolicyObjective(ratio=ratios.current(), stabilizer=UNCLIPPED)
    loss, _ = objective.loss(log_prob, torch.zeros_like(log_prob), torch.ones_like(log_prob), valid=valid)
    expected = torch.nn.functional.cross_entropy(logits[valid], tokens[valid])
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0])


def test_common_objective_of_reward_and_demonstrations():
    """Three arms, R = (1, 0, .5), demonstrator β = (.1, .2, .7), μ = .3: J = E_π[R] − μ·KL(β ‖ π)."""
    pi, rewards, beta = (torch.tensor(x, dtype=F64) for x in ((0.6, 0.25, 0.15), (1.0, 0.0, 0.5), (0.1, 0.2, 0.7)))
    logits = pi.log().requires_grad_()
    advantage = rewards + 0.3 * beta / pi
    assert advantage.tolist() == pytest.approx((1.05, 0.24, 1.9), abs=1e-12)
    # With d = 1 the coefficient is π·Â, so that a mean over the three arms is a third of the expectation.
    loss, _ = PolicyObjective(ratio=ratios.constant(), stabilizer=UNCLIPPED).loss(
        logits.log_softmax(-1), torch.zeros(3, dtype=F64), 3 * advantage
    )
    (found,) = torch.autograd.grad(-loss, logits)
    assert found.tolist() == pytest.approx((0.045, -0.18375, 0.13875), abs=1e-12)
    common = (logits.softmax(-1) * rewards).sum() - 0.3 * divergences.categorical_kl(beta.log(), logits)
    torch.testing.assert_close(torch.autograd.grad(common, logits)[0], found)


def test_without_clipping_group_mean_and_constant_length_are_dr_grpo():
    log_prob, old, _ = batch(7, 4, 6)
    valid = torch.arange(6) < torch.tensor([6, 2, 4, 1])[:, None]
    advantage = advantages.group_mean()(torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=F64))[:, None].expand(4, 6)
    objective = PolicyObjective(stabilizer=UNCLIPPED, aggregation=aggregation.constant_length(length=6.0))
    x = log_prob.clone().requires_grad_()
    by_hand = -torch.stack([((x - old).exp() * advantage)[i, : int(valid[i].sum())].sum() for i in range(4)]).sum() / 24
    torch.testing.assert_close(
        gradient(objective, log_prob, old, advantage, valid=valid), torch.autograd.grad(by_hand, x)[0]
    )


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_order_and_shards_of_a_minibatch_do_not_matter(seed):
    log_prob, old, advantage = batch(seed, 8)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    objective = PolicyObjective()
    loss, metrics = objective.loss(log_prob, old, advantage)
    permuted, again = objective.loss(log_prob[order], old[order], advantage[order])
    shards = [objective.loss(*(x[i : i + 2] for x in (log_prob, old, advantage)))[0] for i in range(0, 8, 2)]
    torch.testing.assert_close(loss, permuted)
    torch.testing.assert_close(loss, torch.stack(shards).mean())
    for name in metrics:
        torch.testing.assert_close(metrics[name], again[name])


def test_mean_ratio_deviation_is_twice_the_total_variation():
    probabilities = torch.tensor([(0.5, 0.3, 0.2), (0.4, 0.4, 0.2)], dtype=F64)
    actions = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)  # as often as the old policy takes them
    old, log_prob = probabilities.log()[:, actions]
    _, metrics = PolicyObjective().loss(log_prob, old, torch.ones(10, dtype=F64))
    assert metrics["ratio_deviation"].item() / 2 == pytest.approx(0.1, abs=1e-12)
    assert 0.5 * (probabilities[0] - probabilities[1]).abs().sum().item() == pytest.approx(0.1, abs=1e-12)


def test_entropy_and_divergence_are_weighted_like_the_rest():
    log_prob, old, advantage = batch(4, 2, 3)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    entropy, divergence = (torch.where(valid, x, torch.nan).requires_grad_() for x in batch(5, 2, 3)[:2])
    objective = PolicyObjective(entropy=0.1, divergence=0.7)
    bare, _ = PolicyObjective().loss(log_prob, old, advantage, valid=valid)
    loss, metrics = objective.loss(log_prob, old, advantage, valid=valid, entropy=entropy, divergence=divergence)
    h, d = entropy[valid].mean(), divergence[valid].mean()
    torch.testing.assert_close(loss, bare - 0.1 * h + 0.7 * d)
    torch.testing.assert_close((metrics["entropy"], metrics["divergence"]), (h.detach(), d.detach()))
    for tensor, factor in ((entropy, -0.1), (divergence, 0.7)):
        found = torch.autograd.grad(loss, tensor, retain_graph=True)[0]
        torch.testing.assert_close(found, factor * valid.to(F64) / 3)
    multiplier = torch.tensor(2.0, dtype=F64, requires_grad=True)
    loss, _ = objective.loss(log_prob, old, advantage, valid=valid, divergence=divergence, divergence_weight=multiplier)
    torch.testing.assert_close(loss, bare + 2 * d)
    torch.testing.assert_close(torch.autograd.grad(loss, multiplier)[0], d.detach())


def test_standardize_uses_valid_elements_only():
    log_prob, old, advantage = batch(6, 3, 4)
    valid = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) > 0.3
    kept = advantage[valid]
    by_hand = torch.zeros_like(advantage).masked_scatter(valid, (kept - kept.mean()) / kept.std(correction=0))
    found = gradient(
        PolicyObjective(standardize=True), log_prob, old, torch.where(valid, advantage, torch.nan), valid=valid
    )
    torch.testing.assert_close(
        found, gradient(PolicyObjective(), log_prob, old, by_hand, valid=valid), atol=1e-7, rtol=0
    )


def test_a_non_finite_valid_element_is_not_hidden():
    log_prob, old, advantage = batch(6, 4)
    for stabilizer in (UNCLIPPED, stabilizers.clip(0.01), stabilizers.dual_clip(0.01), stabilizers.quadratic()):
        for i in range(4):
            broken = advantage.index_fill(0, torch.tensor(i), math.nan)
            loss, _ = PolicyObjective(stabilizer=stabilizer).loss(log_prob, old, broken)
            assert loss.isnan()


def test_ratios_outside_the_clip_range_are_told_from_those_that_no_longer_pull():
    old, advantage = torch.zeros(4, dtype=F64), torch.tensor([0.0, 1.0, 1.0, -1.0], dtype=F64)
    log_prob = torch.tensor([1.5, 1.5, 0.9, 1.5], dtype=F64).log()
    _, metrics = PolicyObjective(stabilizer=stabilizers.clip(0.2)).loss(log_prob, old, advantage)
    assert metrics["clip_fraction"].item() == 0.75
    assert metrics["stopped_fraction"].item() == 0.25
    _, metrics = PolicyObjective(stabilizer=stabilizers.smoothed(0.5, stabilizers.quadratic(0.2))).loss(
        log_prob, old, advantage
    )
    assert metrics["clip_fraction"].item() == 0.75
    assert "clip_fraction" not in PolicyObjective(stabilizer=UNCLIPPED).loss(log_prob, old, advantage)[1]


def test_a_log_ratio_beyond_any_bound_stays_finite():
    """exp(20) is the largest ratio there is: SPO squares it."""
    old, advantage = torch.zeros(2), torch.tensor([1.0, -1.0])
    for stabilizer in (UNCLIPPED, stabilizers.quadratic(), stabilizers.dual_clip()):
        log_prob = torch.tensor([100.0, 100.0], requires_grad=True)
        loss, metrics = PolicyObjective(stabilizer=stabilizer).loss(log_prob, old, advantage)
        (gradient,) = torch.autograd.grad(loss, log_prob)
        assert gradient.isfinite().all() and all(x.isfinite() for x in metrics.values())
        bounded = torch.full((2,), 20.0, requires_grad=True)
        loss, _ = PolicyObjective(stabilizer=stabilizer).loss(bounded, old, advantage)
        torch.testing.assert_close(gradient, torch.autograd.grad(loss, bounded)[0])


def test_prints_itself():
    objective = PolicyObjective(
        advantage=0.5 * advantages.gae(0.99, 0.95) + advantages.monte_carlo(),
        stabilizer=stabilizers.quadratic(0.2),
        likelihood=likelihoods.saturating(),
        standardize=True,
        entropy=0.01,
        divergence=0.1,
    )
    assert str(objective) == (
        "maximise mean[ ρÂ − |Â|(ρ−1)²/(2·0.2) ] + 0.01·H[π] − 0.1·D(π_ref, π)\n"
        "  with ρ = π/π_old\n"
        "  and  Â = standardize(0.5·GAE(γ=0.99, λ=0.95) + G(γ=0.99))\n"
        "  likelihood π/(π + 0.1)"
    )
    assert "likelihood" not in str(PolicyObjective()) and "H[π]" not in str(PolicyObjective())


def test_travels_through_json():
    objective = PolicyObjective(
        advantage=0.5 * (advantages.gae(lam=0.9) - 2 * advantages.monte_carlo(0.5)),
        ratio=ratios.sequence(axis=0),
        stabilizer=stabilizers.clip(0.1, 0.3),
        aggregation=aggregation.constant_length(length=7.0),
        standardize=True,
        entropy=0.01,
    )
    assert PolicyObjective.from_dict(json.loads(json.dumps(objective.to_dict()))) == objective
    assert PolicyObjective.from_dict({}) == PolicyObjective()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"stabiliser": {"part": "clip"}}, "stabiliser.*stabilizer"),
        ({"stabilizer": {"part": "clipp"}}, "clipp.*'clip'"),
        ({"ratio": {"part": "sequnce"}}, "sequnce.*'sequence'"),
        ({"stabilizer": {"part": "clip", "lo": 0.1}}, "'lo'.*'low'"),
        ({"stabilizer": {"part": "clip", "low": -0.1}}, r"low=-0\.1.*\(0, inf\)"),
        ({"stabilizer": {"low": 0.1}}, "stabilizer part ''.*clip"),
        ({"stabilizer": "clip"}, "'clip' is not a part"),
        ({"ratio": {"part": "clip"}}, "ratio part 'clip' is unknown"),
        ({"advantage": {"part": "total", "terms": [{"part": "gea"}]}}, "gea.*'gae'"),
        ({"divergence": -1.0}, "divergence=-1"),
    ],
)
def test_refuses_what_it_does_not_know(data, message):
    with pytest.raises(UsageError, match=message):
        PolicyObjective.from_dict(data)


@pytest.mark.parametrize("field", ["advantage", "ratio", "stabilizer", "likelihood", "aggregation"])
def test_refuses_a_part_of_another_kind(field):
    wrong = likelihoods.plain() if field != "likelihood" else ratios.old()
    for value in (wrong, "clip", None):
        with pytest.raises(UsageError, match=f"objective's {field} cannot be"):
            PolicyObjective(**{field: value})

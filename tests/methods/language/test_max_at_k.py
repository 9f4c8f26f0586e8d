"""Max@k: the numbers of its card, brute force over all sets of k, and the gradient of max@k by enumeration."""

from __future__ import annotations

from itertools import combinations, product
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.claims.language.max_at_k import best_without
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.method import Batch
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.max_at_k import MaxAtK, below_best, best_of

F64 = torch.float64
REWARD = torch.tensor([0.1, 0.2, 0.5, 0.7, 1.0], dtype=F64)
DELTA = torch.tensor([0.05, -0.1, 0.02, 0.1, -0.04], dtype=F64)


def by_force(reward, k, weight=lambda chosen: 1.0):
    """Per completion, the mean over all sets of the weighted maximum of those that contain it."""
    sets = list(combinations(range(len(reward)), k))
    found = [sum(weight(s) * max(reward[j] for j in s) for s in sets if i in s) for i in range(len(reward))]
    return pytest.approx([x / len(sets) for x in found], abs=1e-12)


def test_the_worked_example():
    found = best_of(REWARD, 3)
    assert found.tolist() == pytest.approx([0.49, 0.49, 0.49, 0.51, 0.6])
    assert found.sum().item() / 3 == pytest.approx(0.86)  # max@3
    assert best_of(torch.tensor([0.0, 0, 0, 1, 1]), 2).tolist() == pytest.approx([0.2, 0.2, 0.2, 0.4, 0.4])


def test_the_weights_of_each_reward():
    """r̃ is linear in the sorted rewards: row i has the weights w_ij."""
    rows = torch.stack([best_of(torch.arange(5) >= j, 3) - best_of(torch.arange(5) > j, 3) for j in range(5)], 1) * 10
    assert rows.round().tolist() == [[0, 0, 1, 2, 3]] * 3 + [[0, 0, 0, 3, 3], [0, 0, 0, 0, 6]]


def test_one_attempt_is_the_reward_and_all_of_them_the_best():
    assert best_of(REWARD, 1).tolist() == pytest.approx((REWARD / 5).tolist())
    assert best_of(REWARD, 5).tolist() == pytest.approx([1.0] * 5)


rewards = st.lists(st.sampled_from([0.0, 0.25, 0.3, 1.0, -2.0]) | st.floats(-3, 3), min_size=2, max_size=7)


@given(reward=rewards, data=st.data())
def test_brute_force_with_and_without_ties_in_any_order(reward, data):
    k = data.draw(st.integers(1, len(reward)))
    delta = data.draw(st.lists(st.floats(-0.5, 0.5), min_size=len(reward), max_size=len(reward)))
    assert best_of(torch.tensor(reward, dtype=F64), k).tolist() == by_force(reward, k)
    found = best_of(torch.tensor(reward, dtype=F64), k, torch.tensor(delta, dtype=F64))
    assert found.tolist() == by_force(reward, k, lambda chosen: 1 + sum(delta[j] for j in chosen))
    assert best_of(torch.tensor(reward, dtype=F64), k).sum().item() / k == pytest.approx(
        sum(max(s) for s in combinations(reward, k)) / len(list(combinations(reward, k))), abs=1e-12
    )


def test_first_order_weights_and_the_product_that_they_approximate():
    first = best_of(REWARD, 3, DELTA).tolist()
    assert first == pytest.approx([0.5089, 0.4684, 0.5008, 0.5418, 0.597])
    exact = by_force(REWARD.tolist(), 3, lambda chosen: prod(1 + DELTA[j].item() for j in chosen))
    assert pytest.approx(exact.expected, abs=1e-6) == [0.507843, 0.465534, 0.500004, 0.539550, 0.595296]
    assert best_of(REWARD, 3, 0 * DELTA).tolist() == best_of(REWARD, 3).tolist()


def test_less_the_best_of_the_others_it_is_pkpos_estimator():
    assert best_without(REWARD[None], 3)[0].tolist() == pytest.approx([0, 0, 0.03, 0.09, 0.27])


@given(reward=st.lists(st.integers(-20, 20), min_size=4, max_size=8), shift=st.floats(-5, 5))
def test_a_shift_of_all_rewards_shifts_all_alike(reward, shift):
    reward = torch.tensor(reward, dtype=F64) / 10
    torch.testing.assert_close(best_of(reward + shift, 3), best_of(reward, 3) + shift * 3 / len(reward))


def advantage(reward, **settings):
    method = MaxAtK(samples=len(reward[0]), **settings)
    return method.objective().advantage(best_of(below_best(torch.tensor(reward)), method.k))


def test_what_no_set_tells_apart_has_exactly_no_advantage():
    tied = [[0.1] * 8, [1, 1, 1, 1, 1, 1, 1, 0.3], [0.3, 0.3, 0.3, 0.7, 0.7, 0.7, 0.7, 0.7]]
    assert advantage(tied, k=4).abs().sum() == 0
    assert advantage([[0.3, 0.3, 0.3, 0.3, 0.7, 0.7, 0.7, 0.7]], k=4).abs().min() > 0


def test_with_one_attempt_it_is_grpos_advantage():
    reward = [[1.0, 0, 0, 1], [0.5, 0.5, 1, 0]]
    wanted = GRPO().objective().advantage(torch.tensor(reward))
    assert (advantage(reward, k=1) - wanted).abs().max() < 5e-3  # ε counts for more beside R/n


def test_the_estimator_is_unbiased_and_first_order_off_policy():
    """Three arms, n = 4, k = 2, all 81 samples: −∇ of E[max of 2], on the policy that drew and on one beside it."""
    value, drawn = torch.tensor([0.0, 0.5, 1.0], dtype=F64), torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    errors = []
    for shift in (torch.zeros(3, dtype=F64), torch.tensor([0.1, -0.15, 0.05], dtype=F64)):
        logits = (drawn.log() + shift).requires_grad_()
        chance = logits.softmax(-1)
        target = sum(chance[i] * chance[j] * torch.maximum(value[i], value[j]) for i in range(3) for j in range(3))
        (wanted,) = torch.autograd.grad(target, logits)
        arms = torch.tensor(list(product(range(3), repeat=4)))
        weight, score = drawn[arms].prod(1), torch.eye(3, dtype=F64)[arms] - chance.detach()
        for delta in (None, (chance.detach() / drawn)[arms] - 1):
            found = (weight[:, None, None] * best_of(value[arms], 2, delta)[..., None] * score).sum((0, 1))
            errors.append(float((found - wanted).norm() / wanted.norm()))
    assert errors[:2] == pytest.approx([0, 0], abs=1e-12)
    assert errors[3] < errors[2] / 5 and errors[2] > 0.05


def slopes(method, reward, moved):
    """Of the loss in the log-probability of completions of two tokens, the first `moved` since they were drawn."""
    one = torch.ones(reward.numel(), 2, dtype=F64)
    log_prob = -one.clone()
    log_prob[:, 0] += moved
    log_prob.requires_grad_()
    group = torch.arange(len(reward)).repeat_interleave(reward.shape[1])
    weights = method.objective().aggregation.weights(one.bool(), F64)
    batch = Batch(one.bool(), -one, torch.nan * one, weights, None, group, {"reward": reward.flatten()})
    loss, metrics = method.loss(method.objective(), batch, log_prob, torch.zeros_like(one))
    return torch.autograd.grad(loss, log_prob)[0] * reward.numel(), metrics


def test_a_later_step_weighs_the_sets_by_their_ratios_and_clips():
    reward = torch.stack([REWARD, torch.full((5,), 0.1, dtype=F64)])
    moved = torch.cat([torch.log1p(DELTA), torch.log1p(DELTA)])
    method = MaxAtK(k=3, samples=5, kl=0.0)
    found, metrics = slopes(method, reward, moved)
    wanted = method.objective().advantage(best_of(REWARD, 3, DELTA))
    torch.testing.assert_close(found, -torch.cat([wanted, 0 * wanted])[:, None].expand(10, 2))
    assert metrics["max_at_k"].item() == pytest.approx((0.86 + 0.1) / 2)
    narrow, _ = slopes(MaxAtK(k=3, samples=5, kl=0.0, clip=0.03), reward, moved)
    stopped = narrow[:5, 0] == 0
    assert stopped.tolist() == [wanted[0].item() > 0, wanted[1].item() < 0, False, wanted[3].item() > 0, False]
    assert (narrow[:5, 1] != 0).all() and stopped.any()
    plain, _ = slopes(MaxAtK(k=3, samples=5, kl=0.0, delta_max=0.0), reward, moved)
    torch.testing.assert_close(plain[:5, 1], -method.objective().advantage(best_of(REWARD, 3)))


def test_far_ratios_count_no_more_than_the_cap():
    reward = REWARD[None]
    far, near = (slopes(MaxAtK(k=2, samples=5, kl=0.0), reward, torch.tensor([x, 0, 0, 0, 0]))[0] for x in (9.0, 0.4))
    torch.testing.assert_close(far[:, 1], near[:, 1])


def test_more_attempts_than_samples_are_refused():
    with pytest.raises(UsageError, match="k=9"):
        MaxAtK(k=9)

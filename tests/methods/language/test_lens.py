"""LENS: the numbers of its card."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.envs.language import Example
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.method import Rollout
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.lens import LENS, difficulty, penalised
from surefoot.models.language.sequences import join

F64 = torch.float64
LOGITS = torch.tensor([0.0, 1.0, 0.5, -0.5], dtype=F64)
MEANS = [-0.05, -0.2, -0.5, -1.2]


def rollout(reward, means=MEANS, lengths=(3, 1, 2, 4)):
    """Completions with these mean log-probabilities, their tokens as unequal as can be; padding holds NaN."""
    reward = torch.tensor(reward).float()
    prompts, samples = reward.shape
    sequences = join([[1, 5]] * reward.numel(), [[9] * n for n in lengths] * prompts)
    log_prob = torch.where(sequences.valid, 0.0, torch.nan)
    log_prob[:, 2] = torch.tensor([m * n for m, n in zip(means, lengths)] * prompts)
    examples = [Example(f"p{i}") for i in range(prompts)]
    truncated = torch.zeros(prompts, samples, dtype=torch.bool)
    return Rollout(
        examples, torch.arange(prompts), sequences, ["9"] * reward.numel(), log_prob, reward, {"r": reward}, truncated
    )


def likelihood(correct, d):
    """J_MLE, its gradient by autograd, and the gradient with the calibrated rewards, of the softmax of `LOGITS`."""
    right = torch.tensor([float(i in correct) for i in range(4)], dtype=F64)
    logits = LOGITS.clone().requires_grad_()
    p = logits.softmax(-1)
    value = (right * p + (1 - right) * (p + d * torch.log(1 - p / d))).sum()
    (wanted,) = torch.autograd.grad(value, logits)
    p = p.detach()
    coefficient = penalised(right, p, torch.tensor(d), 1.0)
    return value.item(), wanted, coefficient, p * (coefficient - (p * coefficient).sum())


def test_one_right_arm():
    value, wanted, coefficient, found = likelihood({0}, 1.0)
    assert coefficient.tolist() == pytest.approx([1, -0.835045, -0.381224, -0.113011], abs=1e-6)
    assert found.tolist() == pytest.approx([0.222528, -0.230151, -0.014337, 0.021959], abs=1e-6)
    assert value == pytest.approx(-0.037108, abs=1e-6)
    torch.testing.assert_close(found, wanted)


def test_two_right_arms():
    value, wanted, coefficient, found = likelihood({0, 3}, 0.5)
    assert coefficient.tolist() == pytest.approx([1, -10.124518, -1.232186, 1], abs=1e-5)
    assert found.tolist() == pytest.approx([0.950585, -2.478301, 0.951157, 0.576559], abs=1e-6)
    assert value == pytest.approx(-0.606066, abs=1e-6)
    torch.testing.assert_close(found, wanted)


def test_where_all_arms_are_wrong_the_likeliest_falls():
    _, wanted, _, found = likelihood(set(), 1.0)
    torch.testing.assert_close(found, wanted)
    assert found.argmin() == LOGITS.argmax() and found.min() < 0


def test_a_group_without_a_success():
    method, one = LENS(), rollout([[0, 0, 0, 0]])
    assert method.calibrated(one)[0].tolist() == pytest.approx([-0.25, -0.188869, -0.117007, -0.047024], abs=1e-6)
    found = method.advantages(one)[0].tolist()
    assert found == pytest.approx([-0.024819, -0.009536, 0.00843, 0.025925], abs=1e-6)


@pytest.mark.parametrize(
    ("reward", "d", "wanted"),
    [
        ([1, 0, 0, 0], 3.804918, [1.498983, -0.543097, -0.502708, -0.453177]),
        ([0, 0, 0, 1], 1.902459, [-0.606638, -0.50392, -0.383171, 1.493729]),
        ([1, 1, 1, 0], 1.902459, [0.5, 0.5, 0.5, -1.5]),
    ],
)
def test_mixed_groups_with_the_mean_as_probability(reward, d, wanted):
    c = torch.tensor([MEANS], dtype=F64).exp()
    assert difficulty(torch.tensor([reward]), c, c.log()).item() == pytest.approx(d, abs=1e-6)
    found = LENS(importance="mean").advantages(rollout([reward]))
    assert found[0].tolist() == pytest.approx(wanted, abs=4e-6)  # ε of the deviation


def test_the_estimate_of_the_difficulty():
    c = torch.tensor([MEANS], dtype=F64).exp()
    low = torch.full_like(c, 0.01)
    for reward, wanted in (([0, 0, 0, 1], 1.204777), ([1, 1, 1, 0], 1.020045)):
        assert difficulty(torch.tensor([reward]), low, c.log()).item() == pytest.approx(wanted, abs=1e-6)
    assert difficulty(torch.tensor([[1, 0, 0, 0]]), low, c.log() * 4000).item() == pytest.approx(0.02)
    assert difficulty(torch.tensor([[0, 0, 0, 0]]), low, c.log()).item() == pytest.approx(0.02)


def test_the_probability_of_a_long_completion_is_no_estimate():
    long = rollout([[1, 0, 0, 0]], means=[-2.0, -2.1, -2.2, -2.3], lengths=(500, 400, 300, 200))
    raw, off = (LENS(importance=name).advantages(long) for name in ("raw", "off"))
    torch.testing.assert_close(raw, off)
    short = rollout([[1, 0, 0, 0]], lengths=(1, 1, 1, 1))
    raw, mean = (LENS(importance=name).advantages(short) for name in ("raw", "mean"))
    torch.testing.assert_close(raw, mean)


def test_without_a_penalty_it_is_grpo_and_equal_confidences_say_nothing():
    reward = [[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]
    plain = LENS(alpha=0.0, penalty=0.0).advantages(rollout(reward))
    wanted = GRPO(unbiased=True).objective().advantage(torch.tensor(reward).double())
    torch.testing.assert_close(plain, wanted, atol=2e-4, rtol=0)  # its ε is 1e-4
    assert LENS().advantages(rollout(reward, means=[-0.3] * 4))[1].abs().max() < 1e-8
    assert LENS().advantages(rollout(reward))[2].abs().max() == 0


def random_group(seed, samples=16):
    g = torch.Generator().manual_seed(seed)
    c = torch.rand(1, samples, generator=g, dtype=F64).clamp(1e-3, 0.999)
    count = int(torch.randint(1, samples, (1,), generator=g))
    return c, (torch.randperm(samples, generator=g) < count)[None].double()


@given(seed=st.integers(0, 10**6))
def test_signs_sums_and_order(seed):
    c, reward = random_group(seed)
    means = c.log()[0].tolist()
    found = LENS(importance="mean").advantages(rollout(reward.tolist(), means, [2] * 16))[0]
    right = reward[0] > 0
    assert (found[right] > 0).all() and (found[~right] < 0).all() and abs(found.sum().item()) < 1e-6
    none = LENS().advantages(rollout([[0] * 16], means, [2] * 16))[0]
    assert abs(none.sum().item()) < 1e-9 and none.abs().max() <= 0.25 / 16
    for advantage, group in ((found, ~right), (none, torch.ones(16, dtype=torch.bool))):
        order = c[0][group].argsort()
        assert (advantage[group][order].diff() <= 1e-9).all()


def test_a_larger_penalty_can_turn_a_wrong_answer_into_a_good_one():
    broken = 0
    for seed in range(100):
        c, reward = random_group(seed)
        found = LENS(penalty=1.0).advantages(rollout(reward.tolist(), c.log()[0].tolist(), [2] * 16))
        broken += bool((found[reward == 0] > 0).any())
    assert broken > 0


def test_grades_between_zero_and_one_are_compared():
    found = LENS().advantages(rollout([[0.5, 0, 0.5, 1], [0.5, 0.5, 0.5, 0.5]]))
    assert found[0].argmax() == 3 and found[0].argmin() == 1
    assert found[1].abs().max() <= 0.25 / 4 and found[1][0] < 0 < found[1][3]
    assert math.isclose(found[1].sum().item(), 0, abs_tol=1e-9)


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="must be in"):
        LENS().advantages(rollout([[1, -1, 0, 0]]))
    with pytest.raises(UsageError, match="informative"):
        LENS(informative=1.0)

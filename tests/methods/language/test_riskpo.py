"""RiskPO: the numbers of its card, and the gradient of the risk by enumeration."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.ambiguity import CVaR, MixedVaR
from surefoot.claims.language.lens import written
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.rollout import Progress
from surefoot.methods.language.riskpo import RiskPO
from surefoot.methods.language.riskpo.scores import credited, moved, tail_gain, tracked

F64 = torch.float64
RISK = MixedVaR(0.2, 0.8, 1.5)
SCORES = torch.tensor([[1.0, 2, 2, 3, 5]], dtype=F64)
NONE = torch.full((2,), torch.nan, dtype=F64)


def gain(scores, quantiles=(1.0, 4.0), risk=RISK, baseline=True):
    return tail_gain(torch.as_tensor(scores, dtype=F64)[None], torch.tensor([quantiles], dtype=F64), risk, baseline)[0]


def rollout(reward, quantiles=NONE):
    reward = torch.tensor(reward).float()
    return replace(written(reward, -torch.ones_like(reward)), progress=Progress(memory={"quantiles": quantiles}))


def method(**settings):
    return RiskPO(**{"prompts": 5, "quantiles": "bundle", "credit": "uniform", "baseline": True, **settings})


def test_the_gain_of_scores_from_none_to_all():
    assert gain(range(6), risk=replace(RISK, weight=0.0)).tolist() == pytest.approx([-5, -5, -10 / 3, -5 / 3, 0, 0])
    tail = 2.5 * gain(range(6)) - gain(range(6), risk=replace(RISK, weight=0.0))
    assert (tail / 1.5).tolist() == pytest.approx([-5, 0, 0, 0, 0, 0])
    assert gain(range(6)).tolist() == pytest.approx([-5, -2, -4 / 3, -2 / 3, 0, 0])
    assert gain(range(6), baseline=False).tolist() == pytest.approx([-3, 0, 2 / 3, 4 / 3, 2, 2])


REWARD = [[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]]  # scores 1, 2, 2, 3, 5


def test_a_bundle_with_its_own_quantiles():
    one = method()
    assert one.bundled(rollout(REWARD)).sum(1).tolist() == SCORES.tolist()
    assert one.quantiles_of(SCORES, NONE)[0].tolist() == pytest.approx([1.8, 3.4])
    raw = gain(SCORES[0], (1.8, 3.4))
    assert raw.tolist() == pytest.approx([-3.466667, -0.933333, -0.933333, -0.266667, 0], abs=1e-6)
    found = one.advantages(rollout(REWARD))
    wanted = [-2.285852, -0.615422, -0.615422, -0.175835, 0]
    for row in found.tolist():
        assert row == pytest.approx(wanted, abs=3e-6)


@given(
    scores=st.lists(st.floats(-9, 9), min_size=2, max_size=8),
    ends=st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
    shift=st.floats(-5, 5),
)
def test_a_higher_score_gains_no_less_up_to_the_upper_quantile_and_a_shift_changes_nothing(scores, ends, shift):
    low, high = sorted(ends)
    scores = sorted(scores)
    found = gain(scores, (low, high))
    assert (found.diff() >= 0).all() and (found[torch.tensor(scores, dtype=F64) >= high] == 0).all()
    torch.testing.assert_close(gain([x + shift for x in scores], (low + shift, high + shift)), found)


def test_the_limits_are_the_mean_the_range_and_the_tail():
    plain = gain(SCORES[0], (1.0, 5.0), MixedVaR(1e-12, 1.0, 0.0))
    torch.testing.assert_close(plain, SCORES[0] - 5)
    tail = gain(SCORES[0], (1.8, 3.4), replace(RISK, weight=1e9))
    torch.testing.assert_close(tail, (SCORES[0] - 1.8).clamp(max=0) / 0.2, atol=1e-6, rtol=0)
    normal = torch.distributions.Normal(torch.zeros((), dtype=F64), 1.0)
    draws = normal.icdf((torch.arange(10**5, dtype=F64) + 0.5) / 10**5)
    assert CVaR(0.2)(draws).value.item() == pytest.approx(-1.399810, abs=1e-4)
    assert MixedVaR(0.2, 0.8, 0.0)(draws).value.item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("weight", [0.0, 1.5, 6.0])
def test_it_is_the_gradient_of_the_risk(weight):
    """Five questions with a success rate each: all 32 papers, the risk of their scores and its gradient."""
    risk, papers = replace(RISK, weight=weight), torch.tensor(list(product((0.0, 1.0), repeat=5)), dtype=F64)
    logits, scores = torch.tensor([-1.0, 0.3, 0.5, 1.1, -0.2], dtype=F64).requires_grad_(), papers.sum(1)

    def chances(x):
        return torch.where(papers > 0, x.sigmoid(), 1 - x.sigmoid()).prod(1)

    chance = chances(logits)
    order = scores.argsort()
    share = chance.detach()[order].cumsum(0)
    quantiles = [scores[order][int((share < u).sum())].item() for u in (0.2, 0.8)]
    surrogate = (gain(scores, quantiles, risk) * chance).sum()
    (found,) = torch.autograd.grad(surrogate, logits)
    steps, point = 1e-5 * torch.eye(5, dtype=F64), logits.detach()
    ends = [[risk(scores, chances(point + s * h)).value.item() for s in (1, -1)] for h in steps]
    wanted = torch.tensor([(up - down) / 2e-5 for up, down in ends], dtype=F64)
    torch.testing.assert_close(found, wanted, atol=1e-8, rtol=1e-6)
    assert (found > 0).all()


def test_tracked_quantiles():
    known = torch.tensor([2.0, 2.0], dtype=F64)
    assert moved(known, SCORES, RISK, 0.1).tolist() == pytest.approx([2.0, 2.06])
    torch.testing.assert_close(tracked(NONE, SCORES, RISK), torch.tensor([1.8, 3.4], dtype=F64))
    torch.testing.assert_close(moved(NONE, SCORES, RISK, 0.1), torch.tensor([1.8, 3.4], dtype=F64))
    stream, q = torch.Generator().manual_seed(0), known
    for _ in range(3000):
        q = moved(q, torch.randn(8, 5, generator=stream, dtype=F64), RISK, 0.03)
    assert q.tolist() == pytest.approx([-0.8416, 0.8416], abs=0.1)


def test_tracked_quantiles_are_those_before_the_batch():
    known = torch.tensor([1.0, 4.0], dtype=F64)
    one, seen = method(quantiles="tracked"), rollout(REWARD, known)
    wanted = gain(SCORES[0], (1.0, 4.0)) / SCORES.std()
    torch.testing.assert_close(one.advantages(seen)[0].double(), wanted, atol=1e-6, rtol=0)
    after = one.remember(seen, None)["quantiles"]  # type: ignore[arg-type]
    assert after.tolist() == pytest.approx([1 + 0.1 * 0.2, 4 + 0.1 * (0.8 - 0.8)])
    both = method(quantiles="both").quantiles_of(SCORES, known)[0]
    assert both.tolist() == pytest.approx([1.4, 3.7])


def test_equal_scores_have_no_advantage_and_nearly_equal_ones_a_bounded_one():
    known, one = torch.tensor([4.0, 5.0], dtype=F64), method(quantiles="tracked")
    assert one.advantages(rollout([[1, 0, 1, 0, 1], [0, 1, 0, 1, 0]] + [[0] * 5] * 3, known)).abs().max() == 0
    near = one.advantages(rollout([[0.5, 0.5, 0.5, 0.5, 0.501]] * 5, known))
    assert 10 < near.abs().max() < 100


def test_credit():
    value, reward = gain(SCORES[0])[None], torch.tensor([REWARD], dtype=F64)
    uniform = credited(value, reward, "uniform")
    assert torch.equal(uniform, value[:, None].expand_as(reward))
    torch.testing.assert_close(credited(value, reward, "score"), uniform * torch.where(reward > 0, 0.5, 1.5))
    found = credited(value, reward, "deviation") / uniform
    wanted = reward.std(2, keepdim=True).expand_as(reward).clone()
    wanted[:, 0] = 1.0  # the first question is always right
    torch.testing.assert_close(found[..., :4], 1 / wanted[..., :4])
    excess = reward - reward.mean(2, keepdim=True)
    whole = excess.sum(1, keepdim=True)
    found = credited(value, reward, "share") / uniform
    torch.testing.assert_close(found[..., :4], (excess / whole).clamp(-1, 1)[..., :4])
    level = credited(value, torch.full_like(reward, 0.5), "share") / uniform
    torch.testing.assert_close(level[..., :4], torch.full_like(level, 0.2)[..., :4])


def test_papers_tell_completions_apart_where_single_questions_do_not():
    def silent(p, bundle):
        questions = torch.tensor([p, 1 - p], dtype=F64)
        chances = torch.ones(1, dtype=F64)
        for _ in range(bundle):
            chances = torch.nn.functional.conv1d(chances[None, None], questions[None, None], padding=1)[0, 0]
        return (chances**5).sum().item()

    assert [silent(p, 1) for p in (0.5, 0.9)] == pytest.approx([0.0625, 0.5905], abs=1e-4)
    assert [silent(p, 5) for p in (0.5, 0.9)] == pytest.approx([0.006147, 0.075591], abs=1e-6)


def test_single_questions_have_quantiles_0_and_1_only():
    found = method(bundle=1).quantiles_of(torch.tensor([[1.0, 1, 1, 1, 1], [1, 0, 0, 0, 0]], dtype=F64), NONE)
    assert found.tolist() == [[1, 1], [0, pytest.approx(0.2)]]
    easy = method(bundle=1).advantages(rollout([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]] * 2 + [[0] * 5]))
    assert easy[0].abs().max() == 0 and easy[4].abs().max() == 0 and (easy[1] <= 0).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prompts": 12}, "prompts=12 is not a multiple of bundle=5.*10"),
        ({"low": 0.8}, "low=0.8 is not below high=0.8"),
        ({"credit": "shares"}, "credit="),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(UsageError, match=words):
        RiskPO(**given)


def test_rewards_outside_of_zero_to_one_are_refused():
    with pytest.raises(UsageError, match="must be in"):
        method().advantages(rollout([[2, 0, 0, 0, 1]] * 5))

"""D³S: the numbers of its card, brute force over all subsets, and the base method where everything is kept."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.loops.group_rollout.rollout import Progress
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.d3s import D3S, between, highest, most_varied
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh
from surefoot.objectives import aggregation, ratios
from surefoot.objectives.advantages import group_standardized

F64 = torch.float64
REWARD = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0], [1] * 8], dtype=F64)
ADVANTAGE = group_standardized(1e-12)(REWARD).view(1, -1)


def variance(x, chosen):
    return x[chosen].var(correction=0).item()


@pytest.mark.parametrize(("count", "wanted", "low"), [(4, 2.492157, 3), (6, 1.996514, 4), (8, 1.707680, 4)])
def test_one_rare_success_and_a_balanced_group(count, wanted, low):
    assert ADVANTAGE[0, 0].item() == pytest.approx(2.645751, abs=1e-6)
    chosen = most_varied(ADVANTAGE, count)
    assert chosen.sum() == count and variance(ADVANTAGE, chosen) == pytest.approx(wanted, abs=1e-6)
    assert (ADVANTAGE[chosen] < 0).sum() == low


numbers = st.lists(st.sampled_from([0.0, 1.0, -1.0, 0.5]) | st.floats(-3, 3), min_size=2, max_size=9)


@given(drawn=numbers, data=st.data())
def test_no_subset_has_a_larger_variance(drawn, data):
    x, count = torch.tensor([drawn], dtype=F64), data.draw(st.integers(1, len(drawn)))
    best = max(variance(x[0], list(s)) for s in combinations(range(len(drawn)), count))
    chosen = most_varied(x, count)
    assert chosen.sum() == count and variance(x, chosen) == pytest.approx(best, abs=1e-9)


@given(drawn=numbers, shift=st.floats(-5, 5))
def test_neither_sign_nor_shift_changes_the_variance(drawn, shift):
    x = torch.tensor([drawn], dtype=F64)
    found = [variance(x, most_varied(y, 2)) for y in (x, -x, x + shift)]
    assert found == pytest.approx([found[0]] * 3, abs=1e-6)


def test_of_balanced_advantages_the_variance_is_not_monotone():
    x = torch.tensor([[1.0, 1, 1, -1, -1, -1]])
    assert [variance(x, most_varied(x, n)) for n in (2, 3, 4)] == pytest.approx([1, 8 / 9, 1])


@given(seed=st.integers(0, 10**6), count=st.integers(2, 8))
def test_of_a_standardised_set_it_is_at_least_one(seed, count):
    x = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed), dtype=F64)
    x = (x - x.mean()) / x.std(correction=0)
    assert variance(x, most_varied(x, count)) >= (1 if count % 2 == 0 else (count**2 - 1) / count**2) - 1e-9


def test_each_pool_has_its_own_selection():
    both = most_varied(ADVANTAGE.view(3, 8), 2)
    assert both.sum(1).tolist() == [2, 2, 2] and variance(ADVANTAGE.view(3, 8)[1], both[1]) == pytest.approx(1)


def test_zero_advantages_are_taken_last():
    x = torch.tensor([[0.0, 2, 0, 0, -1, 0]])
    assert [(x[most_varied(x, n)] == 0).sum().item() for n in (2, 3, 4)] == [0, 1, 2]
    valid = torch.tensor([[False, True, True], [True, True, False]])
    score = torch.tensor([[9.0, 0.3, 0.0], [0.0, 0.2, 9.0]])
    assert highest(score, valid, 0.5).tolist() == [[False, True, False], [False, True, False]]


@pytest.mark.parametrize(("share", "count"), [(0.2, 3), (0.21, 4), (1.0, 15), (1e-3, 1)])
def test_the_number_of_tokens_is_rounded_up_whatever_the_ties(share, count):
    valid = torch.ones(4, 4, dtype=torch.bool)
    valid[0, 0] = False
    kept = highest(torch.ones(4, 4), valid, share)
    assert kept.sum() == count and not kept[0, 0]


def test_the_schedule_is_linear_and_ends_where_it_should():
    assert [between(0.25, 0.5, s) for s in (0, 0.5, 1)] == [0.25, 0.375, 0.5]
    assert D3S().scheduled() == ["rows_last", "tokens_last"]


# --- in the loop -----------------------------------------------------------------------------------------------------

TASK = resolve("arithmetic:digits=1")
SMALL = {"prompts": 4, "samples": 4, "max_tokens": 5, "minibatches": 1}
ALL = {"rows_first": 1.0, "rows_last": 1.0, "tokens_first": 1.0, "tokens_last": 1.0}


def digits(completions, **fields):
    return [float(sum(map(ord, c)) % 5 == 0) for c in completions]


@pytest.fixture(scope="module")
def made():
    """A run, and a rollout whose entropies are known."""
    model = fresh(Nano(width=16, layers=1, heads=2, context=48, warmup=0), seed=1)
    run = LanguageLearner(D3S(**SMALL), model, TASK, make_rewards(TASK, digits, None), generate)
    rollout = run.estimator.judged(run.collect()[0])
    assert 0 < rollout.reward.mean() < 1
    return run, rollout


@dataclass(frozen=True)
class Base(GRPO):
    """GRPO with a token mean and the same ε."""

    sequence: bool = False

    def objective(self):
        ratio = ratios.sequence() if self.sequence else ratios.old()
        parts = {"advantage": group_standardized(1e-6), "aggregation": aggregation.mean(), "ratio": ratio}
        return dataclasses.replace(super().objective(), **parts)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_where_everything_is_kept_it_is_the_base_to_the_bit(made, ratio):
    run, rollout = made
    ours = run.gradient(D3S(**SMALL, **ALL, ratio=ratio).terms(rollout))
    base = run.gradient(Base(**SMALL, sequence=ratio == "sequence").terms(rollout))
    assert any(bool(x.any()) for x in base.values()) and all(torch.equal(x, base[name]) for name, x in ours.items())


def test_what_is_kept_follows_the_run(made):
    run, rollout = made
    sizes = []
    for step in (0, 50, 100):
        at = dataclasses.replace(rollout, progress=Progress(step, 100))
        (term,) = D3S(**SMALL).terms(at)
        assert term.kept[~term.sequences.valid].sum() == 0
        sizes.append((len(term.group), term.kept.sum().item() / term.sequences.valid.sum().item()))
    rows, shares = zip(*sizes, strict=True)
    assert rows == (4, 6, 8) and shares == pytest.approx((0.2, 0.35, 0.5), abs=0.06)
    (grouped,) = D3S(**SMALL, pool="group", rows_first=0.5).terms(dataclasses.replace(rollout, progress=Progress(0, 9)))
    assert grouped.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_loss_is_the_mean_over_the_kept_tokens_alone(made, ratio):
    """−∂loss/∂log π is Â·ρ over the number of kept tokens, 0 at others; the sequence ratio is that of all tokens."""
    run, rollout = made
    method = D3S(**SMALL, ratio=ratio, clip=5.0)
    (term,) = method.terms(rollout)
    batch = run.estimator.batch(term, again=True)
    moved = 0.1 * torch.randn(batch.valid.shape, generator=torch.Generator().manual_seed(0))
    log_prob = (batch.old_log_prob + moved).requires_grad_()
    loss, _ = method.loss(term.objective, batch, log_prob, torch.zeros_like(log_prob))
    (slope,) = torch.autograd.grad(loss, log_prob)
    valid = term.sequences.valid
    whole = (moved * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True)
    ratio_of = moved.exp() if ratio == "token" else whole.exp().expand_as(moved)
    wanted = -term.advantage[:, None] * ratio_of * term.kept / term.kept.sum()
    torch.testing.assert_close(slope, wanted, rtol=1e-4, atol=1e-7)
    assert slope.any() and not slope[~term.kept].any()


def test_of_the_selected_completions_the_most_decisive_tokens_are_kept(made):
    _, rollout = made
    (term,) = D3S(**SMALL).terms(rollout)
    score = term.advantage.abs()[:, None] * term.judged.entropy
    assert score[term.kept].min() >= score[term.sequences.valid & ~term.kept].max()
    advantage = D3S().objective().advantage(rollout.reward).flatten()
    assert variance(term.advantage, slice(None)) == pytest.approx(
        max(variance(advantage, list(s)) for s in combinations(range(16), 4)), abs=1e-5
    )


def test_shares_outside_their_range_are_refused():
    with pytest.raises(UsageError, match="rows_first=0"):
        D3S(rows_first=0.0)
    with pytest.raises(UsageError, match="samples=1"):
        D3S(samples=1)

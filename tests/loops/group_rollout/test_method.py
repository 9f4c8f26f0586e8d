"""The steps of a group rollout, each by hand: pieces, rows, resampling, minibatches, KL, entropy, step sizes."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.envs.language import resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.method import Batch, Term, micro_batches
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.loops.group_rollout.rollout import joined
from surefoot.methods.language.baselines import GRPO, RLOO, SFT
from surefoot.methods.language.rebel import REBEL
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh
from surefoot.models.language.sequences import join
from surefoot.objectives import PolicyObjective
from surefoot.objectives.advantages import outcome
from surefoot.objectives.aggregation import constant_length

TASK = resolve("arithmetic:digits=1")
TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)
SMALL = {"prompts": 4, "samples": 3, "max_tokens": 5}


def spread(completions, **fields):
    """A number that differs from text to text."""
    return [sum(map(ord, c)) % 17 / 17 for c in completions]


def rarely(prompts, completions, **fields):
    """Worth anything for some of the prompts only."""
    return [x if int(p[0]) < 3 else 0.0 for p, x in zip(prompts, spread(completions), strict=True)]


def learner(method, reward=spread, **settings):
    model = settings.pop("model", None) or fresh(TINY, seed=1)
    return LanguageLearner(method, model, TASK, make_rewards(TASK, reward, None), generate, **settings)


def gradient(run, terms, groups, scale=1.0):
    """Of the loss on some groups, as `step` adds it up."""
    run.optimizer = torch.optim.SGD(run.weights.values(), lr=0.0)
    again = run.method.epochs * run.method.minibatches > 1
    run.step(terms, [run.estimator.batch(term, again) for term in terms], groups, scale)
    return torch.cat([w.grad.flatten().clone() for w in run.weights.values()])


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30), tokens=st.none() | st.integers(1, 120))
def test_pieces_hold_every_row_once_and_no_more_tokens_than_allowed(lengths, tokens):
    pieces = micro_batches(torch.tensor(lengths), tokens)
    assert sorted(i for piece in pieces for i in piece.tolist()) == list(range(len(lengths)))
    for piece in pieces:
        padded = len(piece) * max(lengths[i] for i in piece.tolist())
        assert tokens is None or padded <= tokens or len(piece) == 1


def test_rows_of_a_batch_take_everything_along():
    x = torch.arange(12.0).view(3, 4)
    batch = Batch(x > 5, x, x, x, None, torch.arange(3), {"more": torch.arange(3)}, x)
    part = batch[torch.tensor([2, 0])].trimmed(2)
    assert part.old_log_prob.tolist() == [[8, 9], [0, 1]] == part.sampled.tolist()
    assert part.group.tolist() == part.extra["more"].tolist() == [2, 0] and part.reference is None


def test_prompts_of_a_rollout_take_their_rows_along():
    rollout = learner(GRPO(**SMALL)).collect()[0]
    keep = torch.tensor([False, True, False, True])
    part = rollout.prompts(keep)
    assert part.texts == rollout.texts[3:6] + rollout.texts[9:12] and part.index.tolist() == [1, 3]
    assert torch.equal(part.reward, rollout.reward[keep]) and part.examples == [rollout.examples[i] for i in (1, 3)]
    assert torch.equal(part.lengths, rollout.lengths[keep])
    for a, b in zip(rollout.prompts(~keep).log_prob.split(3), rollout.log_prob.split(3)[::2], strict=True):
        assert torch.equal(a, b[:, : a.shape[1]])
    again = joined([part, rollout.prompts(~keep)])
    assert again.texts == part.texts + rollout.prompts(~keep).texts and len(again.sequences) == 12


def test_prompts_are_sampled_again_until_enough_say_something():
    run = learner(GRPO(**SMALL, informative=1.0, resamples=50), rarely)
    rollout, row = run.collect()
    assert not rollout.degenerate.any() and len(rollout.index) == 4
    assert row["batches"] > 1 and run.drawn == 4 * row["batches"]
    assert 0 < row["degenerate"] < 1  # of all that was written
    few = learner(GRPO(**SMALL, informative=1.0, resamples=1), rarely).collect()
    assert few[1]["batches"] == 1 and len(few[0].index) == 4  # what says nothing fills up


def test_minibatches_of_a_batch_add_up_to_the_whole():
    run = learner(GRPO(**SMALL, max_grad_norm=None))
    terms = run.method.terms(run.collect()[0])
    whole = gradient(run, terms, torch.arange(4))
    parts = [gradient(run, terms, torch.tensor(chosen)) for chosen in ([0, 3], [1], [2])]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-4, atol=1e-6)
    assert whole.any()
    mean = (gradient(run, terms, torch.tensor([0, 3]), 2.0) + gradient(run, terms, torch.tensor([1, 2]), 2.0)) / 2
    torch.testing.assert_close(mean, whole, rtol=1e-4, atol=1e-6)


def test_minibatches_count_as_much_as_the_whole_batch():
    """At a step size of 0 the mean of the gradients of the two steps of GRPO is the gradient of the one step."""

    def gradients(minibatches):
        run = learner(GRPO(**SMALL, max_grad_norm=None, minibatches=minibatches))
        run.optimizer, found = torch.optim.SGD(run.weights.values(), lr=0.0), []
        run.optimizer.register_step_post_hook(
            lambda *_: found.append(torch.cat([w.grad.flatten().clone() for w in run.weights.values()]))
        )
        run.iterate()
        return found

    (whole,), halves = gradients(1), gradients(2)
    assert len(halves) == 2 and whole.any()
    torch.testing.assert_close(sum(halves) / 2, whole, rtol=1e-4, atol=1e-6)


def test_the_second_step_is_compared_with_the_model_before_the_first(monkeypatch):
    run = learner(GRPO(**SMALL, max_grad_norm=None), learning_rate=1e-2)
    assert run.method.minibatches == 2
    (term,) = run.method.terms(run.collect()[0])
    before, found, wanted, step = run.estimator.statistics(term.sequences).log_prob, [], [], run.step

    def watched(terms, batches, groups, scale):
        now = run.estimator.statistics(term.sequences).log_prob
        rows = torch.isin(term.group, groups)
        weights = scale * term.objective.aggregation.weights(term.sequences.valid)
        wanted.append(float((weights * ((now - before).exp() - 1).abs())[rows].sum()))
        found.append(step(terms, batches, groups, scale))
        return found[-1]

    monkeypatch.setattr(run, "step", watched)
    run.update([term])
    assert [row["ratio_deviation"] for row in found] == pytest.approx(wanted, abs=1e-5)
    assert wanted[0] == 0 and wanted[1] > 1e-2


def test_a_batch_that_is_informative_as_a_whole_is_enough():
    run = learner(GRPO(**SMALL, informative=1.0), lambda completions, **_: [i % 3 for i in range(len(completions))])
    rollout, row = run.collect()
    assert row["batches"] == 1 and run.drawn == 4 and not rollout.degenerate.any()


def test_the_mean_of_a_function_that_does_not_apply_everywhere_is_that_of_where_it_does():
    def some(completions, **_):
        return [2.0 if i == 1 else None if i % 2 else 0.5 for i in range(len(completions))]

    row = learner(GRPO(**SMALL), [some, spread]).collect()[1]
    assert row["reward/some"] == pytest.approx((6 * 0.5 + 2) / 7)


def test_a_minibatch_of_short_rows_whose_loss_is_no_sum_is_taken_in_pieces_too():
    sequences = join([[1, 30, 31]] * 2 + [[1, 40]] * 2, [[50, 51, 52, 2], [60, 2], [70, 71, 2], [2]])
    sums = PolicyObjective(outcome(), aggregation=constant_length(1.0))
    reward, pairs = torch.tensor([1.0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])
    term = Term(sequences, torch.ones(4), sums, pairs, extra={"reward": reward})
    found = [gradient(learner(REBEL(micro_tokens=n)), [term], torch.tensor([1])) for n in (None, 5)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
    assert found[0].any()


def test_kl_and_entropy_are_those_of_a_hand_computation():
    kl, bonus = 0.3, 0.2
    method = RLOO(**SMALL, kl=kl, entropy=bonus, max_grad_norm=None, temperature=0.7)
    run = learner(method)
    with torch.no_grad():
        for weight in run.weights.values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    rollout = run.collect()[0]
    terms = method.terms(rollout)
    found = gradient(run, terms, torch.arange(4))

    def log_probs(network):
        return (network(input_ids=rollout.sequences.tokens).logits[:, :-1] / 0.7).log_softmax(-1)

    tokens, valid = rollout.sequences.tokens[:, 1:, None], rollout.sequences.valid[:, 1:]
    log_p = log_probs(run.model.network)
    log_pi = log_p.gather(-1, tokens).squeeze(-1)
    log_reference = log_probs(run.model.reference).gather(-1, tokens).squeeze(-1).detach()
    gap = log_reference - log_pi
    reward = rollout.reward
    advantage = (reward - (reward.sum(1, keepdim=True) - reward) / 2).flatten()[:, None]
    entropy = -(log_p.exp() * log_p).sum(-1)
    each = -advantage * log_pi + kl * (gap.exp() - 1 - gap) - bonus * entropy
    loss = (each * valid).sum() / len(valid)
    wanted = torch.autograd.grad(loss, list(run.weights.values()))
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in wanted]), rtol=1e-3, atol=1e-5)


def test_the_step_size_rises_and_then_falls():
    run = learner(RLOO(**SMALL, warmup=4, anneal=True), total_steps=8, learning_rate=1e-3)
    rates = [run.iterate()[0]["learning_rate"] for _ in range(8)]
    wanted = [1e-3 * min(1, (i + 1) / 4) * (1 - i / 8) for i in range(8)]
    assert rates == pytest.approx(wanted)
    run = learner(RLOO(**SMALL), total_steps=8, learning_rate=1e-3)
    assert [run.iterate()[0]["learning_rate"] for _ in range(2)] == [1e-3, 1e-3]


def test_a_gradient_that_is_not_finite_changes_nothing():
    run = learner(RLOO(**SMALL))
    rollout = run.collect()[0]
    (term,) = run.method.terms(rollout)
    term.advantage[0] = torch.inf
    before = deepcopy(dict(run.model.network.state_dict()))
    with pytest.raises(UsageError, match="gradient of iteration 0 is not finite"):
        run.update([term])
    assert all(torch.equal(before[name], w) for name, w in run.model.network.state_dict().items())


def test_what_was_written_is_measured():
    row = learner(GRPO(**SMALL), [spread, rarely]).collect()[1]
    assert row["return_mean"] == pytest.approx(row["reward/spread"] + row["reward/rarely"])
    assert row["tokens"] == row["length"] * 12 and row["length_max"] <= 5
    assert row["best_of_group"] >= row["return_mean"] and 0 <= row["truncated"] <= 1


def test_what_was_cut_off_is_read_but_not_learned_from():
    """The gradient is that of the rows that ended, with the advantages of the whole group."""
    plain, masked = (learner(RLOO(**SMALL, mask_truncated=mask)) for mask in (False, True))
    rollout, _ = masked.collect()
    assert 0 < rollout.truncated.float().mean() < 1, "the model ends some completions and not others"
    (term,) = masked.method.terms(rollout)
    found = gradient(masked, [term], term.group.unique())
    (whole,) = plain.method.terms(rollout)
    rows = (~rollout.truncated.flatten()).nonzero().squeeze(-1)
    assert torch.allclose(found, gradient(plain, [whole[rows]], whole.group[rows].unique()), atol=1e-6)
    assert not torch.allclose(found, gradient(plain, [whole], whole.group.unique()), atol=1e-6)
    with pytest.raises(UsageError, match="mask_truncated=True has no effect: SFT writes"):
        SFT(mask_truncated=True)

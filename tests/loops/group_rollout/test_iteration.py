"""What a method may use and keep: its memory, the step, prompts of its own, held-out examples, gradients, weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

from surefoot.envs.language import resolve
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.baselines import GRPO
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh

TASK = resolve("arithmetic:digits=1")
TINY = Nano(width=16, layers=1, heads=2, context=48, warmup=0)
SMALL = {"prompts": 4, "samples": 3, "max_tokens": 5, "minibatches": 1}


def spread(completions, **fields):
    """A number that differs from text to text."""
    return [sum(map(ord, c)) % 17 / 17 for c in completions]


def learner(method, reward=spread, **settings):
    return LanguageLearner(method, fresh(TINY, seed=1), TASK, make_rewards(TASK, reward, None), generate, **settings)


@dataclass(frozen=True)
class Remembering(GRPO):
    """Advantages fall with the mean reward so far, which is remembered."""

    judges: ClassVar[bool] = True

    def memory(self, model, task):
        return {"mean": torch.zeros(()), "seen": torch.zeros((), dtype=torch.int64)}

    def advantages(self, rollout):
        return super().advantages(rollout) * (1 - rollout.progress.memory["mean"]) * (1 - rollout.progress.share)

    def remember(self, rollout, iteration):
        kept = rollout.progress.memory
        return {"mean": 0.5 * kept["mean"] + 0.5 * rollout.reward.mean(), "seen": kept["seen"] + 1}


def test_a_memory_goes_from_iteration_to_iteration_and_through_checkpoints():
    runs = [learner(Remembering(**SMALL), total_steps=4) for _ in range(2)]
    for _ in range(2):
        runs[0].iterate()
    assert int(runs[0].memory["seen"]) == 2 and 0 < float(runs[0].memory["mean"]) < 1
    runs[1].load(runs[0].state(), 2, 0)
    for run in runs:
        for _ in range(2):
            run.iterate()
    for name, x in runs[0].state().items():
        assert torch.equal(x, runs[1].state()[name]), name


def test_progress_says_where_the_run_is():
    run, found = learner(Remembering(**SMALL, warmup=2, anneal=True), total_steps=4, learning_rate=0.01), []
    for _ in range(4):
        found.append((run.progress.step, run.progress.share, run.progress.learning_rate))
        run.iterate()
    assert found == [(0, 0, 0.005), (1, 0.25, 0.0075), (2, 0.5, 0.005), (3, 0.75, 0.0025)]
    rollout, _ = run.collect()
    assert rollout.progress.step == 4 and rollout.prompts(torch.tensor([0])).progress is rollout.progress


def test_statistics_of_the_model_before_the_update_are_there_for_who_reads_them():
    run = learner(Remembering(**SMALL))
    rollout = run.estimator.judged(run.collect()[0])
    valid, judged = rollout.sequences.valid, rollout.judged
    torch.testing.assert_close(judged.log_prob[valid], rollout.log_prob[valid], rtol=1e-4, atol=1e-4)
    assert judged.entropy[valid].min() > 0 and judged.normaliser[valid].abs().min() > 0
    assert run.estimator.judged(run.collect()[0]).judged is not None
    plain = learner(GRPO(**SMALL))
    assert plain.estimator.judged(plain.collect()[0]).judged is None


@dataclass(frozen=True)
class Looking(GRPO):
    """Asks for the last hidden state and the three likeliest tokens."""

    judges: ClassVar[bool] = True

    @property
    def likeliest(self):
        return 3


@pytest.mark.parametrize("micro_tokens", [8192, 20])
def test_the_last_layer_is_shown_to_who_asks_for_candidates(micro_tokens):
    run = learner(Looking(**SMALL, temperature=0.8, micro_tokens=micro_tokens))
    rollout = run.estimator.judged(run.collect()[0])
    valid, judged = rollout.sequences.valid, rollout.judged
    weight, _, _ = run.model.head()
    log_prob = (judged.hidden[valid] @ weight.detach().T).log_softmax(-1)
    wanted = log_prob.topk(3)
    torch.testing.assert_close(judged.candidate_log_prob[valid], wanted.values, rtol=1e-4, atol=1e-4)
    assert torch.equal(judged.candidate[valid], wanted.indices)
    chosen = log_prob.gather(1, rollout.sequences.tokens[valid][:, None])[:, 0]
    torch.testing.assert_close(judged.log_prob[valid], chosen, rtol=1e-4, atol=1e-4)
    assert not judged.hidden[~valid].any() and judged.value is None
    part = rollout.prompts(torch.tensor([1])).judged
    assert part.candidate.shape == (3, rollout.sequences[torch.tensor([3, 4, 5])].tokens.shape[1], 3)
    terms = run.method.terms(rollout)
    assert any(bool(x.any()) for x in run.gradient(terms).values())


def test_rows_of_a_term_take_everything_along_and_only_kept_tokens_are_learned_from():
    run = learner(Looking(**SMALL))
    rollout = run.estimator.judged(run.collect()[0])
    (term,) = run.method.terms(rollout)
    kept = rollout.sequences.valid & (torch.rand(rollout.sequences.valid.shape) < 0.5)
    term = dataclasses.replace(term, kept=kept, extra={"row": torch.arange(12), "token": rollout.sequences.tokens})
    rows = torch.tensor([7, 2, 3])
    part = term[rows]
    width = part.sequences.tokens.shape[1]
    assert part.extra["row"].tolist() == rows.tolist() and torch.equal(part.extra["token"], part.sequences.tokens)
    for name in ("advantage", "group", "sampled", "kept"):
        whole, some = getattr(term, name), getattr(part, name)
        assert torch.equal(some, whole[rows][:, :width] if whole.ndim > 1 else whole[rows])
    assert torch.equal(part.judged.hidden, term.judged.hidden[rows, :width])
    batch = run.estimator.batch(part, again=False)
    assert torch.equal(batch.weights != 0, part.kept) and torch.equal(batch.valid, part.sequences.valid)
    only = dataclasses.replace(part, kept=None, sequences=dataclasses.replace(part.sequences, valid=part.kept))
    for name, x in run.gradient([part]).items():  # a token's own ratio does not depend on the others
        torch.testing.assert_close(x, run.gradient([only])[name], rtol=1e-4, atol=1e-6)


@dataclass(frozen=True)
class Hinting(GRPO):
    """The first two prompts are written again with the beginning of the answer."""

    def collect(self, iteration):
        rollout = super().collect(iteration)
        again = [dataclasses.replace(e, prompt=e.prompt + e.answer[:1]) for e in rollout.examples[:2]]
        assert all(map(iteration.fits, again))
        return iteration.write(rollout.index[:2], again)


def test_a_method_writes_again_with_prompts_of_its_own():
    run = learner(Hinting(**SMALL))
    rollout, row = run.collect()
    assert row["batches"] == 2 and row["tokens"] > int(rollout.lengths.sum())  # of all that was written
    own = [TASK.example(int(i)) for i in rollout.index]
    assert [e.prompt for e in rollout.examples] == [e.prompt + e.answer[:1] for e in own]
    shown = run.model.tokenizer.batch_decode([row[: int(n)].tolist() for row, n in zip(
        rollout.sequences.tokens, rollout.sequences.lengths - rollout.sequences.written, strict=True)])  # fmt: skip
    assert all(text.endswith(e.prompt) for text, e in zip(shown[::3], rollout.examples, strict=True))


def test_held_out_examples_are_answered_greedily_and_not_learned_from():
    run = learner(GRPO(**SMALL))
    first, second = Iteration(run).held_out(3), Iteration(run).held_out(3)
    assert first.texts == second.texts and first.reward.shape == (3, 1)
    assert [e.prompt for e in first.examples] == [TASK.example(i, "test").prompt for i in range(3)]
    assert not Iteration(run).written and run.drawn == 0


def test_the_gradient_of_terms_is_the_steps_and_moves_nothing():
    run = learner(GRPO(**SMALL, max_grad_norm=None))
    terms = run.method.terms(run.collect()[0])
    before = {name: w.detach().clone() for name, w in run.weights.items()}
    found = Iteration(run).gradient(terms)
    assert all(torch.equal(w, before[name]) and w.grad is None for name, w in run.weights.items())
    run.optimizer = torch.optim.SGD(run.masters.values(), lr=0.0)
    run.update(terms)
    for name, w in run.weights.items():
        torch.testing.assert_close(found[name], w.grad)
    assert any(bool(x.any()) for x in found.values())


def test_a_restart_goes_on_from_other_weights_with_a_fresh_optimiser():
    run, other = learner(GRPO(**SMALL), learning_rate=0.01), learner(GRPO(**SMALL), learning_rate=0.01)
    start = Iteration(run).weights()
    run.iterate()
    assert not all(torch.equal(w, start[name]) for name, w in run.weights.items())
    terms = other.method.terms(other.collect()[0])
    other.update(terms)
    Iteration(run).restart(start)
    run.iteration = 0
    run.update(terms)
    for name, w in run.weights.items():
        assert torch.equal(w, other.weights[name]), name


def test_a_prompt_that_is_too_long_with_its_hint_is_seen():
    example = TASK.example(0)
    longer = dataclasses.replace(example, prompt=example.prompt * 20)
    iteration = Iteration(learner(GRPO(**SMALL)))
    assert iteration.fits(example) and not iteration.fits(longer)


def test_the_weights_of_the_rewards_are_known_by_name():
    def other(completions, **fields):
        return [0.0 for _ in completions]

    made = make_rewards(TASK, [spread, other], [1.0, 0.25])
    run = LanguageLearner(GRPO(**SMALL), fresh(TINY, seed=1), TASK, made, generate)
    assert Iteration(run).reward_weights == {"spread": 1.0, "other": 0.25}
    run = LanguageLearner(GRPO(**SMALL), fresh(TINY, seed=1), TASK, make_rewards(TASK, None, None), generate)
    assert Iteration(run).reward_weights == {"reward": 1.0}

"""GHPO: the numbers of its card, which prompts are asked again and with what, and the limits in which it is GRPO."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import surefoot as sf
from surefoot.envs.language import Example, Task, resolve
from surefoot.errors import UsageError
from surefoot.loops.group_rollout.iteration import Iteration
from surefoot.loops.group_rollout.learner import LanguageLearner
from surefoot.loops.group_rollout.rewards import make_rewards
from surefoot.methods.language.baselines import GRPO
from surefoot.methods.language.ghpo import GHPO, all_wrong
from surefoot.models.language.generation import generate
from surefoot.models.language.nano import Nano, fresh
from surefoot.objectives import aggregation

TASK = resolve("arithmetic:digits=1")
TINY = Nano(width=16, layers=1, heads=2, context=64, warmup=0)
SMALL = {"prompts": 6, "samples": 4, "max_tokens": 3}
GUIDED = {**SMALL, "cold_start": 0, "hint_text": "[{hint}]"}
PLAIN = GRPO(**SMALL, minibatches=1, unbiased=True)


def never(completions, **fields):
    return [0.0] * len(completions)


def always(completions, **fields):
    return [1.0 + 0.5 * (i % 2) for i, _ in enumerate(completions)]


def long_enough(completions, prompts, **fields):
    """The prompt decides: an answer to a hint of two characters and more is right."""
    return [float("[" in prompt and len(prompt.split("[")[1]) > 2) for prompt in prompts]


def spread(completions, **fields):
    return [sum(map(ord, text)) % 17 / 17 for text in completions]


def learner(method, reward=never, weights=None, task=TASK):
    rewards = make_rewards(task, reward, weights)
    return LanguageLearner(method, fresh(TINY, seed=1), task, rewards, generate, seed=3)


def weights(run):
    return torch.cat([w.detach().flatten() for w in run.weights.values()])


@dataclasses.dataclass(frozen=True)
class Ten(Task):
    """Six problems with solutions of ten characters."""

    size: ClassVar[int | None] = 6  # type: ignore[override]

    def make(self, rng):
        return Example(f"{rng.integers(100)}=", "x", "abcdefghij")


def collected(method, reward=never, weights=None, task=TASK):
    run = learner(method, reward, weights, task)
    iteration = Iteration(run)
    return method.collect(iteration), iteration.written, run


def test_a_hint_is_a_share_of_the_characters():
    def shown(length):
        text = "x" * length
        hinted = [GHPO(hint_text="{hint}").hinted(Example("q", "", text), w) for w in (0.25, 0.5, 0.75)]
        return [len(example.prompt) - 1 for example in hinted]

    assert shown(10) == [2, 5, 8] and shown(101) == [25, 50, 76]


def test_the_hint_follows_the_question_and_nothing_else_changes():
    example = Example("3+4=", "7", "abcd", {"level": 1})
    assert GHPO().hinted(example, 0.5) == dataclasses.replace(example, prompt="3+4=\nThe answer begins like this: ab\n")
    chat = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "3+4="}]
    found = GHPO(hint_text=" ({hint})").hinted(dataclasses.replace(example, prompt=chat), 0.75)
    assert found.prompt == [chat[0], {"role": "user", "content": "3+4= (abc)"}] and chat[1]["content"] == "3+4="
    assert GHPO(hint_text="{x} {hint}").hinted(example, 0.25).prompt == "3+4={x} a"  # braces of formulas are kept


def test_the_advantage():
    reward = torch.tensor([[1.5, *[0.5] * 7]])
    found = GHPO().objective().advantage(reward)
    assert found[0, :2].tolist() == pytest.approx([2.474174, -0.353453], abs=1e-6)


def test_the_objective_is_grpos_as_a_mean_over_tokens():
    wanted = dataclasses.replace(GRPO(unbiased=True).objective(), aggregation=aggregation.mean())
    assert GHPO().objective() == wanted and (GHPO().epochs, GHPO().minibatches, GHPO().kl) == (1, 1, 0)


def test_every_stage_asks_what_is_still_all_wrong():
    rollout, written, _ = collected(GHPO(**GUIDED), never, task=Ten())
    assert [len(one.index) for one in written] == [6, 6, 6, 6]
    assert [e.prompt.split("=")[1] for e in rollout.examples] == ["[abcdefgh]"] * 6
    assert all(len(one.texts) == 4 * len(one.index) for one in written)


def test_what_is_solved_with_a_short_hint_keeps_it():
    method = GHPO(**GUIDED)
    rollout, written, run = collected(method, long_enough)
    own = [TASK.example(int(i)) for i in rollout.index]
    assert [len(one.index) for one in written] == sorted((len(one.index) for one in written), reverse=True)
    for example, first in zip(rollout.examples, own, strict=True):
        shares = [s for s in method.hints if round(s * len(first.demonstration)) >= 2]
        wanted = method.hinted(first, shares[0] if shares else method.hints[-1])
        assert example == wanted
    assert torch.equal(all_wrong(rollout), torch.tensor(["[" not in e.prompt[:-3] for e in rollout.examples]))
    row = run.iterate()[0]
    assert 0 < row["log/hint"] <= 0.75 and row["log/hinted"] == 1 and row["batches"] == len(written)


def test_completions_stay_with_the_prompt_that_they_were_written_for():
    rollout, _, run = collected(GHPO(**GUIDED), long_enough)
    sequences = rollout.sequences
    for row, (tokens, valid, length) in enumerate(zip(sequences.tokens, sequences.valid, sequences.lengths)):
        prompt, written = rollout.examples[row // 4].prompt, int(valid.sum())
        asked = run.model.encode([prompt])[0]
        assert tokens[: length - written].tolist() == asked and not valid[: length - written].any()
        assert rollout.texts[row] == run.model.decode([tokens[length - written : length].tolist()])[0]
    (term,) = run.method.terms(rollout)
    log_prob = run.model.statistics(sequences).log_prob
    torch.testing.assert_close(log_prob[term.sequences.valid], term.sampled[term.sequences.valid], rtol=1e-4, atol=1e-4)


def test_a_reward_for_the_format_does_not_hide_that_all_are_wrong():
    _, written, _ = collected(GHPO(**GUIDED), [never, spread], [1.0, 0.5])
    assert [len(one.index) for one in written] == [6] * 4 and not written[0].degenerate.any()
    _, written, _ = collected(GHPO(**GUIDED), [spread, never], [1.0, 0.5])
    assert len(written) == 1  # the first function decides what is right


@pytest.mark.parametrize(("settings", "reward"), [({"cold_start": 0}, always), ({"hints": ()}, never), ({}, never)])
def test_without_hints_it_is_grpo_to_the_bit(settings, reward):
    """All solved, no hints, or in the cold start; a second reward moves the weights."""
    mine, theirs, untouched = (learner(m, [reward, spread]) for m in (GHPO(**SMALL, **settings), PLAIN, PLAIN))
    mine.iterate()
    (term,) = PLAIN.terms(theirs.collect()[0])
    theirs.update([dataclasses.replace(term, objective=GHPO().objective())])
    assert torch.equal(weights(mine), weights(theirs)) and not torch.equal(weights(mine), weights(untouched))


def test_a_prompt_without_room_for_a_hint_is_learned_from_without_it():
    rollout, written, _ = collected(GHPO(**{**GUIDED, "hint_text": "[{hint}]" + 60 * "."}))
    assert len(written) == 1 and all("[" not in e.prompt for e in rollout.examples)


def test_hinted_rewards_are_not_taken_for_the_prompts_own():
    _, _, run = collected(GHPO(**GUIDED), long_enough, task=Ten())
    assert run.solved is not None and run.solved.mean.tolist() == [0] * 6 and run.solved.count.tolist() == [1] * 6


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hints": (0.5, 1.0)}, "hints"),
        ({"hints": (0.5, 0.25)}, "longer"),
        ({"hint_text": "look:"}, "{hint}"),
        ({"informative": 0.5}, "Must be 0"),
    ],
)
def test_bad_input_is_refused(settings, said):
    with pytest.raises(UsageError, match=said):
        GHPO(**settings)


def test_without_solutions_the_error_comes_before_anything_is_loaded():
    rows = [{"prompt": f"{i}=", "answer": "1"} for i in range(20)]
    with pytest.raises(UsageError, match='"demonstration"'):
        sf.train("ghpo", task=rows, model="no-such-folder")

"""What another engine writes is what the model would have written, and says how likely it was."""

from __future__ import annotations

import torch

from surefoot.models.language.engines import ENGINES, continuous_batching, cut
from surefoot.models.language.generation import generate
from surefoot.models.language.sequences import join

PROMPTS = [[1, 30, 31, 32], [1, 40], [1, 50, 51, 52, 53, 54]]


def numbers(seed=0):
    return torch.rand(3, 2, 8, generator=torch.Generator().manual_seed(seed))


def test_log_probabilities_are_those_that_learning_sees(tiny):
    training = tiny.network.training
    found = continuous_batching(tiny, PROMPTS, numbers(), temperature=0.7)
    assert len(found.tokens) == 6 and tiny.network.training is training
    batch = join([p for p in PROMPTS for _ in range(2)], found.tokens)
    learned = tiny.statistics(batch, temperature=0.7).log_prob[batch.valid]
    written = torch.tensor([x for row in found.log_prob for x in row])
    torch.testing.assert_close(written, learned, rtol=1e-4, atol=1e-4)


def test_the_likeliest_tokens_are_those_of_our_own(tiny):
    theirs = continuous_batching(tiny, PROMPTS, numbers(), temperature=0)
    assert theirs.tokens == generate(tiny, PROMPTS, numbers(), temperature=0).tokens


def test_the_same_numbers_give_the_same_text(tiny):
    first, again, other = (continuous_batching(tiny, PROMPTS, numbers(s), temperature=1.0) for s in (0, 0, 1))
    assert first.tokens == again.tokens != other.tokens


def test_finished_cut_off_and_stopped_are_told_apart(tiny):
    rows = [[50, 51, 2], [50, 51, 52], [50, 51, 52]]
    text = tiny.decode(rows[:1])[0]
    found = cut(tiny, [list(row) for row in rows], [[0.1, 0.2, 0.3]] * 3, ())
    assert found.finished == [True, False, False]
    found = cut(tiny, [list(row) for row in rows], [[0.1, 0.2, 0.3] for _ in rows], (text[:2],))
    assert found.finished == [True] * 3 and found.tokens == [[50, 51]] * 3 and found.log_prob == [[0.1, 0.2]] * 3


def test_it_is_an_engine_by_name():
    assert ENGINES["transformers"](None) is continuous_batching


def test_every_end_of_the_model_ends_a_completion(tiny):
    ends = [2, *range(20, 60)]  # many, so that some row meets one of the others
    tiny.base.generation_config.eos_token_id = ends
    found = continuous_batching(tiny, PROMPTS, numbers(), temperature=1.0)
    assert any(row[-1] in ends[1:] for row in found.tokens)
    for row, finished in zip(found.tokens, found.finished, strict=True):
        assert finished == (row[-1] in ends) and not {*row[:-1]} & {*ends}

"""What is written: the model's own distribution, whoever else is in the batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from surefoot.errors import UsageError
from surefoot.models.language.generation import _stopped, draw, generate, in_pieces
from surefoot.models.language.sequences import join

PROMPTS = [[1, 30, 31, 32], [1, 40], [1, 50, 51, 52, 53, 54]]


def numbers(prompts, samples, tokens, seed=0):
    return torch.rand(prompts, samples, tokens, generator=torch.Generator().manual_seed(seed))


def test_log_probabilities_are_those_that_learning_sees(tiny):
    found = generate(tiny, PROMPTS, numbers(3, 4, 12), temperature=0.7)
    batch = join([p for p in PROMPTS for _ in range(4)], found.tokens)
    learned = tiny.statistics(batch, temperature=0.7).log_prob[batch.valid]
    written = torch.tensor([x for row in found.log_prob for x in row])
    torch.testing.assert_close(written, learned, rtol=1e-5, atol=1e-5)


def test_a_sample_is_the_same_alone_and_beside_others(tiny):
    uniform = numbers(3, 4, 12)
    together = generate(tiny, PROMPTS, uniform, temperature=1.0)
    for i, prompt in enumerate(PROMPTS):
        alone = generate(tiny, [prompt], uniform[i : i + 1, 2:3], temperature=1.0)
        assert alone.tokens[0] == together.tokens[4 * i + 2]


@pytest.mark.parametrize("training", [True, False])
def test_writing_is_without_dropout_and_leaves_the_network_as_it_was(tiny, training, monkeypatch):
    seen = []

    def broken(*_):
        seen.append(tiny.network.training)
        raise RuntimeError("out of memory")

    tiny.network.train(training)
    generate(tiny, PROMPTS, numbers(3, 1, 2), temperature=1.0)
    assert tiny.network.training is training
    monkeypatch.setattr("surefoot.models.language.generation.draw", broken)
    with pytest.raises(RuntimeError, match="memory"):
        generate(tiny, PROMPTS, numbers(3, 1, 2), temperature=1.0)
    assert seen == [False] and tiny.network.training is training


def test_the_likeliest_tokens_are_those_of_transformers_generate(tiny):
    found = generate(tiny, PROMPTS, numbers(3, 1, 10), temperature=0)
    for prompt, written in zip(PROMPTS, found.tokens, strict=True):
        theirs = tiny.network.generate(
            torch.tensor([prompt]), max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=2
        )
        assert written == theirs[0, len(prompt) :].tolist()


def test_finished_and_cut_off_are_told_apart(tiny):
    with torch.no_grad():  # an end that grows likely only after a while: at random, some rows end and some do not
        tiny.network.get_output_embeddings().weight[2] *= 3
    found = generate(tiny, PROMPTS, numbers(3, 32, 12), temperature=1.5)
    assert any(found.finished) and not all(found.finished)
    for tokens, finished in zip(found.tokens, found.finished, strict=True):
        assert finished == (tokens[-1] == 2)
        assert 2 not in tokens[:-1] and (finished or len(tokens) == 12)


def test_a_stop_text_ends_a_completion(tiny):
    free = generate(tiny, PROMPTS[:1], numbers(1, 1, 12), temperature=1.0)
    text = tiny.decode(free.tokens)[0]
    stop = text[3:5]
    found = generate(tiny, PROMPTS[:1], numbers(1, 1, 12), temperature=1.0, stop=[stop])
    assert found.finished == [True]
    written = tiny.decode(found.tokens)[0]
    assert written.endswith(stop) and text.startswith(written) and stop not in written[:-1]


def test_a_stop_text_that_tokenizers_drop_at_the_beginning_is_seen():
    """Tokenizers that mark spaces drop the first one of a text: the last token alone would decode to nothing."""
    words = Tokenizer(models.WordLevel({"a": 0, "▁": 1}, unk_token="a"))
    words.decoder = decoders.Metaspace()
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=words)
    assert tokenizer.decode([1]) == ""
    written = torch.tensor([[0, 0, 1], [0, 0, 0]])
    assert _stopped(SimpleNamespace(tokenizer=tokenizer), written, [" "]).tolist() == [True, False]


def test_a_special_token_may_be_a_stop_text(tiny):
    """As the end of a turn is where another token ends a text."""
    tiny.tokenizer.add_special_tokens({"additional_special_tokens": ["c"]})
    free = generate(tiny, PROMPTS, numbers(3, 8, 12), temperature=1.0)
    found = generate(tiny, PROMPTS, numbers(3, 8, 12), temperature=1.0, stop=["c"])
    turn = tiny.tokenizer.convert_tokens_to_ids("c")
    assert any(turn in row[:-1] for row in free.tokens)
    for row, whole in zip(found.tokens, free.tokens, strict=True):
        assert row == (whole[: whole.index(turn) + 1] if turn in whole else whole)


def test_tokens_are_drawn_as_often_as_they_are_likely():
    logits = torch.tensor([0.1, 2.0, -1.0, -torch.inf]).log_softmax(-1)
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    choice, log_prob = draw(logits.expand(10_000, -1), uniform)
    share = torch.bincount(choice, minlength=4) / 10_000
    torch.testing.assert_close(share, logits.exp(), rtol=0, atol=2e-4)
    torch.testing.assert_close(log_prob, logits[choice])


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_the_ends_of_the_unit_interval_draw_possible_tokens(uniform):
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]])
    choice, log_prob = draw(logits, torch.tensor([uniform]))
    assert choice.item() in (1, 2) and torch.isfinite(log_prob).all()


def test_no_room_for_the_completion_is_said_before_writing(tiny):
    with pytest.raises(UsageError, match="has 6 tokens and max_tokens=60 .* use max_tokens=58 or shorten"):
        generate(tiny, PROMPTS, numbers(3, 1, 60), temperature=1.0)


def test_every_end_that_the_model_declares_ends_a_completion(tiny):
    ends = [2, 7, 9, 30, 41]
    free = generate(tiny, PROMPTS, numbers(3, 8, 12), temperature=1.0)
    tiny.base.generation_config.eos_token_id = ends
    assert tiny.ends == ends
    found = generate(tiny, PROMPTS, numbers(3, 8, 12), temperature=1.0)
    assert any(row[-1] in ends[1:] for row in found.tokens)
    for row, whole, finished in zip(found.tokens, free.tokens, found.finished, strict=True):
        first = next((i for i, token in enumerate(whole) if token in ends), len(whole))
        assert row == whole[: first + 1] and finished == (first < len(whole))


def test_the_ends_are_those_for_generation_and_else_those_of_the_configuration(tiny):
    tiny.base.config.eos_token_id, tiny.base.generation_config.eos_token_id = [2, 9], None
    assert tiny.ends == [2, 9]
    tiny.base.generation_config.eos_token_id = 7
    assert tiny.ends == [2, 7]


@pytest.mark.parametrize("rows", [1, 3, 8, 100])
def test_a_batch_in_pieces_is_the_same(tiny, rows):
    uniform, sizes = numbers(3, 4, 8), []

    def counted(model, prompts, uniform, **settings):
        sizes.append(len(prompts) * uniform.shape[1])
        return generate(model, prompts, uniform, **settings)

    found = in_pieces(counted, rows)(tiny, PROMPTS, uniform, temperature=0.9, stop=("a",))
    whole = generate(tiny, PROMPTS, uniform, temperature=0.9, stop=("a",))
    assert found.tokens == whole.tokens and found.finished == whole.finished
    assert max(sizes) <= rows and sum(sizes) == 12 and len(sizes) == {1: 12, 3: 6, 8: 2, 100: 1}[rows]


def test_pieces_of_no_completions_are_refused():
    with pytest.raises(UsageError, match="generation_batch=0 is not allowed"):
        in_pieces(generate, 0)


def test_the_probabilities_of_all_rows_never_exist_at_once(tiny, monkeypatch):
    sizes = []

    def counted(logits, *rest):
        sizes.append(logits.numel())
        return draw(logits, *rest)

    whole = generate(tiny, PROMPTS, numbers(3, 4, 8), temperature=1.0)
    tile = 2 * len(tiny.head()[0])
    monkeypatch.setattr("surefoot.models.language.generation.TILE", tile)
    monkeypatch.setattr("surefoot.models.language.generation.draw", counted)
    found = generate(tiny, PROMPTS, numbers(3, 4, 8), temperature=1.0)
    assert max(sizes) == tile and found.tokens == whole.tokens

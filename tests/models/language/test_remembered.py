"""Turns that are written on what is remembered of earlier ones: the same tokens and likelihoods, and less to read."""

from __future__ import annotations

import pytest
import torch

from surefoot.models.language import generation
from surefoot.models.language.generation import conversing, generate, in_pieces
from surefoot.models.language.nano import Nano, fresh
from surefoot.seeding import torch_stream

STARTS = ["a:", "what is it?", "ab"]
SAID = ["[no]", "!", "[too low, try again]", "?", "[x]", ""]


def talked(model, engine, turns=3, samples=2, limit=5, ends=()):
    """What rows write in several turns of unequal lengths; `ends` are the rows that leave after the first."""
    encode = model.encode(STARTS)
    rows, found = [list(p) for p in encode for _ in range(samples)], []
    for turn in range(turns):
        uniform = torch.rand(len(STARTS), samples, limit, generator=torch_stream(0, "talk", turn))
        if turn:
            uniform = uniform.flatten(0, 1)[[i for i in range(6) if i not in ends]][:, None]
        kept = [i for i in range(6) if not (turn and i in ends)]
        given = encode if turn == 0 else [rows[i] for i in kept]
        written = engine(model, given, uniform, temperature=1.0, stop=["e", "7"])
        found.append(written)
        for i, row in zip(kept, written.tokens, strict=True):
            said = model.tokenizer(SAID[(i + turn) % 6], add_special_tokens=False).input_ids
            rows[i] = [*rows[i], *row, *said]
    return found


@pytest.mark.parametrize("ends", [(), (1, 4)])
def test_the_same_is_written_as_without(ends):
    model = fresh(Nano(width=16, layers=2, heads=2, context=128, warmup=0), seed=1)
    pairs = zip(talked(model, conversing(generate), ends=ends), talked(model, generate, ends=ends), strict=True)
    for one, other in pairs:
        assert one.tokens == other.tokens and one.finished == other.finished
        for x, y in zip(one.log_prob, other.log_prob, strict=True):
            assert x == pytest.approx(y, abs=2e-5)


def test_only_what_is_new_is_read(monkeypatch):
    model = fresh(Nano(width=16, layers=1, heads=2, context=256, warmup=0), seed=1)
    widths = []

    def counted(base, *given, **named):
        forward = base.base_model.forward

        def looked(input_ids, **more):
            widths.append(input_ids.shape[1])
            return forward(input_ids=input_ids, **more)

        with monkeypatch.context() as patch:
            patch.setattr(base.base_model, "forward", looked)
            return read(base, *given, **named)

    read = generation.read
    monkeypatch.setattr(generation, "read", counted)
    monkeypatch.setattr("surefoot.models.language.remembered.cache_name", lambda base: "past_key_values")
    talked(model, conversing(generate))
    longest = max(len(model.tokenizer(text, add_special_tokens=False).input_ids) for text in SAID)
    assert widths[0] > longest / 2 and all(width <= 5 + longest for width in widths[1:])


def test_a_memory_that_does_not_fit_is_not_used():
    """After another model's rows, and for prompts that do not go on from them."""
    model = fresh(Nano(width=16, layers=2, heads=2, context=64, warmup=0), seed=1)
    engine, uniform = conversing(generate), torch.rand(2, 1, 4, generator=torch_stream(0, "a"))
    engine(model, model.encode(["12345", "abcde"]), uniform, temperature=1.0)
    one = engine(model, model.encode(["123", "abXde"]), uniform, temperature=1.0)
    assert one.tokens == generate(model, model.encode(["123", "abXde"]), uniform, temperature=1.0).tokens


def test_pieces_and_other_engines_are_left_as_they_are():
    engine = in_pieces(generate, 4)
    assert conversing(engine) is engine and conversing(generate) is not conversing(generate)

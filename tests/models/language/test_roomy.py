"""Keys and values with room for more: the same as those that are copied with every token."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="language models need surefoot[language]")

import transformers

from surefoot.models.language import roomy
from surefoot.models.language.generation import _remaining, generate
from surefoot.models.language.nano import Nano, fresh


def caches(rows=5, length=3):
    """A plain cache and a roomy one of the same two layers."""
    g, both = torch.Generator().manual_seed(0), []
    keys, values = (torch.randn(2, rows, 2, length, 4, generator=g) for _ in range(2))
    for _ in range(2):
        cache = transformers.DynamicCache()
        for layer in range(2):
            cache.update(keys[layer].clone(), values[layer].clone(), layer)
        both.append(cache)
    roomy.make_roomy(both[1])
    return both


def test_it_holds_what_a_plain_cache_holds():
    plain, other = caches()
    g, rows = torch.Generator().manual_seed(1), 5
    for keep, new in (([4, 1, 2], 1), ([0, 1, 2], 2), ([2, 0], 40), ([1], 1)):
        for layer in range(2):
            x, y = (torch.randn(rows, 2, new, 4, generator=g) for _ in range(2))
            for found, wanted in zip(other.update(x, y, layer), plain.update(x, y, layer), strict=True):
                assert torch.equal(found, wanted)
        for cache in (plain, other):
            cache.batch_select_indices(torch.tensor(keep))
        rows = len(keep)
        assert other.get_seq_length() == plain.get_seq_length()
        for a, b in zip(other.layers, plain.layers, strict=True):
            assert torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values)


def test_a_token_copies_nothing_while_there_is_room():
    cache = caches()[1]
    place = cache.layers[0].keys.data_ptr()
    for _ in range(roomy.LEAST):
        cache.update(torch.zeros(5, 2, 1, 4), torch.zeros(5, 2, 1, 4), 0)
        assert cache.layers[0].keys.data_ptr() == place
    cache.update(torch.zeros(5, 2, 1, 4), torch.zeros(5, 2, 1, 4), 0)
    assert cache.layers[0].keys.data_ptr() != place


def test_layers_with_a_window_stay_as_they_are():
    layer = transformers.cache_utils.DynamicSlidingWindowLayer(sliding_window=4)
    cache = transformers.DynamicCache()
    cache.layers = [layer, transformers.cache_utils.DynamicLayer()]  # the second was not read: it has no keys
    roomy.make_roomy(cache)
    assert cache.layers[0] is layer and type(cache.layers[1]) is transformers.cache_utils.DynamicLayer


@pytest.mark.parametrize("done", ["0100110", "1110000", "0000111", "0000000", "1111110"])
def test_the_last_rows_take_the_places_of_those_that_are_done(done):
    flags = torch.tensor([int(x) for x in done], dtype=torch.bool)
    rows = _remaining(flags).tolist()
    assert sorted(rows) == (~flags).nonzero().squeeze(-1).tolist()
    assert all(row == place or flags[place] for place, row in enumerate(rows))


def test_the_same_is_written_as_on_a_plain_cache(monkeypatch):
    model = fresh(Nano(width=16, layers=2, heads=2, context=128, warmup=0), seed=1)
    uniform = torch.rand(3, 4, 40, generator=torch.Generator().manual_seed(0))
    prompts = model.encode(["a:", "what is it?", "ab"])
    mine = generate(model, prompts, uniform, temperature=1.0, stop=["e", "7"])
    monkeypatch.setattr(roomy, "make_roomy", lambda cache: None)
    theirs = generate(model, prompts, uniform, temperature=1.0, stop=["e", "7"])
    assert mine.tokens == theirs.tokens and mine.finished == theirs.finished
    assert len({len(row) for row in mine.tokens}) > 3
    assert sum(mine.log_prob, []) == pytest.approx(sum(theirs.log_prob, []), abs=1e-5)

"""Rows that are read as trees, side by side: the same states and gradients as from every row as a whole."""

from __future__ import annotations

import pytest
import torch
import transformers

from surefoot.models.language.nano import Nano, fresh
from surefoot.models.language.packing import LONGEST, SUITED, Tree, packs, placed, trees
from surefoot.models.language.sequences import Sequences, join
from surefoot.models.language.states import written_states

PROMPTS = [[1, 5, 6], [1, 5, 6], [1, 7, 8, 9, 10], [1, 7, 8, 9, 10]]
ANSWERS = [[11, 12, 13, 2], [11, 12, 14, 15, 2], [20, 2], [21, 22, 23, 2]]
SIZES = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}


def network(kind: str, **more):
    config = transformers.AutoConfig.for_model(kind, **SIZES, num_key_value_heads=1, **more)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).double().eval()


def alone(model, batch: Sequences):
    """The states before the valid tokens, of every row by itself."""
    found = []
    for tokens, valid, length in zip(batch.tokens, batch.valid, batch.lengths, strict=True):
        hidden = model.base_model(input_ids=tokens[None, : int(length) - 1], use_cache=False).last_hidden_state[0]
        found.append(hidden[valid[1 : int(length)]])
    return torch.cat(found)


@pytest.mark.parametrize("kind", SUITED)
@pytest.mark.parametrize("holes", (False, True))
def test_the_states_and_gradients_are_those_of_every_row_alone(kind, holes):
    model, batch = network(kind, **({"sliding_window": None} if kind == "mistral" else {})), join(PROMPTS, ANSWERS)
    if holes:  # such as what an environment said between two turns
        batch.valid[3, 6] = False
    assert packs(model)
    found, wanted = written_states(model, batch.tokens, batch.valid), alone(model, batch)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    pull, weights = torch.randn(found.shape, dtype=found.dtype), list(model.base_model.parameters())
    for one, other in zip(*(torch.autograd.grad((x * pull).sum(), weights) for x in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)  # some layers round to float32


def test_a_tree_has_every_token_once_and_after_its_parent():
    batch = join(PROMPTS, ANSWERS)
    first, second = trees(batch.tokens, batch.valid, [2, 2, 4, 4], [0, 1, 2, 3])
    assert first.tokens == [1, 5, 6, 11, 12, 13, 14, 15] and first.parent == [-1, 0, 1, 2, 3, 4, 4, 6]
    assert first.seen == {0: [2, 3, 4, 5], 1: [2, 3, 4, 6, 7]}
    assert second.tokens == [1, 7, 8, 9, 10, 20, 21, 22, 23] and second.seen == {2: [4, 5], 3: [4, 6, 7, 8]}
    assert Tree([1, 2, 3], [-1, 0, 0], {}).visible().tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]


def test_pieces_are_laid_where_there_is_room():
    assert placed([3, 6, 4, 5], 10) == ([1, 0, 0, 1], [5, 0, 6, 0], [10, 8])


@pytest.mark.parametrize("more", ({"sliding_window": 4}, {"sliding_window": 4096}))
def test_windows_and_other_architectures_are_read_as_before(more):
    assert not packs(network("mistral", **more))
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    assert packs(network("qwen2")) and not packs(network("qwen2", **window))
    assert not packs(transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1)))


def test_long_rows_are_read_as_before(monkeypatch):
    """Where a mask would be large."""
    model = fresh(Nano(width=16, layers=1, heads=2))
    long = join([[5] * LONGEST] * 2, ANSWERS[:2])
    monkeypatch.setattr("surefoot.models.language.states.packed_states", None)
    torch.testing.assert_close(
        written_states(model.network, long.tokens, long.valid), alone(model.network, long), rtol=1e-4, atol=1e-5
    )

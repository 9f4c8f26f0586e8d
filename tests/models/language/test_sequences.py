"""Padding is made in one place and means nothing."""

from __future__ import annotations

import pytest
import torch

from surefoot.errors import UsageError
from surefoot.models.language.sequences import concatenate, join, left_padded


def test_what_is_learned_from_is_what_was_written():
    found = join([[5, 6], [7]], [[8], [9, 10, 11]])
    assert found.tokens.tolist() == [[5, 6, 8, 0], [7, 9, 10, 11]]
    assert found.valid.tolist() == [[False, False, True, False], [False, True, True, True]]
    assert found.lengths.tolist() == [3, 4] and found.written.tolist() == [1, 3]


def test_rows_are_cut_to_what_they_need_and_padded_when_put_together():
    found = join([[5, 6], [7]], [[8], [9, 10, 11]])
    first = found[torch.tensor([0])]
    assert first.tokens.tolist() == [[5, 6, 8]]
    both = concatenate([first, found[torch.tensor([1])]])
    assert torch.equal(both.tokens, found.tokens) and torch.equal(both.valid, found.valid)


def test_prompts_end_together_for_generation():
    tokens, seen = left_padded([[1, 2, 3], [4]])
    assert tokens.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert seen.tolist() == [[True] * 3, [False, False, True]]


def test_a_prompt_without_a_token_is_named():
    with pytest.raises(UsageError, match="prompt 1 has no token"):
        join([[1], []], [[2], [3]])

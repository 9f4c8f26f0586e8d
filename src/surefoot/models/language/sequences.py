"""Token sequences: prompts and completions, and their padding.

For training, sequences are padded on the right: a causal model does not attend there, so no attention mask is needed.
For generation, prompts are padded on the left. Every per-token tensor is `[batch, length]` and aligned with the token
that it describes: the log-probability at position t is that of token t given those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from surefoot.errors import UsageError


@dataclass(frozen=True)
class Sequences:
    """`tokens` `[batch, length]`, padded on the right, and `valid`, True at the tokens to learn from."""

    tokens: Int[Tensor, "batch length"]
    valid: Bool[Tensor, "batch length"]
    lengths: Int[Tensor, " batch"]  # tokens of prompt and completion together

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Tensor | slice) -> Sequences:
        """Some rows, trimmed to the longest of them."""
        lengths = self.lengths[rows]
        longest = int(lengths.max()) if len(lengths) else 0
        return Sequences(self.tokens[rows, :longest], self.valid[rows, :longest], lengths)

    @property
    def written(self) -> Int[Tensor, " batch"]:
        """The number of valid tokens in each row."""
        return self.valid.sum(-1)


def join(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Sequences:
    """Prompts joined with their completions, which are the valid tokens.

    Raises:
        UsageError: a prompt has no token, so the first token of its completion would have no predecessor.
    """
    if empty := [i for i, prompt in enumerate(prompts) if not len(prompt)]:
        raise UsageError(f"prompt {empty[0]} has no token ({len(empty)} have none); give it at least one character.")
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    starts = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int64)
    longest = int(lengths.max()) if rows else 0
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    place = torch.arange(longest)
    valid = (place >= starts[:, None]) & (place < lengths[:, None])
    return Sequences(tokens, valid, lengths)


def ended(rows: Sequence[Sequence[int]]) -> Sequences:
    """Whole texts as tokens, each with one place after its end, which is valid: the state before it is that of the
    whole text, which a reward model scores."""
    return join(rows, [[0] for _ in rows])


def concatenate(parts: Sequence[Sequences]) -> Sequences:
    """The rows of all parts, padded to the longest."""
    longest = max(part.tokens.shape[1] for part in parts)

    def padded(x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, longest - x.shape[1]))

    return Sequences(
        torch.cat([padded(part.tokens) for part in parts]),
        torch.cat([padded(part.valid) for part in parts]),
        torch.cat([part.lengths for part in parts]),
    )


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
    """Prompts that all end at the last column, and the mask of their tokens."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64)
    for i, prompt in enumerate(prompts):
        tokens[i, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.int64)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    return tokens, torch.arange(longest) >= longest - lengths[:, None]

"""Short rows read without padding and without reading anything twice.

The rows of a prompt are a tree: they have the prompt in common, and maybe the beginnings of their completions. A token
sees those above it in its tree, and has the position that it has in its row. Whole trees are laid side by side in rows
of about the same length. The result is the same as from reading every row as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Decoders of transformers in which a token knows no more of the others than the mask and the positions say.
SUITED = ("llama", "mistral", "qwen2", "qwen3")
LONGEST = 256  # tokens of a tree: a mask has as many numbers as the square of a row's length
USUAL = 96  # tokens of a row of several trees, of which a token sees only its own


@dataclass(frozen=True)
class Tree:
    """The tokens of some rows that begin alike, every one once, after its parent."""

    tokens: list[int]
    parent: list[int]  # −1 of the first one
    seen: dict[int, list[int]]  # by row: the nodes before its valid tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def visible(self) -> Bool[np.ndarray, "tokens tokens"]:
        """Whether the first token sees the second one: itself, and those above it."""
        found = np.eye(len(self), dtype=bool)
        for node, above in enumerate(self.parent):
            if above >= 0:
                found[node] |= found[above]
        return found


def packs(network: Any) -> bool:
    """Whether a network reads trees as it reads rows."""
    config = network.config
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if not hasattr(config, "layer_types") else None
    own = type(network).__module__.startswith("transformers.models.") and config.model_type in SUITED
    return own and layers == {"full_attention"} and window is None and config._attn_implementation in ("eager", "sdpa")


def trees(
    tokens: Int[Tensor, "batch length"], valid: Bool[Tensor, "batch length"], first: Sequence[int], rows: list[int]
) -> list[Tree]:
    """The trees of these rows: a prompt, which ends at `first`, is the trunk of one. The last token of a row is not
    read."""
    found: dict[tuple[int, ...], tuple[Tree, dict[tuple[int, int], int]]] = {}
    each = zip(rows, first, tokens[rows].tolist(), valid[rows].tolist(), strict=True)
    for row, start, mine, learned in each:
        prompt = tuple(mine[: start + 1])
        if prompt not in found:
            found[prompt] = Tree(list(prompt), list(range(-1, start)), {}), {}
        tree, branches = found[prompt]
        node, seen = start, [start]
        last = len(learned) - 1 - learned[::-1].index(True)
        for place in range(start + 1, last):
            step = (node, mine[place])
            if step not in branches:
                branches[step] = len(tree.tokens)
                tree.tokens.append(mine[place])
                tree.parent.append(node)
            node = branches[step]
            if learned[place + 1]:
                seen.append(node)
        tree.seen[row] = seen
    return [tree for tree, _ in found.values()]


def placed(sizes: Sequence[int], width: int) -> tuple[list[int], list[int], list[int]]:
    """The row and the beginning of each piece, the largest ones first, each in the first row with room for it, and the
    lengths of the rows."""
    row, begin, filled = [0] * len(sizes), [0] * len(sizes), list[int]()
    for piece in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        row[piece] = next((i for i, n in enumerate(filled) if n + sizes[piece] <= width), len(filled))
        filled += [0] if row[piece] == len(filled) else []
        begin[piece] = filled[row[piece]]
        filled[row[piece]] += sizes[piece]
    return row, begin, filled


def packed_states(network: Any, found: Sequence[Tree], device: torch.device) -> Float[Tensor, "written width"]:
    """The last hidden state before every valid token of the trees' rows, row by row."""
    rows, begins, filled = placed([len(tree) for tree in found], max(USUAL, *map(len, found)))
    width = max(filled)
    ids, position = (np.zeros((len(filled), width), np.int64) for _ in range(2))
    mask = np.broadcast_to(np.eye(width, dtype=bool), (len(filled), width, width)).copy()  # fillers see themselves
    where: dict[int, list[int]] = {}
    for tree, row, begin in zip(found, rows, begins, strict=True):
        visible, here = tree.visible(), slice(begin, begin + len(tree))
        ids[row, here], position[row, here], mask[row, here, here] = tree.tokens, visible.sum(1) - 1, visible
        where |= {one: [row * width + begin + node for node in seen] for one, seen in tree.seen.items()}
    given = {"input_ids": ids, "position_ids": position, "attention_mask": mask[:, None]}
    moved = {name: torch.from_numpy(x).to(device) for name, x in given.items()}
    hidden = network.base_model(**moved, use_cache=False).last_hidden_state
    index = torch.tensor([node for row in sorted(where) for node in where[row]], device=device)
    return hidden.flatten(0, 1)[index]

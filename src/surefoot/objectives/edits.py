"""Edit distances of every beginning of a sequence, and rewards for how much each token brings it down.

    r_t = D_{t−1} − D_t,   D_t = distance of the first t tokens to the target, D_0 = its length

so that the rewards of a sequence add up to the target's length less its distance (Levenshtein's: insertions, deletions
and replacements cost 1 each).
"""

from __future__ import annotations

import torch
from torch import Tensor


def distances(tokens: Tensor, target: Tensor, length: Tensor) -> Tensor:
    """D `[batch, T + 1]` of tokens `[batch, T]` and targets `[batch, L]`, of which the first `length [batch]` count."""
    place = torch.arange(target.shape[1] + 1)
    row = place.expand(len(target), -1)  # distances of no tokens to the beginnings of the target
    end, found = length[:, None], [row]
    for t in range(tokens.shape[1]):
        replaced = row[:, :-1] + (tokens[:, t, None] != target)
        row = torch.cat([row[:, :1] + 1, torch.minimum(row[:, 1:] + 1, replaced)], 1)
        row = (row - place).cummin(1).values + place  # what is missing of the target is added
        found.append(row)
    return torch.cat([row.gather(1, end) for row in found], 1)


def increments(tokens: Tensor, count: Tensor, target: Tensor, length: Tensor) -> Tensor:
    """Rewards r `[batch, T]`, of which the first `count [batch]` tokens have some: 1, 0 or −1 each."""
    reached = distances(tokens, target, length)
    within = torch.arange(tokens.shape[1]) < count[:, None]
    return (reached[:, :-1] - reached[:, 1:]) * within

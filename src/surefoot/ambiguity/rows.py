"""Many rows in blocks, so that a set's intermediate results stay in cache.

A row is one nominal distribution with its values. Every set solves each row separately, so the block size changes time
and memory, not the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from surefoot.ambiguity.contract import Problem, Solution
from surefoot.ambiguity.shared import solve_shared

BLOCK = 1 << 17  # probabilities per block: a set allocates some ten arrays of this size, 1 MB each


def in_blocks(values: Tensor, nominal: Tensor, ambiguity: Problem, strength: Tensor | None) -> bool:
    """Whether there are enough rows for blocks to pay off, and whether all inputs can be split into blocks."""
    given = [x for x in (values, nominal, strength) if x is not None]
    leading = torch.broadcast_shapes(*(x.shape[:-1] for x in given))
    whole = all(x.shape[:-1] in (leading, (1,) * len(leading)) for x in given)
    return whole and ambiguity.same_for_all_rows and leading.numel() * nominal.shape[-1] > BLOCK


def solve_rows(ambiguity: Problem, values: Tensor, nominal: Tensor, strength: Tensor | None) -> Solution:
    """`ambiguity.solve` for rows that `in_blocks` allows to be split."""
    leading = torch.broadcast_shapes(*(x.shape[:-1] for x in (values, nominal, strength) if x is not None))
    rows = tuple(_flat(x) for x in (values, nominal, strength))

    def distribution() -> Tensor:
        made = torch.cat([one.distribution().expand(*one.value.shape, -1) for one in _blocks(ambiguity, *rows)])
        return made.reshape(*leading, made.shape[-1])

    return Solution(_value(ambiguity, *rows).reshape(leading), distribution)


def _value(ambiguity: Problem, values: Tensor, nominal: Tensor, strength: Tensor | None) -> Tensor:
    if len(values) > 1 or len(nominal) == 1:
        return torch.cat([one.value for one in _blocks(ambiguity, values, nominal, strength)])
    value, left = solve_shared(values[0], nominal, ambiguity, strength)
    if len(left):
        few = strength if strength is None or len(strength) == 1 else strength[left]
        value[left] = torch.cat([one.value for one in _blocks(ambiguity, values, nominal[left], few)])
    return value


def _blocks(ambiguity: Problem, values: Tensor, nominal: Tensor, strength: Tensor | None) -> Iterator[Solution]:
    count = max(len(x) for x in (values, nominal, strength) if x is not None)
    size = max(1, BLOCK // nominal.shape[-1])

    def cut(x: Tensor, first: int) -> Tensor:
        return x if len(x) == 1 else x[first : first + size]

    for first in range(0, count, size):
        own = None if strength is None else cut(strength, first)
        yield ambiguity.solve(cut(values, first), cut(nominal, first), own)


def _flat(x: Any) -> Any:
    return x if x is None else x.reshape(-1, x.shape[-1])

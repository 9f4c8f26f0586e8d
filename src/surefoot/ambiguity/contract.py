"""The interface between the operator and ambiguity sets, so that neither has to import the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray
T = TypeVar("T", Tensor, np.ndarray)


class Solution(NamedTuple):
    """The minimum value `[...]` over a set, and a function that makes the distribution `[..., n]` that attains it."""

    value: Tensor
    distribution: Callable[[], Tensor]


NO_OUTCOMES = torch.arange(0)


class Plan(NamedTuple):
    """How a set solves many rows that share their values, reading the nominal once.

    columns: `[n, m]`, the factors by which every row is multiplied. finish: (products `[R, m]`, probabilities `[R, w]`
    of the `outcomes` `[w]`, strength `[R, 1]` or `[1, 1]` or None) -> the least values `[R]`, and in which rows `[R]`
    they are certain to be right.
    """

    columns: Tensor
    finish: Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
    outcomes: Tensor = NO_OUTCOMES


class Problem:
    """One problem: minimise `q·values` over the distributions q that a set allows, for a batch of rows."""

    @property
    def strength(self) -> float | Array | None:
        """The radius or penalty, if any, which may be a tensor over the leading axes."""
        return None

    @property
    def parts(self) -> tuple[Problem, ...]:
        """The sets that it consists of: itself, unless it mixes others."""
        return (self,)

    @property
    def outcomes(self) -> int | None:
        """The number of outcomes of the set, if it has arrays over outcomes."""
        return None

    @property
    def leading(self) -> torch.Size:
        """The leading axes of its arrays except its strength; they broadcast with those of the rows."""
        return torch.Size()

    @property
    def same_for_all_rows(self) -> bool:
        """Whether the set is the same for all leading axes except for its strength; False if arrays have such axes."""
        return not self.leading

    @property
    def priced(self) -> bool:
        """Whether the strength is the price of a unit of divergence, in which the value has a gradient."""
        return False

    def check_strength(self, strength: Tensor) -> None:
        """Raise `UsageError` unless every entry of a tensor of strengths is in its range."""

    def solve(self, values: Tensor, nominal: Tensor, strength: Tensor | None) -> Solution:
        """The minimum of q·values (plus the penalty, if there is one). The tensors are float64 and checked.

        values: `[..., n]`; nominal: `[..., n]`; strength: `[..., 1]`. They broadcast and have equally many axes.
        """
        raise NotImplementedError

    def plan(self, values: Tensor, sample: Tensor, strength: Tensor | None) -> Plan | None:
        """How to solve many rows that share the values `[n]`, which are not all equal; None: each by `solve`.

        sample: `[s, n]`, some of the rows; strength: theirs `[s, 1]`, or `[1, 1]` where all rows have the same.
        """
        return None

"""Many rows that share one vector of values: the sweep of a robust Bellman operator over a dense kernel.

A nominal sweep is one product of the kernel with the values, and takes as long as the kernel takes to be read. Most
sets need little more: products of the same kernel with a few columns made from the values, read once for all of them,
and then some work on each row that no longer grows with its length. What columns these are is the set's `plan`; it
looks at a sample of the rows, so as to spend its columns where the rows need them. Rows of which the plan is not
certain are left to the general way.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity.contract import Plan, Problem

SAMPLE = 32  # rows that a plan looks at
FEWEST = 512  # rows for which a plan pays
NEAR = 1 << 16  # probabilities that stay in the nearest cache: what is read twice is read so many at a time
SLICE = 1 << 18  # numbers that a plan has of the rows that it finishes together: what it makes of them stays in cache
ROUNDS = 4  # plans for the rows that are left
LOWEST = 16  # outcomes among which the lowest of a row is looked for


def solve_shared(values: Tensor, nominal: Tensor, ambiguity: Problem, strength: Tensor | None) -> tuple[Tensor, Tensor]:
    """The least values `[R]` of rows `[R, n]` that share their values `[n]`, and the rows (indices) that are left.

    strength: `[R, 1]` or `[1, 1]` or None.
    """
    value = values[0].repeat(len(nominal))
    if bool((values == values[0]).all()):
        return value, torch.arange(0, device=value.device)
    left = torch.arange(len(nominal), device=nominal.device)
    for _ in range(ROUNDS):
        if len(left) < FEWEST:
            break
        rows = nominal if len(left) == len(nominal) else nominal[left]
        mine = strength if strength is None or len(strength) == 1 else strength[left]
        seen = torch.linspace(0, len(left) - 1, SAMPLE, device=nominal.device).long()
        plan = ambiguity.plan(values, rows[seen], mine if mine is None or len(mine) == 1 else mine[seen])
        if plan is None:
            break
        found, certain = _carried_out(plan, rows, mine)
        value[left[certain]] = found[certain]
        solved, left = int(certain.sum()), left[~certain]
        if 4 * solved < len(certain):
            break
    return value, left


def _carried_out(plan: Plan, nominal: Tensor, strength: Tensor | None) -> tuple[Tensor, Tensor]:
    """The plan on all rows, on so many at a time that what it looks up of them stays in cache."""
    size = max(64, SLICE // (len(plan.outcomes) + plan.columns.shape[-1]))
    own = repeat(strength) if strength is None or len(strength) == 1 else strength.split(size)
    found = [
        plan.finish(*looked_up(rows, plan.columns, plan.outcomes), mine) for rows, mine in zip(nominal.split(size), own)
    ]
    values, certain = zip(*found)
    return torch.cat(values), torch.cat(certain)


def looked_up(nominal: Tensor, columns: Tensor, outcomes: Tensor) -> tuple[Tensor, Tensor]:
    """nominal `[R, n]` @ columns `[n, m]`, and nominal`[:, outcomes]`, by as many threads as torch uses.

    All is done with a few rows before the next ones are read. Only the product with one column reads memory as fast as
    it can be read, so that one comes first, and what follows finds the rows in cache.
    """
    if nominal.is_cuda:
        return nominal @ columns, nominal[:, outcomes.to(nominal.device)]
    count, (n, m) = len(nominal), columns.shape
    rows, right, where = nominal.numpy(), np.ascontiguousarray(columns.T.numpy()), outcomes.numpy()
    products, probabilities = np.empty((m, count)), np.empty((count, len(where)))
    alone = m if m <= 4 else 1  # more columns are faster together
    size = max(1, NEAR // n)

    def work(start: int, end: int) -> None:
        for first in range(start, end, size):
            few = slice(first, min(first + size, end))
            for i in range(alone):
                np.dot(rows[few], right[i], out=products[i, few])
            if alone < m:
                products[alone:, few] = right[alone:] @ rows[few].T
            if len(where):
                np.take(rows[few], where, axis=1, out=probabilities[few], mode="clip")  # clip: or it makes a copy

    threads = torch.get_num_threads()
    if threads == 1:
        work(0, count)
    else:
        ends = [count * i // threads for i in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, ends[:-1], ends[1:]))
    return torch.from_numpy(products).T, torch.from_numpy(probabilities)


def mean_plan(values: Tensor) -> Plan:
    """For a set that does no harm."""

    def finish(means: Tensor, _: Tensor, strength: Tensor | None) -> tuple[Tensor, Tensor]:
        return means[:, 0], torch.ones(len(means), dtype=torch.bool)

    return Plan(values[:, None], finish)


def lowest_outcomes(values: Tensor, support: str) -> Tensor:
    """The outcomes of which one is nearly always the lowest that a row may have; none where all may have all."""
    return values.topk(min(LOWEST, len(values)) if support == "nominal" else 0, largest=False, sorted=True).indices


def lowest_of_rows(values: Tensor, lowest: Tensor, probabilities: Tensor) -> Tensor:
    """The lowest value `[R, 1]` that each row may have, by its probabilities of the `lowest` outcomes, NaN if it is
    none of them; `[1, 1]` for all rows where there are none."""
    if not len(lowest):
        return values.min().reshape(1, 1)
    reached = probabilities > 0
    least = values[lowest][reached.byte().argmax(-1)]
    return torch.where(reached.any(-1), least, torch.nan)[:, None]

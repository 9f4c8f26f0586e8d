"""Many rows that share one vector of values: the sweep of a robust Bellman operator over a dense kernel.

A nominal sweep is one product of the kernel with the values, and takes as long as reading the kernel. Most sets need
little more: products of the same kernel with a few columns made from the values, read once for all of them, and then
some work per row that does not depend on its length. The columns are the set's `plan`, which uses a sample of the rows
to choose them. Rows for which the plan is not certain are left to the general solver.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from surefoot.ambiguity.contract import Plan, Problem

SAMPLE = 32  # rows in the sample of a plan
FEWEST = 512  # minimum number of rows for which a plan pays off
NEAR = 1 << 16  # probabilities that stay in the nearest cache, per block of data that is read twice
SLICE = 1 << 18  # numbers of the rows that a plan finishes together, so that its results stay in cache
ROUNDS = 4  # maximum number of plans for the remaining rows
LOWEST = 16  # outcomes among which the lowest of a row is searched


def solve_shared(values: Tensor, nominal: Tensor, ambiguity: Problem, strength: Tensor | None) -> tuple[Tensor, Tensor]:
    """The minimum values `[R]` of rows `[R, n]` that share their values `[n]`, and the remaining rows (indices).

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
    """The plan on all rows, in blocks whose looked-up probabilities stay in cache."""
    size = max(64, SLICE // (len(plan.outcomes) + plan.columns.shape[-1]))
    own = repeat(strength) if strength is None or len(strength) == 1 else strength.split(size)
    found = [
        plan.finish(*looked_up(rows, plan.columns, plan.outcomes), mine) for rows, mine in zip(nominal.split(size), own)
    ]
    values, certain = zip(*found)
    return torch.cat(values), torch.cat(certain)


def looked_up(nominal: Tensor, columns: Tensor, outcomes: Tensor) -> tuple[Tensor, Tensor]:
    """nominal `[R, n]` @ columns `[n, m]`, and nominal`[:, outcomes]`, by as many threads as torch uses.

    A few rows are finished before the next ones are read. Only the product with one column reads memory at full speed,
    so it comes first, and the rest finds the rows in cache.
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
                np.take(rows[few], where, axis=1, out=probabilities[few], mode="clip")  # clip avoids a copy

    threads = torch.get_num_threads()
    if threads == 1:
        work(0, count)
    else:
        ends = [count * i // threads for i in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, ends[:-1], ends[1:]))
    return torch.from_numpy(products).T, torch.from_numpy(probabilities)


def mean_plan(values: Tensor) -> Plan:
    """The plan of a set that consists of the nominal alone."""

    def finish(means: Tensor, _: Tensor, strength: Tensor | None) -> tuple[Tensor, Tensor]:
        return means[:, 0], torch.ones(len(means), dtype=torch.bool)

    return Plan(values[:, None], finish)


def lowest_outcomes(values: Tensor, support: str) -> Tensor:
    """The outcomes among which the lowest allowed one of nearly every row is; none if all rows allow all outcomes."""
    return values.topk(min(LOWEST, len(values)) if support == "nominal" else 0, largest=False, sorted=True).indices


def lowest_of_rows(values: Tensor, lowest: Tensor, probabilities: Tensor) -> Tensor:
    """The lowest allowed value `[R, 1]` of each row, from its probabilities of the `lowest` outcomes, NaN if it is not
    among them; `[1, 1]` for all rows if there are none."""
    if not len(lowest):
        return values.min().reshape(1, 1)
    reached = probabilities > 0
    least = values[lowest][reached.byte().argmax(-1)]
    return torch.where(reached.any(-1), least, torch.nan)[:, None]

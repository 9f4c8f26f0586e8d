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

from surefoot.ambiguity.core import Ambiguity, Plan

SAMPLE = 32  # rows that a plan looks at
FEWEST = 512  # rows for which a plan pays
SLICE = 1 << 21  # probabilities whose rows a plan revisits together: what it makes of them stays in cache
ROUNDS = 4  # plans for the rows that are left
SMALL = 900_000  # up to so many multiplications OpenBLAS multiplies without copying the operands first


def solve_shared(
    values: Tensor, nominal: Tensor, ambiguity: Ambiguity, strength: Tensor | None
) -> tuple[Tensor, Tensor]:
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
    """The plan on all rows: the products at once, the rest in slices where the plan comes back to the nominal."""
    found = products(nominal, plan.columns)
    if not plan.revisits:
        return plan.finish(found, nominal, strength)
    size = max(FEWEST, SLICE // nominal.shape[-1])
    own = repeat(strength) if strength is None or len(strength) == 1 else strength.split(size)
    values, certain = zip(*map(plan.finish, found.split(size), nominal.split(size), own))
    return torch.cat(values), torch.cat(certain)


def products(nominal: Tensor, columns: Tensor) -> Tensor:
    """nominal `[R, n]` @ columns `[n, m]` for few columns, at about the speed of one, by as many threads as torch uses.

    A matrix product first copies its operands into an order that suits large ones, which costs more here than the
    product itself; OpenBLAS leaves it out for small products, so the rows are multiplied a few at a time.
    """
    n, m = columns.shape
    if m == 1:
        return (nominal @ columns[:, 0])[:, None]
    if nominal.is_cuda:
        return nominal @ columns
    size = max(8, SMALL // (n * m) // 8 * 8)
    right = columns.numpy() if m > 4 else np.asfortranarray(columns.numpy())
    rows, out = nominal.numpy(), np.empty((len(nominal), m))

    def multiply(first: int, last: int) -> None:
        whole = first + (last - first) // size * size
        np.matmul(rows[first:whole].reshape(-1, size, n), right, out=out[first:whole].reshape(-1, size, m))
        np.matmul(rows[whole:last], right, out=out[whole:last])

    threads = torch.get_num_threads()
    if threads == 1:
        multiply(0, len(rows))
    else:
        ends = [len(rows) * i // threads for i in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(multiply, ends[:-1], ends[1:]))
    return torch.from_numpy(out)


def mean_plan(values: Tensor) -> Plan:
    """For a set that does no harm."""

    def finish(means: Tensor, nominal: Tensor, strength: Tensor | None) -> tuple[Tensor, Tensor]:
        return means[:, 0], torch.ones(len(means), dtype=torch.bool)

    return Plan(values[:, None], finish)


def lowest_of_rows(values: Tensor, nominal: Tensor, support: str) -> Tensor:
    """The lowest value `[R, 1]` that each row may have, or `[1, 1]` for all; nearly always one of the lowest of all."""
    if support == "all":
        return values.min().reshape(1, 1)
    x, first = values.topk(min(16, len(values)), largest=False, sorted=True)
    reached = nominal[:, first] > 0
    least = x[reached.byte().argmax(-1)]
    missing = ~reached.any(-1)
    if missing.any():
        least[missing] = torch.where(nominal[missing] > 0, values, torch.inf).amin(-1)
    return least[:, None]

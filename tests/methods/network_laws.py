"""Laws of learners that are made of named networks, whatever gives them their batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from pretended_device import pretended
from torch.utils._pytree import tree_leaves, tree_unflatten

from surefoot.loops.common.compile import traced

CLOCK = ("time", "steps_per_second")
Learner = Callable[[Sequence[int]], Any]  # makes one for some seeds


def numbers(history) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for rows in history for row in rows]


def same(one, other) -> bool:
    return all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def the_seed_decides(learner: Learner) -> None:
    """The same seed gives the same bits, another seed others."""
    runs = [learner([seed]) for seed in (1, 1, 2)]
    histories = [numbers([run.iterate() for _ in range(2)]) for run in runs]
    assert histories[0] == histories[1] and same(runs[0], runs[1]) and not same(runs[0], runs[2])


def together_as_alone(learner: Learner, seeds: tuple[int, int, int] = (4, 5, 6)) -> None:
    """A seed among several computes what it computes alone."""
    together, alone = learner([*seeds]), learner([seeds[1]])
    for _ in range(2):
        rows, (single,) = together.iterate(), alone.iterate()
        for name, value in single.items():
            assert rows[1][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    for name, weights in together.weights.items():
        torch.testing.assert_close(weights[1], alone.weights[name][0], rtol=0, atol=1e-4)


def a_device_changes_no_bit(learner: Callable[..., Any]) -> None:
    """What two seeds compute on the pretended device is what they compute on the CPU."""
    here = learner((0, 1))
    rows = [here.iterate() for _ in range(2)]
    with pretended() as device:
        there = learner((0, 1), device=device)
        assert [there.iterate() for _ in range(2)] == rows
        assert all(torch.equal(x, there.state()[name]) for name, x in here.state().items())


def first_pass(function, *example):
    """What the compiler's first pass makes of a function."""
    graph, _, form = traced(function, example)
    return lambda *arguments: tree_unflatten(graph(*tree_leaves(arguments)), form)

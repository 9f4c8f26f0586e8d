"""A simplified graph computes the same with fewer operations."""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_leaves

from surefoot.loops.common.compile import traced

aten = torch.ops.aten
G = torch.Generator().manual_seed(0)
X, W = torch.randn(5, 3, generator=G), torch.randn(2, 4, 3, generator=G)


def graph_of(function, *example):
    """The simplified graph, after its results were compared with the function's."""
    graph, _, _ = traced(function, example)
    for mine, theirs in zip(graph(*example), tree_leaves(function(*example)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    return graph


def count(graph, *targets) -> int:
    return sum(node.target in targets for node in graph.graph.nodes)


def test_what_is_equal_is_done_once():
    def function(x, w):
        return torch.tanh(x @ w[0].t()) + 1, 2 * torch.tanh(x @ w[0].t().detach()), x.sum(0), x.sum(0, keepdim=True)

    graph = graph_of(function, X, W)
    assert count(graph, aten.mm.default) == count(graph, aten.tanh.default) == 1
    assert count(graph, aten.sum.dim_IntList) == 2  # these differ


def test_a_number_and_a_flag_of_the_same_value_stay_apart():
    graph = graph_of(lambda x: (x * 1, x * 1.0, x.pow(2), x.pow(2.0)), torch.arange(3))
    assert [x.dtype for x in graph(torch.arange(3))] == [torch.int64, torch.float32, torch.int64, torch.float32]


def test_what_is_written_into_is_not_shared():
    def function(x):
        first, second = torch.zeros(5, 3), torch.zeros(5, 3)
        first += x
        return first, second

    first, second = graph_of(function, X)(X)
    assert torch.equal(first, X) and not second.any()


def test_the_gradients_of_stacked_layers_are_not_transposed():
    def loss(w, x):
        return torch.func.vmap(lambda one: torch.nn.functional.linear(x, one))(w).square().sum()

    graph = graph_of(torch.func.grad(loss), W, X)
    (result,) = graph.graph.output_node().args[0]
    assert result.target is aten.bmm.default and graph(W, X)[0].is_contiguous()


def test_reshaping_to_the_same_shape_is_left_out():
    graph = graph_of(lambda x: (x.view(5, 3).expand(5, 3) + 1, x.view(3, 5)), X)
    assert count(graph, aten.view.default, aten.expand.default) == 1

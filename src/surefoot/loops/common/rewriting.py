"""Simplifying a traced graph before it is compiled: leaving out what would be computed twice, or copied for nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
ALIASES = {aten.alias.default, aten.detach.default}  # nothing is differentiated any more
RESHAPED = {aten._unsafe_view.default, aten.expand.default, aten.view.default}


def simplified(graph: fx.GraphModule) -> fx.GraphModule:
    """The same function in fewer operations. The graph must be pure: nothing in it draws or writes into a tensor.

    Operations that change nothing are left out, and equal ones are done once: a network whose weights have not changed
    is not asked again for the same inputs. The transpose of a product of stacked matrices, such as the gradient of
    stacked layers, is computed as the product of the transposes, which the matrix product reads as they are, so that
    the result needs no copy.
    """
    _drop_identities(graph.graph)
    graph.graph.eliminate_dead_code()
    _turn_products(graph.graph)
    _merge_equal(graph.graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _drop_identities(graph: fx.Graph) -> None:
    for node in _calls(graph):
        given: Any = node.args[0] if node.args else None
        same = node.target in RESHAPED and node.meta["val"].shape == given.meta["val"].shape
        if same or node.target in ALIASES:
            node.replace_all_uses_with(given)


def _turn_products(graph: fx.Graph) -> None:
    for node in _calls(graph):
        product: Any = node.args[0] if _transposes(node) else node
        if product is node or product.target is not aten.bmm.default or len(product.users) > 1:
            continue
        with graph.inserting_before(node):
            x, y = (_turned(graph, part) for part in product.args)
            turned = graph.call_function(aten.bmm.default, (y, x))
        turned.meta = node.meta
        node.replace_all_uses_with(turned)


def _turned(graph: fx.Graph, node: Any) -> fx.Node:
    if _transposes(node):
        return node.args[0]
    turned = graph.call_function(aten.transpose.int, (node, 1, 2))
    turned.meta["val"] = node.meta["val"].transpose(1, 2)
    return turned


def _transposes(node: Any) -> bool:
    """Whether it transposes stacked matrices."""
    if node.target is not aten.transpose.int or node.meta["val"].dim() != 3:
        return False
    return {axis % 3 for axis in node.args[1:]} == {1, 2}


def _merge_equal(graph: fx.Graph) -> None:
    found: dict[Any, fx.Node] = {}
    for node in _calls(graph):
        first = found.setdefault((node.target, _key(node.args), _key(node.kwargs)), node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)


def _key(x: Any) -> Any:
    """An argument of an operation as a key of a dictionary, with 1, 1.0 and True apart."""
    if isinstance(x, dict):
        return tuple((name, _key(part)) for name, part in x.items())
    return tuple(map(_key, x)) if isinstance(x, (list, tuple)) else (type(x), x)


def _calls(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "call_function"]

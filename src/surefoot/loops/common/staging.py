"""Running a pure function in two stages: what depends only on the weights once per rollout, the rest at every step.

The step of a small policy is a dozen operations on a few hundred numbers, for which call overhead costs more than the
arithmetic. The function is therefore traced once into a graph of operations, and the graph of a step runs on NumPy,
whose calls have little overhead, or on torch if an operation has no counterpart here (a convolution).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten
Prepared = list[Any]


def staged(
    function: Callable[..., tuple[Tensor, ...]], early: tuple[Any, ...], late: tuple[Any, ...]
) -> tuple[Callable[[tuple[Any, ...]], Prepared], Callable[..., list[np.ndarray]]]:
    """`(prepare, run)` such that `run(prepare(early), *late)` is `function(early, late)` up to rounding.

    `early` and `late` are tuples of tensors or dicts of them, here examples of the shapes and types; `run` takes
    `late` as arrays and returns arrays.
    """
    graph = _recorded(function, early, late)
    graph.graph.eliminate_dead_code()
    first, second = _cut(graph, len(leaves(early)))
    late_on_numpy = _to_numpy(second)
    early_on_numpy = late_on_numpy and _to_numpy(first)
    if early_on_numpy:
        graph = {name: x.numpy() for name, x in graph.named_buffers()}
    before, after = fx.GraphModule(graph, first).forward, fx.GraphModule(graph, second).forward

    def prepare(early: tuple[Any, ...]) -> Prepared:
        if early_on_numpy:
            return before(*[x.numpy() for x in leaves(early)])
        with torch.no_grad():
            found = before(*leaves(early))
        return [x.numpy() for x in found] if late_on_numpy else found

    def run(prepared: Prepared, *late: Any) -> list[np.ndarray]:
        if late_on_numpy:
            return after(*prepared, *leaves(late))
        with torch.inference_mode():
            return [x.numpy() for x in after(*prepared, *map(torch.from_numpy, leaves(late)))]

    return prepare, run


def leaves(x: Any) -> list[Any]:
    """`tree_leaves` for what is in tuples and dicts, without its registry of types: it runs at every step."""
    if isinstance(x, dict):
        return [leaf for part in x.values() for leaf in leaves(part)]
    return [leaf for part in x for leaf in leaves(part)] if isinstance(x, tuple) else [x]


class _Recorder(TorchDispatchMode):
    """Records a graph of the operations done in its context on the tensors in `given`.

    `make_fx` records more, for compilers, and loads them, which takes longer than the first iteration of many runs.
    """

    def __init__(self, given: list[Tensor]):
        super().__init__()
        self.graph, self.constants = fx.Graph(), dict[str, Tensor]()
        self.known: dict[int, tuple[fx.Node, Tensor]] = {}  # by the id of a tensor, unique while it is referenced
        for i, x in enumerate(given):
            self.known[id(x)] = self.graph.placeholder(f"given{i}"), x

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to skip the compiler torch would load it

    def node(self, x: Tensor) -> fx.Node:
        """The node that produced a tensor; a tensor from outside the graph is a constant."""
        if id(x) not in self.known:
            name = f"constant{len(self.constants)}"
            self.constants[name] = x
            self.known[id(x)] = self.graph.create_node("get_attr", name), x
        return self.known[id(x)][0]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = self.graph.call_function(func, *tree_map_only(Tensor, self.node, (args, kwargs or {})))
        parts = [(made, result)]
        if isinstance(result, (list, tuple)):
            parts = [(self.graph.call_function(operator.getitem, (made, i)), x) for i, x in enumerate(result)]
        for node, x in parts:
            assert isinstance(x, Tensor), f"{func} reads values out of tensors, which differ at the next step"
            self.known[id(x)] = node, x
        return result


def _recorded(function: Callable[..., tuple[Tensor, ...]], *example: Any) -> fx.GraphModule:
    """The graph of the function on the tensors of its arguments."""
    recorder = _Recorder(leaves(example))
    with torch.no_grad(), recorder:
        result = function(*example)
    recorder.graph.output([recorder.node(x) for x in result])
    return fx.GraphModule(recorder.constants, recorder.graph)


def _cut(graph: fx.GraphModule, early: int) -> tuple[fx.Graph, fx.Graph]:
    """The graph split in two: the operations that need only the first `early` inputs, and the rest, which takes the
    results of the first part and then the other inputs."""
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    late = set(inputs[early:])
    for node in graph.graph.nodes:
        if late.intersection(node.all_input_nodes):
            late.add(node)
    output = graph.graph.output_node()
    wanted = [n for n in graph.graph.nodes if n not in late and n is not output and late.union([output]) & set(n.users)]
    first, second = fx.Graph(), fx.Graph()
    before: dict[fx.Node, fx.Node] = {}
    after = {node: second.placeholder(node.name) for node in (*wanted, *inputs[early:])}
    for node in graph.graph.nodes:
        if node is output or node in inputs[early:]:
            continue
        place, known = (second, after) if node in late else (first, before)
        known[node] = place.node_copy(node, known.__getitem__)
    first.output([before[node] for node in wanted])
    second.output(fx.map_arg(output.args[0], after.__getitem__))
    return first, second


def _to_numpy(graph: fx.Graph) -> bool:
    """Replace torch by NumPy throughout the graph; if that is impossible, change nothing and return False."""
    calls = [node for node in graph.nodes if node.op == "call_function" and node.target is not operator.getitem]
    if any(node.target not in NUMPY for node in calls):
        return False
    for node in calls:
        node.target = NUMPY[node.target]
    return True


# --- torch's operations on arrays ----------------------------------------------------------------------------------


def addmm(bias: np.ndarray, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    y = x @ weight
    y += bias
    return y


def clamp(x: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def elu(x: np.ndarray, alpha: float = 1.0) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def expand(x: np.ndarray, shape: list[int]) -> np.ndarray:
    if x.shape == tuple(shape):
        return x
    added = len(shape) - x.ndim
    return np.broadcast_to(x, [x.shape[i - added] if n == -1 else n for i, n in enumerate(shape)])


def index(x: np.ndarray, places: list[np.ndarray | None]) -> np.ndarray:
    return x[tuple(slice(None) if place is None else place for place in places)]


def lerp(start: np.ndarray, end: np.ndarray, weight: np.ndarray) -> np.ndarray:
    move = end - start
    return np.where(weight < 0.5, start + weight * move, end - (1 - weight) * move)  # exact at both ends


def linspace(start: float, end: float, steps: int, dtype: torch.dtype = torch.float32, **_: Any) -> np.ndarray:
    return np.linspace(start, end, steps, dtype=DTYPES[dtype])


def mean(x: np.ndarray, dims: list[int], keepdim: bool = False) -> np.ndarray:
    return x.mean(tuple(dims), keepdims=keepdim)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def scalar(value: float, dtype: torch.dtype = torch.float32, **_: Any) -> np.ndarray:
    return np.array(value, DTYPES[dtype])


def select(x: np.ndarray, dim: int, index: int) -> np.ndarray:
    return x[index] if dim == 0 else x.take(index, dim)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * x) + 0.5


def silu(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x)


def slice_(x: np.ndarray, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> np.ndarray:
    return x[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)]


def split(x: np.ndarray, size: int, dim: int = 0) -> list[np.ndarray]:
    return split_with_sizes(x, [size] * -(-x.shape[dim] // size), dim)


def split_with_sizes(x: np.ndarray, sizes: list[int], dim: int = 0) -> list[np.ndarray]:
    where = (slice(None),) * (dim % x.ndim)
    return [x[(*where, slice(end - size, end))] for size, end in zip(sizes, accumulate(sizes), strict=True)]


def squeeze(x: np.ndarray, dim: int) -> np.ndarray:
    return x.squeeze(dim) if x.shape[dim] == 1 else x


def stack(arrays: list[np.ndarray], dim: int = 0) -> np.ndarray:
    return np.stack(arrays, dim)


def t(x: np.ndarray) -> np.ndarray:
    return x.T


def to_copy(x: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    return x.astype(DTYPES[dtype])


def softmax(x: np.ndarray, dim: int, half_to_float: bool = False) -> np.ndarray:
    y = np.exp(x - x.max(dim, keepdims=True))
    return y / y.sum(dim, keepdims=True)


def sum_over(x: np.ndarray, dims: list[int], keepdim: bool = False) -> np.ndarray:
    return x.sum(tuple(dims), keepdims=keepdim)


def unbind(x: np.ndarray, dim: int = 0) -> list[np.ndarray]:
    return list(np.moveaxis(x, dim, 0))


def unsqueeze(x: np.ndarray, dim: int) -> np.ndarray:
    return x[(slice(None),) * (dim % (x.ndim + 1)) + (None,)]


def view(x: np.ndarray, shape: list[int]) -> np.ndarray:
    return x.reshape(shape)


def zeros_like(x: np.ndarray, **_: Any) -> np.ndarray:
    return np.zeros_like(x)


DTYPES = {torch.float32: np.float32, torch.int64: np.int64, torch.bool: np.bool_}

NUMPY: dict[Any, Callable[..., Any]] = {
    aten._softmax.default: softmax,
    aten._to_copy.default: to_copy,
    aten._unsafe_view.default: view,
    aten.add.Tensor: operator.add,
    aten.addmm.default: addmm,
    aten.argmax.default: np.argmax,
    aten.atanh.default: np.arctanh,
    aten.bmm.default: np.matmul,
    aten.cat.default: np.concatenate,
    aten.clamp.default: clamp,
    aten.cumsum.default: np.cumsum,
    aten.detach.default: np.asarray,
    aten.div.Tensor: operator.truediv,
    aten.elu.default: elu,
    aten.eq.Tensor: operator.eq,
    aten.exp.default: np.exp,
    aten.expand.default: expand,
    aten.gt.Scalar: operator.gt,
    aten.gt.Tensor: operator.gt,
    aten.index.Tensor: index,
    aten.lerp.Tensor: lerp,
    aten.lift_fresh.default: np.asarray,
    aten.linspace.default: linspace,
    aten.lt.Scalar: operator.lt,
    aten.lt.Tensor: operator.lt,
    aten.mean.dim: mean,
    aten.mm.default: np.matmul,
    aten.mul.Tensor: operator.mul,
    aten.permute.default: np.transpose,
    aten.relu.default: relu,
    aten.scalar_tensor.default: scalar,
    aten.select.int: select,
    aten.sigmoid.default: sigmoid,
    aten.silu.default: silu,
    aten.slice.Tensor: slice_,
    aten.split.Tensor: split,
    aten.split_with_sizes.default: split_with_sizes,
    aten.squeeze.dim: squeeze,
    aten.stack.default: stack,
    aten.sum.dim_IntList: sum_over,
    aten.sub.Tensor: operator.sub,
    aten.t.default: t,
    aten.tanh.default: np.tanh,
    aten.unbind.int: unbind,
    aten.unsqueeze.default: unsqueeze,
    aten.view.default: view,
    aten.where.self: np.where,
    aten.zeros_like.default: zeros_like,
}

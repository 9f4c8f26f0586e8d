"""Compiling a pure function of tensors for one set of shapes.

The function is traced once, through its gradient and its map over seeds, into a graph of tensor operations, which is
passed straight to Inductor. Unlike `torch.compile`, this needs neither Python tracing nor guards that are checked at
every call, which for networks of this size take longer than the arithmetic.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from surefoot.errors import UsageError
from surefoot.loops.common.staging import leaves

INDUCTOR = {
    "cpp_wrapper": True,  # one native call per step instead of one per kernel
    "cpp.vec_isa_ok": True,  # a dry run that asks whether vector instructions work costs seconds; the flags are enough
    "size_asserts": False,
    "alignment_asserts": False,
    "scalar_asserts": False,
}


def _tanh(x: Tensor) -> Tensor:
    """tanh by the logistic function, which vectorises better; accurate to 1e-7."""
    return 2 * torch.sigmoid(2 * x) - 1


def compiled(function: Callable[..., Any], *example: Any) -> Callable[..., Any]:
    """The function, compiled for arguments of the shapes and types of `example`.

    Arguments and results are nested tuples and dicts of tensors; Python numbers in them become constants. The
    results equal the function's up to rounding.

    Raises:
        UsageError: the compiler is missing or failed.
    """
    try:
        with torch.no_grad():
            graph, given, result = traced(function, example, {torch.ops.aten.tanh.default: _tanh})
            from torch._inductor import compile as to_native

            run = to_native(graph, [*given], options=INDUCTOR)
    except Exception as error:
        raise UsageError(
            f"The gradient step could not be compiled ({type(error).__name__}: {str(error).strip().splitlines()[0]}). "
            "Install a C++ compiler (g++), or train with compile='off'; the numbers are the same up to rounding."
        ) from error

    seen: list[Any] = [None] * len(example)
    parts: list[list[Tensor]] = [[] for _ in example]
    form = tree_unflatten([None] * result.num_leaves, result)

    def call(*arguments: Any) -> Any:
        for i, argument in enumerate(arguments):
            if argument is not seen[i]:  # a batch stays the same object for many steps: flatten it once
                seen[i], parts[i] = argument, leaves(argument)
        return _filled(form, iter(run(*chain.from_iterable(parts))))  # type: ignore[operator,arg-type]

    return call


def as_set(setting: str, function: Callable[..., Any], *example: Any) -> Callable[..., Any]:
    """The function, compiled if the setting is "on", unchanged if "off", and with "auto" compiled if that succeeds."""
    if setting == "off":
        return function
    try:
        return compiled(function, *example)
    except UsageError as error:
        if setting == "on":
            raise
        warnings.warn(f"{error} The run continues without compiling.", stacklevel=2)
        return function


def _filled(form: Any, given: Iterator[Tensor]) -> Any:
    """`tree_unflatten` likewise: the tuples and dicts of `form`, with tensors in place of each None."""
    if form is None:
        return next(given)
    if isinstance(form, dict):
        return {key: _filled(part, given) for key, part in form.items()}
    parts = [_filled(part, given) for part in form]
    return type(form)(*parts) if hasattr(form, "_fields") else tuple(parts)


def traced(
    function: Callable[..., Any],
    example: tuple[Any, ...],
    decompositions: Any = None,
) -> tuple[fx.GraphModule, list[Tensor], TreeSpec]:
    """The graph of the function on the tensors of its arguments, those tensors, and the form of its result."""
    given, form = tree_flatten(example)
    result: Any = None

    def flat(*tensors: Tensor) -> list[Tensor]:
        nonlocal result
        outputs, result = tree_flatten(function(*tree_unflatten(tensors, form)))
        return outputs

    # With real tensors, tracing would create a fake mode per operation and record the call stack each time.
    return make_fx(flat, decompositions, tracing_mode="fake")(*given), given, result

"""A device that is computed on the CPU, but whose tensors refuse to meet those of the CPU, as those of a GPU do.

What runs on it to the end moves its tensors where it has to, and must give the very bits of the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "meta"  # a device of torch that needs no hardware; here its tensors have values
aten = torch.ops.aten
MOVING = {aten._to_copy.default, aten.copy_.default}


class Pretended(Tensor):
    """A tensor on the device: `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        return Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME),
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self) -> str:
        return f"Pretended({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = any(isinstance(x, Pretended) for x in given)
        if there and func not in MOVING:
            scalar = 0 if torch.Tag.pointwise in func.tags else -1  # arithmetic takes a single number from the CPU
            strangers = [x for x in given if not isinstance(x, Pretended) and x.ndim > scalar]
            if strangers:
                raise RuntimeError(f"{func}: tensors are on two devices, {[(type(x), x.shape) for x in given]}")
        named = kwargs.get("device")
        if named is not None:
            there = torch.device(named).type == NAME
            kwargs = {**kwargs, "device": "cpu"}
        plain = tree_map_only(Pretended, lambda x: x.held, (args, kwargs))
        result = func(*plain[0], **plain[1])
        if func is aten.copy_.default:
            return args[0]
        if not there:
            return result
        wrapped = tree_map_only(Tensor, Pretended, result)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)


class _Operations(TorchDispatchMode):
    """Operations without a tensor in their arguments are the device's too, where it is named."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here; to skip the compiler, torch would load it

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return Pretended.__torch_dispatch__(func, types, args, kwargs)


class _Values(TorchFunctionMode):
    """torch takes the values of lists for nothing on the device that is pretended here: they go there by way of the
    CPU."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and (device := kwargs.get("device")) is not None:
            return func(*args, **{**kwargs, "device": "cpu"}).to(device)
        if func is Tensor.tolist:
            return func(args[0].cpu())
        if func is Tensor.new_tensor:
            made = torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype), device="cpu")
            return made.to(kwargs.get("device", args[0].device))
        return func(*args, **kwargs)


@contextmanager
def pretended() -> Iterator[str]:
    """The name of the device, while there is one."""
    with _Values(), _Operations():
        yield NAME

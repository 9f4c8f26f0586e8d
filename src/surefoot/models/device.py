"""The device option of every kind of loop, and the context in which its updates run on that device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from surefoot.errors import UsageError
from surefoot.hyperparameters import hyperparameter

CPU = torch.device("cpu")
DRAWS = {torch.multinomial, torch.rand, torch.randint, torch.randn, torch.randperm}


def device_option(default: str) -> Any:
    """The field `device` of a dataclass of options; its `__post_init__` calls `chosen_device`."""
    return hyperparameter(
        default, choices=("auto", "cpu", "cuda"), help="Device to train on; auto uses a GPU if there is one."
    )


def chosen_device(name: str) -> str:
    """`cpu` or `cuda`; `auto` is a GPU if there is one.

    Raises:
        UsageError: there is no usable GPU.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise UsageError(
            "device='cuda' is not allowed: PyTorch sees no GPU here; use device='auto' or 'cpu'. A run that began on a "
            "GPU resumes without one by surefoot.resume(run, device='cpu')."
        )
    return ("cuda" if found else "cpu") if name == "auto" else name


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Tensors that are made without naming a device are made on this one. What is drawn from a generator is drawn on
    the generator's device and moved, so that a seed draws the same numbers everywhere.

    On the CPU, and where it is in force already, nothing is changed and nothing becomes slower.
    """
    if torch.get_default_device() == device:
        yield
        return
    with device, _Draws(device):
        yield


class _Draws(TorchFunctionMode):
    """Samples random numbers on the generator's device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if func not in DRAWS or generator is None or "device" in kwargs:
            return func(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, lambda x: x.to(generator.device), (args, kwargs))
        place = {} if func is torch.multinomial else {"device": generator.device}
        return func(*args, **kwargs, **place).to(self.device)

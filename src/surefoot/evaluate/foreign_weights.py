"""Policies from a file of weights: a state dict of PyTorch or a safetensors file, for a module that the user names.

Weights are read as data: safetensors, or `torch.load` with `weights_only=True`, which refuses anything but tensors and
plain containers. The module is `module:Class`, which is imported because the user has named it.
"""

from __future__ import annotations

import ast
import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from surefoot.envs.names import imported
from surefoot.errors import UsageError
from surefoot.files import read_bytes


def read_weights(path: Path) -> Any:
    """What a file of weights holds: tensors in plain containers.

    Raises:
        UsageError: it is damaged, or holds anything else.
    """
    data = read_bytes(path)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(data)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        refused = next((line for line in lines if "GLOBAL" in line), None)
        if refused is None:
            raise UsageError(f"{path} cannot be read as a file of weights ({lines[0]}).") from error
        raise UsageError(
            f"{path} holds more than weights ({refused}), and reading that would run code. Save the state dict, "
            "torch.save(model.state_dict(), path), or an ONNX file."
        ) from error


def state_dicts(found: Any) -> list[dict[str, Tensor]]:
    """All state dicts in what a file holds, in order: itself, or those in the containers around them."""
    if isinstance(found, Mapping):
        if found and all(isinstance(x, Tensor) for x in found.values()):
            return [dict(found)]
        found = list(found.values())
    return [one for part in found for one in state_dicts(part)] if isinstance(found, (list, tuple)) else []


def with_weights(module: nn.Module, path: Path) -> nn.Module:
    """The module with the weights of a file: with the only state dict in it whose names and shapes are the module's."""
    own = {name: x.shape for name, x in module.state_dict().items()}
    found = state_dicts(read_weights(path))
    for weights in found:
        if {name: x.shape for name, x in weights.items()} == own:
            module.load_state_dict(weights)
            return module
    raise UsageError(f"{path} does not fit {type(module).__name__}: {_differences(own, found)}")


def _differences(own: dict[str, Any], found: list[dict[str, Tensor]]) -> str:
    if not found:
        return "it holds no state dict, which is a mapping from names to tensors."
    nearest = max(found, key=lambda one: len(one.keys() & own.keys()))
    theirs = {name: x.shape for name, x in nearest.items()}
    wrong = [n for n in own if n in theirs and theirs[n] != own[n]]
    told = [f"{n} has the shape {list(theirs[n])} in the file and {list(own[n])} in the module" for n in wrong[:3]]
    told += [f"the file lacks {n}" for n in own if n not in theirs][:3]
    told += [f"the module lacks {n}" for n in theirs if n not in own][:3]
    return "; ".join(told) + ". Give the arguments with which it was made, module:Class,hidden=64."


def named(text: str) -> Any:
    """What `module:name` or `module:name,key=value,…` names: an instance of a class, or a function, with the values.

    A value is a number, text, or a tuple of these, as Python writes it; quotes may be left out.
    """
    name, _, rest = text.partition(",")
    values, found = _values(rest, text), imported(name, "policy")
    try:
        if isinstance(found, type):
            return found(**values)
        if values:
            return functools.partial(found, **values)
    except Exception as error:  # the user's own code may raise anything
        raise UsageError(f"policy={text!r} cannot be made: {type(error).__name__}: {error}") from error
    return found


def _values(text: str, whole: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args or any(word.arg is None for word in call.keywords):
            raise ValueError("every value needs a name")
        return {
            str(word.arg): word.value.id if isinstance(word.value, ast.Name) else ast.literal_eval(word.value)
            for word in call.keywords
        }
    except (SyntaxError, ValueError, AssertionError) as error:
        raise UsageError(
            f"policy={whole!r} is not allowed ({error}); write module:name,key=value, such as nets:Actor,hidden=64."
        ) from error

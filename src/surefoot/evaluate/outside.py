"""Policies from outside this library, by what the user writes: a file, `module:name`, or weights of a named module.

model.zip               a model of Stable-Baselines3
policy.onnx             an ONNX file, read as data
policy.pt               a TorchScript file, a program that needs trust
actor.pt@nets:Actor,hidden=64     a state dict or safetensors file, for a module that is named
model.cleanrl_model     a state dict of CleanRL, known by its names and shapes
agents:act              a function or object of a Python module
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gymnasium import spaces
from torch import nn

from surefoot.envs import make_single
from surefoot.errors import UsageError
from surefoot.evaluate.foreign_actions import UNTOLD
from surefoot.loops.common.kinds import check_trust, loop

Spaces = Callable[[], tuple[spaces.Space, spaces.Space]]


def outside(policy: str | Path, env: Any, algo: str | None, trust: bool) -> tuple[Any, Any] | None:
    """The policy that a path or name means, and what it is played in; None for a folder.

    Raises `UsageError` for what cannot be read, does not fit the environment, or would run code that the user has not
    named.
    """
    path, text = Path(policy), str(policy)
    file, at, module = text.rpartition("@")
    if at and ":" in module and Path(file).is_file():
        found, told = _weights(Path(file), module, env), False
    elif path.is_file():
        found, told = _file(path, env, algo, trust)
    elif ":" in text and not path.exists():
        from surefoot.evaluate.foreign_weights import named

        found, told = named(text), True
    else:
        return None
    facts = getattr(found, "facts", None) or {}
    if env is None and "env" not in facts:
        raise _missing(text)
    if not told:
        warnings.warn(f"{text} {UNTOLD}", stacklevel=4)
    kind = loop(getattr(found, "loop", "on-policy"))
    if env is None:
        check_trust(kind, facts["env"], trust)
    return found, kind.single(**facts["env"] if env is None else {"env": env})


def _file(path: Path, env: Any, algo: str | None, trust: bool) -> tuple[Any, bool]:
    """The policy in a file, and whether it is known what it does to observations."""
    if path.suffix == ".onnx":
        from surefoot.evaluate.foreign_onnx import OnnxPolicy

        _no_algo(algo, path)
        found: Any = OnnxPolicy(path, _spaces(env, path))
        return found, found.given is not None
    from surefoot.evaluate.foreign_modules import ModulePolicy, is_script, load_script

    if is_script(path):
        _no_algo(algo, path)
        found = load_script(path, _spaces(env, path), trust)
        return found, not isinstance(found, ModulePolicy)
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".cleanrl_model"):
        from surefoot.evaluate.foreign_cleanrl import module_of
        from surefoot.evaluate.foreign_weights import read_weights, state_dicts

        _no_algo(algo, path)
        if (module := module_of(state_dicts(read_weights(path)))) is None:
            raise UsageError(
                f"{path} holds weights without their network, and not those of one that CleanRL's files have. Name its"
                f" class: {path}@module:Class or {path}@module:Class,hidden=64 with the arguments it is made with."
            )
        return ModulePolicy(module, *_spaces(env, path)()), False
    from surefoot.evaluate.foreign import load_zip

    return load_zip(path, env, algo, trust), True  # which warns itself of what is unknown


def _weights(path: Path, module: str, env: Any) -> Any:
    """A named module with the weights of a file."""
    from surefoot.evaluate.foreign_modules import ModulePolicy
    from surefoot.evaluate.foreign_weights import named, with_weights

    made = named(module)
    if not isinstance(made, nn.Module):
        raise UsageError(f"policy: {module} is a {type(made).__name__}, not a torch.nn.Module that takes weights.")
    loaded = with_weights(made, path)
    return loaded if hasattr(loaded, "predict") else ModulePolicy(loaded, *_spaces(env, path)())


def _spaces(env: Any, path: Path) -> Spaces:
    """The spaces of the environment, made when they are needed."""

    def made() -> tuple[spaces.Space, spaces.Space]:
        if env is None:
            raise _missing(str(path))
        single = make_single(loop("on-policy").single(env))
        single.close()
        return single.observation_space, single.action_space

    return made


def _missing(what: str) -> UsageError:
    return UsageError(f"env is missing: {what} does not say what it was trained in; give env=.")


def _no_algo(algo: str | None, path: Path) -> None:
    if algo is not None:
        raise UsageError(f"algo={algo!r} is for the file of a Stable-Baselines3 model; {path} is another kind of file.")

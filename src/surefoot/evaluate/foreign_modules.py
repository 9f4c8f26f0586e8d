"""PyTorch modules as policies: those in memory, and TorchScript files. They offer gradients, which attacks follow.

A module gets the observation as a tensor `[batch, ...]` (a dict of them for a Dict) in the types of the environment,
floats in the type of its weights. The first of its outputs that fits is taken for the action, or for the scores of
discrete ones. Recurrent modules are known only from files of `surefoot export`, which say what is their memory.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from surefoot.errors import UsageError
from surefoot.evaluate.foreign_actions import actions_from, fits, tensors_of, wanted
from surefoot.evaluate.foreign_signature import METADATA, Fixed, Given, given_by
from surefoot.files import read_bytes
from surefoot.models.deployed import port_name
from surefoot.models.distributions import Gaussian
from surefoot.models.networks import Observation


class ModulePolicy:
    """A module as a policy for an environment with these spaces."""

    def __init__(self, module: nn.Module, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.module = module.eval()
        self.observation_space, self.action_space = observation_space, action_space
        self.__qualname__ = type(module).__qualname__
        if not isinstance(module, torch.jit.ScriptModule) and type(module).forward is nn.Module.forward:
            raise UsageError(
                f"policy: the class {self.__qualname__} has no forward(observation), so it is unknown which of its "
                "methods acts. Give one of its parts (model.actor), or a function observation -> action that calls it."
            )
        floats = [x.dtype for x in module.parameters() if x.is_floating_point()]
        self.dtype = floats[0] if floats else torch.float32

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, None]:
        """Actions `[batch, ...]`: of scores, the action with the highest."""
        entries = observation if isinstance(observation, dict) else {"": observation}
        tensors = {key: torch.as_tensor(np.asarray(x)) for key, x in entries.items()}
        with torch.no_grad():
            output = self.outputs(tensors if isinstance(observation, dict) else tensors[""])
        return actions_from(output.numpy(), self.action_space), None

    def respond(self, observation: Observation, state: Any = None, episode_start: Any = None) -> Tensor:
        """Continuous actions or the scores of discrete ones, differentiable by the observation."""
        return self.outputs(observation)

    def outputs(self, observation: Observation) -> Tensor:
        """The output `[batch, ...]` that is taken for the action or its scores."""
        given = observation if isinstance(observation, dict) else {"": observation}
        seen = {k: x.to(self.dtype) if x.is_floating_point() else x for k, x in given.items()}
        found = tensors_of(self.module(seen if isinstance(observation, dict) else seen[""]))
        for output in found:
            if fits(output.shape[1:], not output.is_floating_point(), self.action_space):
                return output
        shapes = ", ".join(str(list(x.shape)) for x in found) or "no tensor"
        raise UsageError(
            f"policy: {self.__qualname__} returned {shapes}, and none is an action of {self.action_space} or a score "
            f"for each. {wanted(self.action_space)}"
        )


class ScriptPolicy:
    """A TorchScript file of `surefoot export` as a policy."""

    def __init__(self, path: Path, module: Any, given: Given) -> None:
        self.path, self.module, self.given = path, module, given
        self.observation_space, self.action_space = given.observation_space, given.action_space
        self.facts, self.loop, self.deviations = given.facts, given.loop, given.deviations
        has = len(module.forward.schema.arguments) - 1  # besides self
        if has != len(given.inputs):
            raise UsageError(f"{path}: it describes {len(given.inputs)} inputs and has {has}; export it again.")

    def __reduce__(self) -> Any:  # for processes, to which policies are sent
        return load_script, (self.path, Fixed(self.observation_space, self.action_space), True)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Actions `[batch, ...]` and the new memory; `deterministic` matters only to a file with an input for noise."""
        entries = observation if isinstance(observation, dict) else {"": observation}
        with torch.no_grad():
            found = self.run(self.given.named(entries, state, episode_start, deterministic))
        memory = self.given.memory(found)
        return found["action"].numpy(), None if memory is None else memory.numpy()

    def run(self, named: dict[str, Any]) -> dict[str, Tensor]:
        """All outputs by name, for inputs by name."""
        types = {name: getattr(torch, dtype) for name, (dtype, _, _) in self.given.inputs.items()}
        answer = self.module(*(torch.as_tensor(named[name]).to(dtype) for name, dtype in types.items()))
        return dict(zip(self.given.outputs, answer, strict=True))

    def respond(self, observation: Observation, state: Any = None, episode_start: Any = None) -> Any:
        """The distribution of actions and its parameters, or these alone, differentiable by the observation."""
        entries = observation if isinstance(observation, dict) else {"": observation}
        drawn = self.given.named(
            {key: np.asarray(x.detach()) for key, x in entries.items()}, state, episode_start, deterministic=True
        )
        seen = {port_name("observation", key): x for key, x in entries.items()}
        params = self.run({**drawn, **seen})["parameters"]
        own = self.action_space
        if isinstance(own, spaces.Box) and params.shape[-1] == 2 * int(np.prod(own.shape)):
            return Gaussian(params.shape[-1] // 2), params
        return params


def load_script(
    path: str | Path, spaces_of: Callable[[], tuple[spaces.Space, spaces.Space]], trust: bool = False
) -> ModulePolicy | ScriptPolicy:
    """The policy in a TorchScript file, which is a program: it is refused without `trust`."""
    path = Path(path)
    if not trust:
        raise UsageError(
            f"{path} is a TorchScript program, which runs when it is loaded and played: give trust=True (--trust) if "
            "you know where it comes from. An ONNX file is read as data."
        )
    extra = {METADATA: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch announces that it will drop the format
            module = torch.jit.load(io.BytesIO(read_bytes(path)), map_location="cpu", _extra_files=extra)
    except Exception as error:  # a damaged file may raise anything
        raise UsageError(f"{path} cannot be read as TorchScript ({str(error).splitlines()[0]}).") from error
    said: Any = extra[METADATA]
    if said:
        return ScriptPolicy(path, module, given_by(path, said.decode() if isinstance(said, bytes) else said))
    return ModulePolicy(module, *spaces_of())


def is_script(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with code."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name or name.endswith("constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False

"""Networks that an agent keeps by name besides the one that acts: its critic, or what prepares its observations.

`agent.json` has an entry for each under `networks`, and `agent.safetensors` its weights as `networks/<name>/<weight>`,
`[copies, ...]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from surefoot.errors import UsageError
from surefoot.hyperparameters import build
from surefoot.models.actors import ActorNetwork, CriticNetwork
from surefoot.models.denoiser import DenoiserNetwork
from surefoot.models.flow import FlowNetwork
from surefoot.models.functional import Flat
from surefoot.models.quantiles import QuantileNetwork
from surefoot.models.scores import DynamicsNetwork, ScaleNetwork, ScoreNetwork

KINDS: dict[str, type] = {
    "actor": ActorNetwork,
    "critic": CriticNetwork,
    "denoiser": DenoiserNetwork,
    "flow": FlowNetwork,
    "quantile-critic": QuantileNetwork,
    "score": ScoreNetwork,
    "dynamics": DynamicsNetwork,
    "scale": ScaleNetwork,
}
MOST_COPIES = 100


@dataclass(frozen=True)
class Companion:
    """A network and its weights, the vectors of all copies in a row."""

    network: Any  # its description, of one of the `KINDS`
    vector: Tensor
    copies: int = 1

    def __call__(self, flat: Flat, *inputs: Any) -> Tensor:
        """Its outputs, with a leading axis of copies; `flat` is what `made` returns."""
        return torch.stack([flat(one, *inputs) for one in self.vector.view(self.copies, -1)])

    def made(self, observation_space: gym.Space, action_space: gym.Space) -> Flat:
        """The network as a function of the weights of one copy."""
        return Flat(self.network.make(observation_space, action_space))

    def fits(self, observation_space: gym.Space, action_space: gym.Space) -> bool:
        """Whether it has as many weights as the network for these spaces needs. The critic of a game, which also judges
        what an adversary does, has more."""
        with torch.device("meta"):  # only shapes, which take no memory
            return self.made(observation_space, action_space).size * self.copies == self.vector.numel()

    def described(self) -> dict[str, Any]:
        """Its entry in `agent.json`."""
        kind = next(name for name, one in KINDS.items() if type(self.network) is one)
        return {"kind": kind, "copies": self.copies, "network": dataclasses.asdict(self.network)}


def tensors_of(companions: Mapping[str, Companion], flats: Mapping[str, Flat]) -> dict[str, Tensor]:
    """All weights by the names that they have in a file."""
    made = {}
    for name, one in companions.items():
        each = [flats[name].unflatten(vector) for vector in one.vector.view(one.copies, -1)]
        made |= {f"networks/{name}/{key}": torch.stack([copy[key] for copy in each]) for key in flats[name].shapes}
    return made


def shapes_of(
    described: Any, observation_space: gym.Space, action_space: gym.Space, numbers: int
) -> dict[str, tuple[Any, Flat, int]]:
    """The networks that `agent.json` describes: description, function and copies by name.

    Raises:
        UsageError, KeyError, TypeError, AttributeError: an entry is damaged, or larger than a file of `numbers`.
    """
    found = {}
    for name, one in described.items():
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in one["network"].items()}
        network, copies = build(KINDS[one["kind"]], settings), one["copies"]
        if type(copies) is not int or not 1 <= copies <= MOST_COPIES:
            raise UsageError(f"networks/{name}: copies={copies!r} is not allowed.")
        if len(network.hidden) > numbers or max(network.hidden, default=0) > numbers:
            raise UsageError(f"networks/{name}: it is larger than the weights of agent.safetensors.")
        with torch.device("meta"):
            found[name] = network, Flat(network.make(observation_space, action_space)), copies
    return found

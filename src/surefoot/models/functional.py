"""A module as a pure function of one flat parameter vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from surefoot.models.device import CPU, computing_on
from surefoot.models.distributions import Distribution
from surefoot.models.networks import ActorCritic


class Flat:
    """A module as a function of the vector of all its parameters.

    With one vector, optimisers, clipping, line searches, Fisher products and checkpoints are plain vector operations.
    It is divided by `split`, not by slicing, so that its gradient is a single concatenation.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.shapes = {name: p.shape for name, p in module.named_parameters()}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.size = sum(self.sizes)

    def unflatten(self, vector: Shaped[Tensor, "size"]) -> dict[str, Tensor]:
        """The parameters by name, as views of the vector."""
        parts = torch.split(vector, self.sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def flatten(self, params: dict[str, Tensor]) -> Float[Tensor, "size"]:
        """The vector of parameters given by name."""
        return torch.cat([params[name].reshape(-1) for name in self.shapes])

    def mask(self, belongs: Callable[[str], bool]) -> Tensor:
        """A boolean vector that is True for the parameters whose names pass `belongs`."""
        flags = [torch.full((n,), belongs(name)) for name, n in zip(self.shapes, self.sizes, strict=True)]
        return torch.cat(flags)

    def __call__(self, vector: Float[Tensor, "size"], *args: Any) -> Any:
        """`module(*args)` with the given parameters."""
        # A module used twice is swapped once: tying would swap it twice, and leave a tensor in place of its parameter.
        return functional_call(self.module, self.unflatten(vector), args, tie_weights=False)

    def bind(self, vector: Float[Tensor, "size"]) -> nn.Module:
        """The module itself, with its parameters replaced by views of the vector: calling it needs no swap."""
        for name, view in self.unflatten(vector).items():
            self.module.get_parameter(name).data = view
        return self.module


def initial(make: Callable[[], nn.Module], generator: torch.Generator) -> Float[Tensor, "size"]:
    """The flat parameters, on the CPU, of a freshly made module, its initialisers fed from `generator` alone."""
    with torch.random.fork_rng(devices=[]), computing_on(CPU):
        torch.set_rng_state(generator.get_state())
        return torch.cat([p.detach().reshape(-1) for p in make().parameters()])


class Model(Flat):
    """An actor-critic as a pure function of its parameters and a batch."""

    module: ActorCritic

    @property
    def distribution(self) -> Distribution:
        return self.module.distribution

    @property
    def policy_mask(self) -> Tensor:
        """True for the parameters that the policy depends on (all but the critic's own)."""
        return self.mask(lambda name: name.startswith("actor."))

    def evaluate(self, vector: Float[Tensor, "size"], batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Distribution parameters `[..., size]` and values `[...]` for the observations of a batch.

        A recurrent model unrolls `[time, batch]` from the batch's `state`, which is reset at its `starts`.
        """
        params, values, _ = self(vector, batch["observation"], batch.get("state"), batch.get("starts"))
        return params, values


def over_seeds(function: Callable[..., Any], seeds: int, shared: int = 0) -> Callable[..., Any]:
    """The function mapped over a leading seed axis of all its arguments except the last `shared` ones.

    With one seed the axis is removed and restored instead: the same numbers without the cost of mapping.
    """
    if seeds > 1:
        return lambda *args: torch.func.vmap(function, (0,) * (len(args) - shared) + (None,) * shared)(*args)

    def alone(*args: Any) -> Any:
        cut = len(args) - shared
        result = function(*(tree_map(lambda x: x[0], arg) for arg in args[:cut]), *args[cut:])
        return tree_map(lambda x: x.unsqueeze(0), result)

    return alone

"""A language model whose weights are sharded over processes, block by block, by torch's `fully_shard`.

Weights, gradients and the optimiser's moments are divided evenly. In training, all processes run the model at the same
time and gather one block after another, so they must run it equally often (`LanguageEstimator.in_step`). In
generation, which takes a pass per token, each process gathers the whole model once and frees it afterwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from types import MethodType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from surefoot.errors import UsageError
from surefoot.loops.common import distributed
from surefoot.models.language.critic import Critic, Heads
from surefoot.models.language.model import LanguageModel, TokenStatistics
from surefoot.models.language.sequences import Sequences


@dataclass
class ShardedModel(LanguageModel):
    """A sharded model, and `form`, its network without weights."""

    sharded: ClassVar[bool] = True
    form: Any = None

    def whole(self) -> LanguageModel:
        """A separate model with all current weights of the network, without a critic."""
        weights = {name: distributed.whole(w.detach()) for name, w in self.network.named_parameters()}
        return LanguageModel(_filled(self.form, weights), self.tokenizer, settings=self.settings, opened=self.opened)

    def _statistics(
        self, network: Any, critic: Critic | Heads | None, sequences: Sequences, temperature: float, candidates: int
    ) -> TokenStatistics:
        return network.within(super()._statistics, network, critic, sequences, temperature, candidates)


def shard(model: LanguageModel) -> ShardedModel:
    """Shard a model over the processes; the model given must not be used afterwards.

    Raises:
        UsageError: torch is too old.
    """
    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise UsageError(f"sharding='full' needs a newer torch than {torch.__version__}; 2.13 is tested.")
    form = _filled(model.network, {name: w.detach().to("meta") for name, w in model.network.named_parameters()})
    mesh = init_device_mesh(model.device.type, (distributed.world_size(),))
    for network in (model.base, model.reference):
        if network is not None:
            _divide_network(network, mesh)
    if model.critic is not None:
        _divide(model.critic, mesh)
    parts = {field.name: getattr(model, field.name) for field in dataclasses.fields(LanguageModel)}
    return ShardedModel(**parts, form=form)


def _filled(network: Any, weights: Mapping[str, Tensor]) -> Any:
    """A copy of a network with other weights; tied weights stay tied."""
    others = {id(w): nn.Parameter(weights[name], w.requires_grad) for name, w in network.named_parameters()}
    return deepcopy(network, others)


def _divide_network(network: Any, mesh: DeviceMesh) -> None:
    """Shard each block of a network and the rest of it; `network.within(function, …)` gathers the rest while a function
    runs, since embedding and output layer are read outside `forward`."""
    blocks = [module for module in network.modules() if type(module).__name__ in (network._no_split_modules or ())]
    for module in (*blocks, network):
        _divide(module, mesh)
    network.within = MethodType(lambda _, function, *args: function(*args), network)
    register_fsdp_forward_method(network, "within")


def _divide(module: Any, mesh: DeviceMesh) -> None:
    """Shard the weights of a module that are not yet sharded by one of its parts."""
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    module.set_gradient_divide_factor(1.0)  # a sum: the parts of a loss add up
    module.set_force_sum_reduction_for_comms(True)  # gloo can only sum

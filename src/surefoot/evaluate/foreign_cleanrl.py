"""CleanRL's files: a state dict whose names and shapes say which of its networks it is.

CleanRL (github.com/vwxyzjn/cleanrl) saves `….cleanrl_model` files without their classes. Each script has one network,
written out in full, and no two have the same names: `actor_mean` or `actor` with tanh is PPO's, `network` with ReLU
that of DQN and C51, `fc1, fc2, fc_mu` with ReLU and tanh the actor of DDPG and TD3, `fc_mean` that of SAC. Convolutions
are those of the DQN paper, on images divided by 255. What the scripts' wrappers did to observations is not in the file.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]
STRIDES = (4, 2, 1)


class _Pixels(nn.Module):
    """Bytes divided by 255."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 255.0


class _Bounded(nn.Module):
    """tanh, scaled to the action box by the file's own scale and bias."""

    scale: Tensor
    bias: Tensor

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.register_buffer("scale", weights["action_scale"].reshape(-1))
        self.register_buffer("bias", weights["action_bias"].reshape(-1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * self.scale + self.bias


class _ExpectedValues(nn.Module):
    """The mean of every action's distribution over the atoms `[atoms]`, from logits `[batch, actions·atoms]`."""

    def __init__(self, atoms: Tensor) -> None:
        super().__init__()
        self.register_buffer("atoms", atoms)

    def forward(self, x: Tensor) -> Tensor:
        return (x.unflatten(-1, (-1, len(self.atoms))).softmax(-1) * self.atoms).sum(-1)  # type: ignore[arg-type]


def module_of(found: list[Weights]) -> nn.Module | None:
    """The network of the first state dict that is one of CleanRL's; None if none is."""
    for weights in found:
        for rebuild in (_ppo, _values, _bounded_actor):
            if (module := rebuild(weights)) is not None:
                return module.eval()
    return None


def _ppo(weights: Weights) -> nn.Module | None:
    head = "actor_mean" if "actor_mean.0.weight" in weights else "actor"
    if f"{head}.0.weight" in weights:
        return nn.Sequential(nn.Flatten(), *_linear(weights, f"{head}.", nn.Tanh))
    if "actor.weight" in weights and "network.0.weight" in weights:
        return nn.Sequential(*_convolutional(weights, "network.", last=True), _layer(weights, "actor"))
    return None


def _values(weights: Weights) -> nn.Module | None:
    if "network.0.weight" not in weights:
        return None
    if weights["network.0.weight"].ndim == 4:
        layers = _convolutional(weights, "network.", last=False)
    else:
        layers = [nn.Flatten(), *_linear(weights, "network.", nn.ReLU)]
    return nn.Sequential(*layers, *([_ExpectedValues(weights["atoms"])] if "atoms" in weights else []))


def _bounded_actor(weights: Weights) -> nn.Module | None:
    last = next((name for name in ("fc_mu", "fc_mean") if f"{name}.weight" in weights), None)
    if last is None or not {"fc1.weight", "fc2.weight", "action_scale", "action_bias"} <= weights.keys():
        return None
    first, second, mean = (_layer(weights, name) for name in ("fc1", "fc2", last))
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), mean, _Bounded(weights))


def _numbers(weights: Weights, prefix: str) -> list[int]:
    found = (re.fullmatch(rf"{re.escape(prefix)}(\d+)\.weight", name) for name in weights)
    return sorted(int(match[1]) for match in found if match)


def _layer(weights: Weights, name: str) -> nn.Module:
    """One layer with its weights: linear, or for a matrix of four axes a convolution without its stride."""
    weight = weights[f"{name}.weight"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": weights[f"{name}.bias"]})
    return layer


def _linear(weights: Weights, prefix: str, activation: type[nn.Module]) -> list[nn.Module]:
    """Linear layers with the activation between them."""
    made: list[nn.Module] = []
    for number in _numbers(weights, prefix):
        made += [_layer(weights, f"{prefix}{number}"), activation()]
    return made[:-1]


def _convolutional(weights: Weights, prefix: str, last: bool) -> list[nn.Module]:
    """The network of the DQN paper on bytes; `last`: whether its last layer has an activation too."""
    made: list[nn.Module] = [_Pixels()]
    numbers = _numbers(weights, prefix)
    deep = [n for n in numbers if weights[f"{prefix}{n}.weight"].ndim == 4]
    for number, stride in zip(deep, STRIDES):
        weight = weights[f"{prefix}{number}.weight"]
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], stride)  # type: ignore[arg-type]
        layer.load_state_dict({"weight": weight, "bias": weights[f"{prefix}{number}.bias"]})
        made += [layer, nn.ReLU()]
    made.append(nn.Flatten())
    for number in numbers[len(deep) :]:
        made += [_layer(weights, f"{prefix}{number}"), nn.ReLU()]
    return made if last else made[:-1]

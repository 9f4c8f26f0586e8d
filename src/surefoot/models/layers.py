"""Layers: linear ones with their activation, recurrent cores, and several networks side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "swish": nn.SiLU, "elu": nn.ELU, "gelu": nn.GELU}


def orthogonal(layer: nn.Module, gain: float = math.sqrt(2)) -> nn.Module:
    """The layer with orthogonal weights of the given gain and zero biases."""
    nn.init.orthogonal_(layer.weight, gain)  # type: ignore[arg-type]
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def mlp(inputs: int, hidden: Sequence[int], activation: str = "tanh") -> nn.Sequential:
    """Linear layers, each followed by the activation."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [orthogonal(nn.Linear(inputs, size)), ACTIVATIONS[activation]()]
        inputs = size
    return nn.Sequential(*layers)


class GRU(nn.Module):
    """A gated recurrent unit; its state is `[batch, size]`. One fused input product, so that it maps over seeds."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.input, self.hidden = (
            orthogonal(nn.Linear(inputs, 3 * size), 1.0),
            orthogonal(nn.Linear(size, 3 * size), 1.0),
        )
        self.features = self.state_size = size

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        xr, xz, xn = self.input(x).chunk(3, -1)
        hr, hz, hn = self.hidden(state).chunk(3, -1)
        update = torch.sigmoid(xz + hz)
        state = torch.lerp(torch.tanh(xn + torch.sigmoid(xr + hr) * hn), state, update)
        return state, state


class LSTM(nn.Module):
    """A long short-term memory; its state is `[batch, 2·size]`: hidden, then cell."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.input, self.hidden = (
            orthogonal(nn.Linear(inputs, 4 * size), 1.0),
            orthogonal(nn.Linear(size, 4 * size), 1.0),
        )
        self.features, self.state_size = size, 2 * size

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden, cell = state.chunk(2, -1)
        i, f, g, o = (self.input(x) + self.hidden(hidden)).chunk(4, -1)
        cell = torch.sigmoid(f + 1) * cell + torch.sigmoid(i) * torch.tanh(g)  # +1: remember initially
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        return hidden, torch.cat([hidden, cell], -1)


CORES = {"gru": GRU, "lstm": LSTM}


class Stacked(nn.Module):
    """Several networks of linear layers with the same sizes, such as one for each step of an episode, side by side."""

    def __init__(self, steps: int, sizes: Sequence[int], activation: str, gain: float) -> None:
        """`sizes` are those of the inputs, of the hidden layers and of the outputs, whose weights have this gain."""
        super().__init__()
        self.steps, self.activation = steps, ACTIVATIONS[activation]()
        gains = [math.sqrt(2)] * (len(sizes) - 2) + [gain]
        pairs = list(zip(sizes, sizes[1:], gains, strict=False))
        drawn = [torch.stack([nn.init.orthogonal_(torch.empty(i, o), g) for _ in range(steps)]) for i, o, g in pairs]
        self.weights = nn.ParameterList(drawn)
        self.biases = nn.ParameterList([torch.zeros(steps, size) for size in sizes[1:]])

    def step(self, observation: Tensor) -> Tensor:
        """The number h of the step, which is the last entry of the observations `[..., width]`; behind the end of an
        episode, where nothing is chosen any more, that of the last one."""
        return observation[..., -1].round().long().clamp(0, self.steps - 1)

    def chosen(self, x: Tensor, which: Tensor) -> Tensor:
        """The outputs `[..., outputs]` of the networks that `which [..., steps]` marks by 1."""
        every = self.forward(x.unsqueeze(-2).expand(*x.shape[:-1], self.steps, x.shape[-1]))
        return (every * which.unsqueeze(-1)).sum(-2)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs `[..., steps, outputs]` of all networks, each for its own inputs `[..., steps, inputs]`."""
        last = len(self.weights) - 1
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.einsum("...hi,hio->...ho", x, weight) + bias
            x = x if number == last else self.activation(x)
        return x

    def one(self, weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor) -> Tensor:
        """The outputs of the network of a single step, with its weights `[inputs, outputs]` and biases by layer."""
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x = self.activation(x @ weight + bias)
        return x @ weights[-1] + biases[-1]

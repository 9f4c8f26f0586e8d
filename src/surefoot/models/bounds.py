"""Bounds that hold for certain on what a network does to every observation within a ball: intervals of its outputs, and
Lipschitz constants.

A network is a row of linear layers with one activation between them. All is computed in float64, so that a bound holds
up to rounding of about 1e-12 of the numbers in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from surefoot.errors import UsageError
from surefoot.models.agent import Agent
from surefoot.models.distributions import MultiDiscrete
from surefoot.models.networks import ActorCritic, is_image

# Where an activation that first falls and then rises is least, and its value there, rounded down.
DIPS = {"swish": (-1.278464542761074, -0.2784645427611), "gelu": (-0.751791524693564, -0.1699712074802)}
# Least and largest slope anywhere, rounded outwards.
SLOPES = {"tanh": (0.0, 1.0), "relu": (0.0, 1.0), "elu": (0.0, 1.0), "swish": (-0.0999, 1.0999), "gelu": (-0.13, 1.13)}
FUNCTIONS = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "elu": nn.functional.elu,
    "swish": nn.functional.silu,
    "gelu": nn.functional.gelu,
}


@dataclass(frozen=True)
class Layers:
    """`W_L·f(… f(W_1·x + b_1) …) + b_L`: weights `[out, in]` and biases `[out]` in float64, activation f by name."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activation: str

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs `[batch, out]` for inputs `[batch, in]`."""
        return self.hidden(x) @ self.weights[-1].mT + self.biases[-1]

    def hidden(self, x: Tensor) -> Tensor:
        """What the last layer gets."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
            x = FUNCTIONS[self.activation](x @ weight.mT + bias)
        return x


def reached(activation: str, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The range of an activation on [low, high]."""
    ends = FUNCTIONS[activation](low), FUNCTIONS[activation](high)
    least, most = torch.minimum(*ends), torch.maximum(*ends)
    if activation in DIPS:
        place, value = DIPS[activation]
        least = torch.where((low <= place) & (place <= high), value, least)
    return least, most


def slopes(activation: str, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The range of an activation's slope on [low, high]."""
    least, most = (torch.full_like(low, x) for x in SLOPES[activation])
    if activation == "relu":
        return (low > 0).to(low.dtype), (high > 0).to(low.dtype)
    if activation == "tanh":
        far, near = torch.maximum(low.abs(), high.abs()), torch.minimum(low.abs(), high.abs())
        near = torch.where((low <= 0) & (high >= 0), 0.0, near)
        return 1 - far.tanh() ** 2, 1 - near.tanh() ** 2
    if activation == "elu":
        return low.clamp(max=0).exp(), high.clamp(max=0).exp()
    return least, most


def boxes(layers: Layers, x: Tensor, radius: Tensor | float, law: str) -> list[tuple[Tensor, Tensor]]:
    """Ranges of what every activation gets, and of what the last layer gets `[batch, width]`, for all inputs within
    `radius` of `x [batch, in]` in the norm `law`: "linf", with one radius an entry if it is a tensor, or "l2"."""
    size = torch.as_tensor(radius, dtype=x.dtype).expand(x.shape[-1])
    found: list[tuple[Tensor, Tensor]] = []
    low, high = x - size, x + size
    for i, (weight, bias) in enumerate(zip(layers.weights[:-1], layers.biases[:-1])):
        middle = (low + high) / 2 @ weight.mT + bias
        wide = (high - low) / 2 @ weight.abs().mT
        if i == 0 and law == "l2":  # the largest of w·δ with ‖δ / size‖₂ ≤ 1
            wide = (weight * size).norm(dim=-1).expand_as(middle)
        found.append((middle - wide, middle + wide))
        low, high = reached(layers.activation, *found[-1])
    return [*found, (low, high)]


def intervals(
    layers: Layers, x: Tensor, radius: Tensor | float, law: str = "linf", rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds `[batch, k]` of the outputs, or of `rows [k, out]` times those, for all inputs within
    `radius` of `x [batch, in]` (interval bound propagation, arXiv:1810.12715; the first layer exactly)."""
    last, bias = _last(layers, rows)
    if len(layers.weights) == 1 and law == "l2":
        size = torch.as_tensor(radius, dtype=x.dtype).expand(x.shape[-1])
        wide = (last * size).norm(dim=-1)
        middle = x @ last.mT + bias
        return middle - wide, middle + wide
    low, high = boxes(layers, x, radius, law)[-1]
    middle, wide = (low + high) / 2 @ last.mT + bias, (high - low) / 2 @ last.abs().mT
    return middle - wide, middle + wide


def product_of_norms(layers: Layers) -> float:
    """The product of the layers' spectral norms and the largest slopes: a Lipschitz constant in the 2-norm."""
    steepest = max(abs(x) for x in SLOPES[layers.activation]) ** (len(layers.weights) - 1)
    return float(torch.stack([torch.linalg.matrix_norm(w, 2) for w in layers.weights]).prod()) * steepest


def lipschitz(layers: Layers, rows: Tensor | None = None, ranges: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
    """Lipschitz constants `[batch, k]` in the 2-norm of every output, or of `rows [k, out]` times the outputs: anywhere
    (batch 1), or where what the activations get lies in the `ranges` that `boxes` returns.

    Every slope is c ± r, so that a product W_3·D·W_2·D·W_1 splits, at each D, into W·c·W and ‖W·√r‖·‖√r·W‖
    (Combettes and Pesquet, arXiv:1903.01014, with the slopes' own centres and radii). Never above the product of norms
    if slopes are between 0 and 1.
    """
    last, _ = _last(layers, rows)
    hidden = [w.shape[0] for w in layers.weights[:-1]]
    if ranges is None:
        least, most = SLOPES[layers.activation]
        pairs = [(torch.full((1, n), least), torch.full((1, n), most)) for n in hidden]
    else:
        pairs = [slopes(layers.activation, *one) for one in ranges[: len(hidden)]]
    centres = [((a + b) / 2).to(last) for a, b in pairs]
    radii = [((b - a) / 2).to(last) for a, b in pairs]

    def through(matrix: Tensor, i: int, norm: Callable[[Tensor], Tensor]) -> Tensor:
        """A bound of the norm of `matrix [batch, out, n_i]` times all that comes before the activation number i."""
        if i < 0:
            return norm(matrix)
        straight = through((matrix * centres[i].unsqueeze(-2)) @ layers.weights[i], i - 1, norm)
        return straight + norm(matrix * radii[i].sqrt().unsqueeze(-2)) * behind[i]

    behind: list[Tensor] = []
    for i in range(len(hidden)):
        scaled = radii[i].sqrt().unsqueeze(-1) * layers.weights[i]
        whole = through(scaled, i - 1, lambda m: torch.linalg.matrix_norm(m, 2))
        behind.append(whole)
    behind = [x.unsqueeze(-1) if x.dim() == 1 else x for x in behind]
    batch = centres[0].shape[0] if centres else 1
    found = through(last.expand(batch, *last.shape), len(hidden) - 1, lambda m: m.norm(dim=-1))
    return found if ranges is None else torch.minimum(found, lipschitz(layers, rows))


def whole(layers: Layers) -> Tensor:
    """A Lipschitz constant in the 2-norm of all outputs together, anywhere; see `lipschitz`."""
    least, most = SLOPES[layers.activation]
    centre, radius = (least + most) / 2, (most - least) / 2
    behind: list[Tensor] = []
    for matrix in layers.weights:
        norm, straight = torch.zeros(()), matrix
        for i in reversed(range(len(behind))):
            norm = norm + torch.linalg.matrix_norm(straight, 2) * radius * behind[i]
            straight = centre * straight @ layers.weights[i]
        behind.append(norm + torch.linalg.matrix_norm(straight, 2))
    return behind[-1]


def _last(layers: Layers, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """The last layer, or `rows` of it."""
    if rows is None:
        return layers.weights[-1], layers.biases[-1]
    return rows @ layers.weights[-1], rows @ layers.biases[-1]


# --- networks of agents ----------------------------------------------------------------------------------------------


def linear_layers(module: nn.Module) -> list[nn.Linear] | None:
    """The linear layers of a row of layers, or None if there is anything else than these and activations."""
    parts = [m for m in module.modules() if not list(m.children())]
    known = (nn.Linear, nn.Tanh, nn.ReLU, nn.SiLU, nn.ELU, nn.GELU)
    return [m for m in parts if isinstance(m, nn.Linear)] if all(isinstance(m, known) for m in parts) else None


def joined(advantages: list[nn.Linear], values: list[nn.Linear]) -> tuple[list[Tensor], list[Tensor]]:
    """Two networks side by side on the same input, and at the end A + V − mean A: a duelling network as one. A has
    `[actions · atoms]` outputs, V `[atoms]`."""
    weights, biases = [], []
    for i, (a, v) in enumerate(zip(advantages[:-1], values[:-1])):
        side = torch.cat([a.weight, v.weight]) if i == 0 else torch.block_diag(a.weight, v.weight)
        weights.append(side)
        biases.append(torch.cat([a.bias, v.bias]))
    a, v = advantages[-1], values[-1]
    atoms = v.out_features
    centred = a.weight.unflatten(0, (-1, atoms)), a.bias.unflatten(0, (-1, atoms))
    own = [(x - x.mean(0, keepdim=True)).flatten(0, 1) for x in centred]
    repeated = v.weight.repeat(len(centred[0]), 1), v.bias.repeat(len(centred[0]))
    last = torch.cat([own[0], repeated[0]], 1) if weights else own[0] + repeated[0]
    return [*weights, last], [*biases, own[1] + repeated[1]]


def layers_of(agent: Agent) -> Layers:
    """The network of an agent, from a normalised observation as a vector to action means before tanh, logits or values.

    Raises:
        UsageError: it is none of linear layers, has a memory, or acts on noisy copies of what it sees.
    """
    module: Any = agent.module
    network: Any = agent.network
    if agent.noisy:
        raise UsageError(
            "interval and Lipschitz bounds are about a network that sees observations as they are, but this agent adds "
            "noise to them; what=action certifies it by its noise if it decides by several draws."
        )
    if agent.acting_rules:
        raise refused("this one has an acting rule after it (agent.ruled() is the network alone)")
    if module.core_state:
        raise refused("this one has a memory")
    if not isinstance(agent.observation_space, gym.spaces.Box) or is_image(agent.observation_space):
        raise refused(f"its observations are {agent.observation_space}")
    if isinstance(module, ActorCritic):
        parts = [*(linear_layers(module.actor.encoder.mlp) or []), module.actor.output]
        weights, biases = _parameters(parts)
    elif network.support is not None:
        raise refused("its values are expectations of distributions (c51)")
    else:
        parts = linear_layers(module.layers) or []
        weights, biases = _parameters(parts)
        if network.dueling:
            weights, biases = joined(parts, linear_layers(module.state_value) or [])
        weights[-1] = weights[-1].unflatten(0, (-1, network.atoms)).mean(1)
        biases[-1] = biases[-1].unflatten(0, (-1, network.atoms)).mean(1)
        if network.kind == "gaussian":
            weights[-1], biases[-1] = (x[: module.distribution.dim] for x in (weights[-1], biases[-1]))
    exact = [tuple(x.detach().double() for x in each) for each in (weights, biases)]
    return Layers(exact[0], exact[1], network.activation)


def end_to_end(agent: Agent) -> Layers:
    """Layers whose Lipschitz constants are those of the whole map, from an observation as it is to a continuous action
    in the environment's units: the normaliser is in the first, the size of the action box in the last. What lies
    between, clips and tanh, has the constant 1.

    Raises:
        UsageError: as `layers_of`, or its actions are discrete.
    """
    layers, distribution = layers_of(agent), agent.module.distribution
    if isinstance(distribution, MultiDiscrete):
        raise UsageError(f"an action of {agent.action_space} is a choice, which has no Lipschitz constant.")
    seen = layers.weights[0].shape[1]
    inward = agent.scales[""][1].flatten().double() if agent.scales else torch.ones(seen, dtype=torch.float64)
    low, high = getattr(distribution, "low", ()), getattr(distribution, "high", ())
    outward = torch.tensor([(b - a) / 2 for a, b in zip(low, high)] or [1.0], dtype=torch.float64)
    return Layers(tuple(in_units(layers.weights, inward, outward)), layers.biases, layers.activation)


def in_units(weights: Sequence[Tensor], inward: Tensor, outward: Tensor) -> list[Tensor]:
    """The weights of layers with factors `inward [in]` of what the first one gets, and `outward [out]` of what the last
    one says."""
    made = list(weights)
    made[0] = made[0] * inward
    made[-1] = outward.unsqueeze(-1) * made[-1]
    return made


def _parameters(parts: list[nn.Linear]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases."""
    return [m.weight for m in parts], [m.bias for m in parts]


def refused(why: str) -> UsageError:
    """An error that says why a network has no such bounds."""
    return UsageError(
        f"interval and Lipschitz bounds need a network of linear layers on one vector, but {why}. Certify its return "
        "under noise instead: surefoot certify RUN --sigma 0.2."
    )

"""Interval and Lipschitz bounds: closed form on linear networks, never violated by search or ascent, tighter than the
product of norms, and networks of agents as the agents compute them."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.errors import UsageError
from surefoot.models import bounds
from surefoot.models.actors import ActorNetwork
from surefoot.models.agent import Agent, Network
from surefoot.models.bounds import FUNCTIONS, Layers, intervals, layers_of, lipschitz, product_of_norms
from surefoot.models.functional import Flat

F64 = torch.float64


def random_layers(seed: int, sizes=(3, 6, 5, 2), activation: str = "tanh", scale: float = 1.0) -> Layers:
    g = torch.Generator().manual_seed(seed)
    weights = tuple(scale * torch.randn(b, a, generator=g, dtype=F64) for a, b in zip(sizes, sizes[1:]))
    biases = tuple(torch.randn(b, generator=g, dtype=F64) for b in sizes[1:])
    return Layers(weights, biases, activation)


def around(x: torch.Tensor, radius: float, law: str, seed: int, count: int = 300) -> torch.Tensor:
    """Points of the ball, most of them on its boundary, and those that ascent on each output finds."""
    g = torch.Generator().manual_seed(seed)
    d = torch.randn(count, len(x), generator=g, dtype=F64)
    d = d.sign() if law == "linf" else d / d.norm(dim=1, keepdim=True)
    return x + radius * d * torch.rand(count, 1, generator=g, dtype=F64) ** 0.1


def ascended(layers: Layers, x: torch.Tensor, radius: float, law: str, output: int, sign: float) -> torch.Tensor:
    d = torch.zeros_like(x)
    for _ in range(15):
        d.requires_grad_()
        (slope,) = torch.autograd.grad(sign * layers((x + d).unsqueeze(0))[0, output], d)
        step = slope.sign() if law == "linf" else slope / slope.norm().clamp(min=1e-12)
        d = (d + 0.3 * radius * step).detach()
        d = d.clamp(-radius, radius) if law == "linf" else d * (radius / d.norm()).clamp(max=1)
    return x + d


def test_linear_networks_have_closed_forms():
    layers = random_layers(0, (4, 3))
    x, w = torch.randn(2, 4, dtype=F64), layers.weights[0]
    for law, dual in (("linf", w.abs().sum(1)), ("l2", w.norm(dim=1))):
        low, high = intervals(layers, x, 0.3, law)
        torch.testing.assert_close(high, layers(x) + 0.3 * dual)
        torch.testing.assert_close(low, layers(x) - 0.3 * dual)
    torch.testing.assert_close(lipschitz(layers)[0], w.norm(dim=1))
    rows = torch.tensor([[1.0, -1.0, 0.0]], dtype=F64)
    torch.testing.assert_close(lipschitz(layers, rows)[0, 0], (w[0] - w[1]).norm())
    norm = float(torch.linalg.matrix_norm(w, 2))
    assert product_of_norms(layers) == pytest.approx(norm) and float(bounds.whole(layers)) == pytest.approx(norm)
    each = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=F64)
    torch.testing.assert_close(intervals(layers, x, each)[1], layers(x) + w.abs() @ each)
    torch.testing.assert_close(intervals(layers, x, each, "l2")[1], layers(x) + (w * each).norm(dim=1))


def test_a_network_of_two_layers_by_hand():
    """f = relu(x₁ + x₂) − relu(x₁ − x₂) at (1, 0): both are in (0, 2) within 1, where f = 2·x₂."""
    layers = Layers(
        (torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64), torch.tensor([[1.0, -1.0]], dtype=F64)),
        (torch.zeros(2, dtype=F64), torch.zeros(1, dtype=F64)), "relu",
    )  # fmt: skip
    x = torch.tensor([[1.0, 0.0]], dtype=F64)
    low, high = intervals(layers, x, 0.5)
    assert (low.item(), high.item()) == (-2.0, 2.0)  # intervals do not see that the two go together
    local = lipschitz(layers, None, bounds.boxes(layers, x, 0.4, "linf"))
    assert local.item() == pytest.approx(2.0)  # slopes are known, so the bound is exact
    assert lipschitz(layers).item() == pytest.approx(0.5 * (2.0 + 2**0.5 * 2**0.5))
    assert product_of_norms(layers) == pytest.approx(2.0)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**20),
    activation=st.sampled_from(sorted(FUNCTIONS)),
    law=st.sampled_from(["linf", "l2"]),
    radius=st.floats(1e-3, 3),
    scale=st.floats(0.1, 2),
)
def test_no_search_and_no_ascent_violates_them(seed, activation, law, radius, scale):
    layers = random_layers(seed, activation=activation, scale=scale)
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)
    low, high = intervals(layers, x, radius, law)
    points = around(x[0], radius, law, seed)
    tried = [ascended(layers, x[0], radius, law, j, s) for j in range(2) for s in (-1.0, 1.0)]
    points = torch.cat([points, torch.stack(tried)])
    answers = layers(points)
    assert (answers <= high + 1e-9).all() and (answers >= low - 1e-9).all()
    ranges = bounds.boxes(layers, x, radius, law)
    distance = (points - x).norm(dim=1, keepdim=True)
    for constant in (lipschitz(layers), lipschitz(layers, None, ranges)):
        assert ((answers - layers(x)).abs() <= constant * distance + 1e-9).all()
    change = (answers - layers(x)).norm(dim=1, keepdim=True)
    assert (change <= float(bounds.whole(layers)) * distance + 1e-9).all()
    assert float(bounds.whole(layers)) <= product_of_norms(layers) * (1 + 1e-9) or activation in ("swish", "gelu")
    assert (lipschitz(layers, None, ranges) <= lipschitz(layers) * (1 + 1e-9)).all()


@pytest.mark.parametrize("activation", sorted(FUNCTIONS))
def test_ranges_of_activations_and_of_their_slopes(activation):
    rng = np.random.default_rng(0)
    for _ in range(100):
        low, high = (torch.tensor([x], dtype=F64) for x in sorted(rng.uniform(-4, 4, 2)))
        x = torch.linspace(low.item(), high.item(), 400, dtype=F64, requires_grad=True)
        y = FUNCTIONS[activation](x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        least, most = bounds.reached(activation, low, high)
        assert least.item() <= y.min().item() + 1e-14 and most.item() >= y.max().item() - 1e-14
        assert most.item() == pytest.approx(y.max().item(), abs=1e-9)
        assert least.item() == pytest.approx(y.min().item(), abs=1e-3)
        flat, steep = bounds.slopes(activation, low, high)
        assert flat.item() <= slope.min().item() + 1e-9 and steep.item() >= slope.max().item() - 1e-9


BOX, DISCRETE, ACTIONS = gym.spaces.Box(-2, 2, (3,)), gym.spaces.Discrete(4), gym.spaces.Box(-1, 3, (2,))
NETWORKS = [
    (Network(hidden=(8, 7)), ACTIONS),
    (Network(hidden=(8,), squash=True, activation="elu", shared=True), ACTIONS),
    (Network(hidden=(), activation="gelu"), DISCRETE),
    (ActorNetwork("deterministic", (8, 7)), ACTIONS),
    (ActorNetwork("gaussian", (8,)), ACTIONS),
    (ActorNetwork("values", (8, 7), dueling=True), DISCRETE),
    (ActorNetwork("values", (8,), atoms=5, dueling=True), DISCRETE),
    (ActorNetwork("values", (), atoms=5), DISCRETE),
]


def agent_of(network, action, **facts) -> Agent:
    size = Flat(network.make(BOX, action)).size
    g = torch.Generator().manual_seed(0)
    scales = {"": (torch.randn(3, generator=g), torch.rand(3, generator=g) + 0.5)}
    return Agent(network, BOX, action, torch.randn(size, generator=g) / 2, scales, facts)


@pytest.mark.parametrize(("network", "action"), NETWORKS)
def test_layers_are_what_the_agent_computes(network, action):
    agent = agent_of(network, action)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    layers = layers_of(agent)
    mean, inverse = agent.scales[""]
    found = layers(((x - mean) * inverse).clamp(-10, 10).double())
    distribution, params = agent.respond(x)
    wanted = params if action is DISCRETE else distribution.mode(params)
    found = found.tanh() if getattr(network, "kind", "") == "deterministic" else found
    torch.testing.assert_close(found.float(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "facts", "words"),
    [
        (Network(hidden=(8,), core="gru", core_size=4), {}, "this one has a memory"),
        (ActorNetwork("values", (8,), atoms=5, support=(0.0, 1.0)), {}, "expectations of distributions"),
        (Network(hidden=(8,)), {"smoothing": 0.1}, "adds noise to them"),
    ],
)
def test_networks_without_such_bounds_are_refused(network, facts, words):
    with pytest.raises(UsageError, match=words):
        layers_of(agent_of(network, DISCRETE, **facts))

"""C51: the projection by hand and by a loop, a step of a batch by loops over atoms, known distributions, masks."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from surefoot.errors import UsageError
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.networks.nets import Function, gradient_step
from surefoot.methods.control.c51 import C51
from surefoot.objectives.bootstrap import projected

F64 = torch.float64
PLAIN, ACTIONS, SIZE = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(4), 16
MASKED = gym.spaces.Dict({"x": gym.spaces.Box(-1, 1, (3,)), "action_mask": gym.spaces.MultiBinary(4)})


def by_hand(probability: Tensor, support: Tensor, reward: float, discount: float) -> Tensor:
    """Algorithm 1 of the paper: floor and ceiling of every atom in turn."""
    out, step = torch.zeros_like(probability), float(support[1] - support[0])
    for p, z in zip(probability.tolist(), support.tolist()):
        place = (min(max(reward + discount * z, float(support[0])), float(support[-1])) - float(support[0])) / step
        low, high = int(np.floor(place + 1e-12)), int(np.ceil(place - 1e-12))
        if low == high:
            out[low] += p
        else:
            out[low] += p * (high - place)
            out[high] += p * (place - low)
    return out


def test_the_projection_by_hand():
    """Baselines' check 6: 5.2 becomes 6.148, between the atoms 40 and 41; 100 is clipped to the last."""
    support, one = torch.linspace(-10, 10, 51, dtype=F64), torch.zeros(1, 51, dtype=F64)
    one[0, 38] = 1.0
    assert float(support[38]) == pytest.approx(5.2)
    m = projected(one, support, torch.tensor([1.0], dtype=F64), torch.tensor([0.99], dtype=F64))[0]
    assert m[40].item() == pytest.approx(0.63) and m[41].item() == pytest.approx(0.37)
    assert float(m @ support) == pytest.approx(6.148) and float(m.sum()) == pytest.approx(1.0)
    m = projected(one, support, torch.tensor([100.0], dtype=F64), torch.tensor([0.99], dtype=F64))[0]
    assert m[50].item() == pytest.approx(1.0)


@given(st.integers(0, 2**20), st.integers(2, 12), st.floats(0, 1))
def test_the_projection_is_that_of_the_paper_s_algorithm(seed, atoms, discount):
    rng = np.random.default_rng(seed)
    support = torch.linspace(-2, 3, atoms, dtype=F64)
    probability = torch.from_numpy(rng.dirichlet(np.ones(atoms), 3))
    reward = torch.from_numpy(rng.normal(size=3) * 2)
    found = projected(probability, support, reward, torch.full((3,), discount, dtype=F64))
    wanted = [by_hand(p, support, float(r), discount) for p, r in zip(probability, reward)]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=0, atol=1e-9)


def two_layers(vector: Tensor, x: Tensor) -> Tensor:
    a, b, c, d = vector.split([24, 8, 20 * 8, 20])
    return ((x @ a.view(8, 3).T + b).relu() @ c.view(20, 8).T + d).view(-1, 4, 5)


@pytest.mark.parametrize("double", [False, True])
def test_a_step_by_loops_over_atoms(double):
    method = C51(hidden=(8,), atoms=5, v_min=-1, v_max=3, learning_rate=1e-3, double=double)
    nets = method.networks(PLAIN, ACTIONS)
    function, g = Function(nets["critic"]), torch.Generator().manual_seed(0)
    weights = {"critic": torch.randn(function.size, dtype=F64, generator=g) * 0.5}
    targets = {"critic": torch.randn(function.size, dtype=F64, generator=g) * 0.5}
    batch: dict[str, Any] = {
        **{k: torch.randn(SIZE, 3, generator=g, dtype=F64) for k in ("observation", "next_observation")},
        "reward": torch.randn(SIZE, generator=g, dtype=F64),
        "weight": torch.rand(SIZE, generator=g, dtype=F64),
        "discount": 0.9 * (torch.rand(SIZE, generator=g, dtype=F64) > 0.3),
        "action": torch.randint(4, (SIZE,), generator=g),
    }
    support, vector = torch.linspace(-1, 3, 5, dtype=F64), nn.Parameter(weights["critic"].clone())
    with torch.no_grad():
        after = two_layers(targets["critic"], batch["next_observation"]).softmax(-1)
        online = two_layers(weights["critic"], batch["next_observation"]).softmax(-1)
        best = ((online if double else after) @ support).argmax(-1)
    logs = two_layers(vector, batch["observation"]).log_softmax(-1)
    total: Any = 0.0
    for row in range(SIZE):
        aim = by_hand(after[row, best[row]], support, float(batch["reward"][row]), float(batch["discount"][row]))
        total -= batch["weight"][row] * (aim * logs[row, batch["action"][row]]).sum() / SIZE
    total.backward()
    torch.optim.Adam([vector], 1e-3, eps=0.01 / 32).step()
    adams = {"critic": Adam(*(torch.zeros_like(weights["critic"]) for _ in range(2)), torch.zeros((), dtype=F64))}
    now, _, metrics = gradient_step(nets, {"critic": function}, ("critic",))(weights, targets, adams, batch)
    assert float(metrics["critic_loss"]) == pytest.approx(float(total.detach()), rel=1e-9)
    torch.testing.assert_close(now["critic"], vector.detach(), rtol=1e-8, atol=1e-10)


def test_values_are_those_of_the_distribution_and_a_forbidden_action_is_never_the_best():
    network = C51(hidden=(8,), atoms=7, v_min=0, v_max=6).actor_network()
    actor = network.make(PLAIN, ACTIONS)
    x = torch.randn(50, 3)
    wanted = (actor.atoms(x).softmax(-1) * torch.arange(7.0)).sum(-1)
    torch.testing.assert_close(actor.params(x), wanted)
    masked = network.make(MASKED, ACTIONS)
    seen = {"x": x, "action_mask": torch.tensor([[0, 1, 0, 1]]).expand(50, -1)}
    assert set(masked.params(seen).argmax(-1).tolist()) <= {1, 3}


def test_limits_in_the_wrong_order_are_refused():
    with pytest.raises(UsageError, match="v_min=3 is not allowed with v_max=1"):
        C51(v_min=3.0, v_max=1.0)

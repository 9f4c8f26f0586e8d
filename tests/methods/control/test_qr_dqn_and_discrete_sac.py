"""QR-DQN and discrete SAC: the baselines' card, an independent computation of losses and steps, masks."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from surefoot.loops.common.optimizer import Adam
from surefoot.loops.networks.nets import Function, Weights, gradient_step
from surefoot.methods.control.qr_dqn import QRDQN
from surefoot.methods.control.sac_discrete import DiscreteSAC
from surefoot.objectives.bootstrap import entropic_value, quantile_huber

F64 = torch.float64
MASKED = gym.spaces.Dict({"x": gym.spaces.Box(-1, 1, (3,)), "action_mask": gym.spaces.MultiBinary(4)})
PLAIN, ACTIONS, SIZE = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(4), 16


def a_batch(seed: int = 0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    found = {k: torch.randn(SIZE, 3, generator=g, dtype=F64) for k in ("observation", "next_observation")}
    rows = {"reward": torch.randn(SIZE, generator=g, dtype=F64), "weight": torch.ones(SIZE, dtype=F64)}
    discount = 0.99 * (torch.rand(SIZE, generator=g, dtype=F64) > 0.3)
    return {**found, **rows, "discount": discount, "action": torch.randint(4, (SIZE,), generator=g), "noise": {}}


def made(method: QRDQN | DiscreteSAC, space: gym.Space = PLAIN) -> tuple[dict, dict, dict, dict]:
    nets = method.networks(space, ACTIONS)
    functions = {name: Function(net) for name, net in nets.items()}
    g = torch.Generator().manual_seed(1)
    weights = {n: torch.randn(f.size, dtype=F64, generator=g) * 0.5 for n, f in functions.items()}
    targets = {n: x + 0.2 for n, x in weights.items() if nets[n].target_rate is not None}
    return nets, functions, weights, targets


def two_layers(vector: Tensor, inputs: int, hidden: int, outputs: int, x: Tensor) -> Tensor:
    """A network of one hidden layer of ReLU, from the order in which torch names parameters."""
    sizes = [hidden * inputs, hidden, outputs * hidden, outputs]
    a, b, c, d = vector.split(sizes)
    return (x @ a.view(hidden, inputs).T + b).relu() @ c.view(outputs, hidden).T + d


# --- QR-DQN ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("double", [False, True])
def test_quantile_regression_one_pair_at_a_time(double):
    """Baselines' check 7, and the loss and step of a batch by loops over quantiles."""
    assert quantile_huber(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 3.0]])).tolist() == [0.625]
    method, count = QRDQN(hidden=(8,), quantiles=5, kappa=0.5, learning_rate=1e-3, double=double), 5
    nets, functions, weights, targets = made(method)
    given = a_batch()
    vector = nn.Parameter(weights["critic"].clone())
    with torch.no_grad():
        after = two_layers(targets["critic"], 3, 8, 20, given["next_observation"]).view(SIZE, 4, count)
        online = two_layers(weights["critic"], 3, 8, 20, given["next_observation"]).view(SIZE, 4, count)
        best = (online if double else after).mean(-1).argmax(-1)
    theta = two_layers(vector, 3, 8, 20, given["observation"]).view(SIZE, 4, count)
    total: Any = 0.0
    for row in range(SIZE):
        for i in range(count):
            for j in range(count):
                aim = given["reward"][row] + given["discount"][row] * after[row, best[row], j]
                u = aim - theta[row, given["action"][row], i]
                huber = 0.5 * u**2 if abs(u) <= 0.5 else 0.5 * (abs(u) - 0.25)
                total += abs((i + 0.5) / count - float(u < 0)) * huber / 0.5 / count / SIZE
    total.backward()
    torch.optim.Adam([vector], 1e-3).step()
    adams = {n: Adam(torch.zeros_like(x), torch.zeros_like(x), torch.zeros((), dtype=F64)) for n, x in weights.items()}
    now, _, metrics = gradient_step(nets, functions, ("critic",))(weights, targets, adams, given)
    assert float(metrics["critic_loss"]) == pytest.approx(float(total), rel=1e-12)
    torch.testing.assert_close(now["critic"], vector.detach(), rtol=1e-9, atol=1e-12)


def test_the_quantiles_of_a_known_distribution_are_found():
    """With γ = 0 and rewards of 0 and 1 in equal shares, quantiles below the median are 0 and those above it 1."""
    theta = torch.full((1, 8), 0.5, dtype=F64)
    for step in range(1000):
        slope = torch.func.grad(lambda x: quantile_huber(x, torch.tensor([[0.0, 1.0]], dtype=F64), 0.01).sum())(theta)
        theta = theta - 0.1 / (1 + step / 100) * slope
    assert theta[0].tolist() == pytest.approx([0.0] * 4 + [1.0] * 4, abs=0.02)


def test_a_forbidden_action_is_never_the_best_one():
    actor = QRDQN(hidden=(8,), quantiles=7).actor_network().make(MASKED, ACTIONS)
    x = {"x": torch.randn(50, 3), "action_mask": torch.tensor([[0, 1, 0, 1]]).expand(50, -1)}
    assert set(actor.params(x).argmax(-1).tolist()) <= {1, 3}
    assert set(actor.atoms(x).mean(-1).argmax(-1).tolist()) <= {1, 3}


# --- discrete SAC ----------------------------------------------------------------------------------------------------


def test_entropic_values():
    """Baselines' check 4."""
    values = torch.tensor([[1.0, 3.0]], dtype=F64)
    assert float(entropic_value(torch.full((1, 2), math.log(0.5), dtype=F64), values, 0.2)) == pytest.approx(2.138629)
    values = torch.tensor([[1.0, 1.2]], dtype=F64)
    logits = values / 0.2
    best = logits.log_softmax(-1)
    assert best.exp()[0].tolist() == pytest.approx([0.268941, 0.731059], abs=1e-6)
    assert float(entropic_value(best, values, 0.2)) == pytest.approx(1.262652, abs=1e-6)
    slope = torch.func.grad(lambda x: entropic_value(x.log_softmax(-1), values, 0.2).sum())(logits)
    assert float(slope.abs().max()) < 1e-12


def test_the_temperature_falls_while_the_entropy_is_above_its_goal():
    nets, functions, weights, _ = made(DiscreteSAC(hidden=(8,)))
    weights["temperature"] = torch.tensor([0.3], dtype=F64)
    given = a_batch()
    log_prob = functions["actor"](weights["actor"], given["observation"]).log_softmax(-1)
    entropy = float(-(log_prob.exp() * log_prob).sum(-1).mean())
    assert 0.89 * math.log(4) == pytest.approx(1.233802, abs=1e-6)

    def loss(x: Tensor) -> Tensor:
        return nets["temperature"].loss(Weights(functions, {**weights, "temperature": x}, {}, weights), given)[0].sum()

    slope = float(torch.func.grad(loss)(weights["temperature"]))
    assert slope == pytest.approx(math.exp(0.3) * (entropy - 1.233802), rel=1e-5)


def test_a_step_of_critics_and_actor_by_hand():
    method = DiscreteSAC(hidden=(8,), temperature=0.3)
    nets, functions, weights, targets = made(method)
    given, size = a_batch(), functions["critic"].size // 2
    weights["temperature"] = torch.tensor([math.log(0.3)], dtype=F64)

    def values(vector: Tensor, x: Tensor) -> Tensor:
        return torch.stack([two_layers(v, 3, 8, 4, x) for v in vector.split(size)])

    critic, actor = (nn.Parameter(weights[n].clone()) for n in ("critic", "actor"))
    with torch.no_grad():
        pi = two_layers(actor, 3, 8, 4, given["next_observation"]).softmax(-1)
        soft = (pi * (values(targets["critic"], given["next_observation"]).min(0).values - 0.3 * pi.log())).sum(-1)
        target = given["reward"] + given["discount"] * soft
    rows = torch.arange(SIZE)
    errors = [q[rows, given["action"]] - target for q in values(critic, given["observation"])]
    loss = sum(((e**2).mean() for e in errors), torch.zeros((), dtype=F64))
    loss.backward()
    torch.optim.Adam([critic], 3e-4, eps=1e-4).step()
    pi = two_layers(actor, 3, 8, 4, given["observation"]).softmax(-1)
    least = values(critic, given["observation"]).min(0).values.detach()
    actor_loss = (pi * (0.3 * pi.log() - least)).sum(-1).mean()
    actor_loss.backward()
    torch.optim.Adam([actor], 3e-4, eps=1e-4).step()
    adams = {n: Adam(torch.zeros_like(x), torch.zeros_like(x), torch.zeros((), dtype=F64)) for n, x in weights.items()}
    now, _, metrics = gradient_step(nets, functions, ("critic", "actor"))(weights, targets, adams, given)
    assert float(metrics["critic_loss"]) == pytest.approx(float(loss), rel=1e-12)
    assert float(metrics["actor_loss"]) == pytest.approx(float(actor_loss), rel=1e-12)
    torch.testing.assert_close(now["critic"], critic.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(now["actor"], actor.detach(), rtol=1e-9, atol=1e-12)


def test_forbidden_actions_have_neither_probability_nor_gradient():
    nets, functions, weights, targets = made(DiscreteSAC(hidden=(8,)), MASKED)
    given = a_batch()
    mask = torch.from_numpy(np.random.default_rng(0).random((SIZE, 4)) < 0.6)
    mask[:, 0] = True
    for name in ("observation", "next_observation"):
        given[name] = {"x": given[name], "action_mask": mask}
    given["action"] = torch.zeros(SIZE, dtype=torch.int64)
    adams = {n: Adam(torch.zeros_like(x), torch.zeros_like(x), torch.zeros((), dtype=F64)) for n, x in weights.items()}
    now, _, metrics = gradient_step(nets, functions, tuple(nets))(weights, targets, adams, given)
    assert all(torch.isfinite(x).all() for x in (*now.values(), *metrics.values()))
    assert abs(float(metrics["actor_loss"])) < 100
    probability = functions["actor"](now["actor"], given["observation"]).softmax(-1)
    assert float(probability[~mask].max()) == 0

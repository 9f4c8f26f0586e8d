"""Losses and one update of TD3, SAC and DQN against Stable-Baselines3 on the same weights, and the cards' numbers."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from surefoot.loops.common.optimizer import Adam
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.machine import Means
from surefoot.loops.networks.nets import Function, Net, Weights, gradient_step
from surefoot.methods.control.dqn import DQN
from surefoot.methods.control.sac import SAC
from surefoot.methods.control.td3 import TD3
from surefoot.models.actors import Scalar
from surefoot.objectives import bootstrap


@pytest.fixture(autouse=True)
def peer_in_float64(monkeypatch):
    """Stable-Baselines3 casts observations to float32 unless it is kept from it."""
    monkeypatch.setattr("stable_baselines3.common.policies.preprocess_obs", lambda x, *_, **__: x)


OBSERVATION = gym.spaces.Box(-1, 1, (3,), np.float32)
BOX = gym.spaces.Box(-2, 2, (2,), np.float32)
DISCRETE = gym.spaces.Discrete(4)
SIZE = 16


def batch(actions: gym.Space, **noise: Tensor) -> dict:
    g = torch.Generator().manual_seed(0)
    continuous = isinstance(actions, gym.spaces.Box)
    action = torch.rand(SIZE, 2, generator=g) * 2 - 1 if continuous else torch.randint(4, (SIZE,), generator=g)
    found = {
        "observation": torch.randn(SIZE, 3, generator=g),
        "next_observation": torch.randn(SIZE, 3, generator=g),
        "action": action,
        "reward": torch.randn(SIZE, generator=g),
        "discount": 0.99 * (torch.rand(SIZE, generator=g) > 0.3),
        "weight": torch.ones(SIZE),
        "noise": noise,
    }
    return {k: x.double() if torch.is_tensor(x) and x.is_floating_point() else x for k, x in found.items()}


def made(method, actions: gym.Space) -> tuple[dict, dict, dict, dict]:
    """Networks, their functions, weights and targets in float64; targets differ from weights."""
    nets = method.networks(OBSERVATION, actions)
    functions = {name: Function(net) for name, net in nets.items()}
    torch.manual_seed(1)
    weights = {n: torch.randn(f.size, dtype=torch.float64) * 0.3 for n, f in functions.items()}
    targets = {n: x + 0.1 * torch.randn_like(x) for n, x in weights.items() if nets[n].target_rate is not None}
    return nets, functions, weights, targets


def copied(module: torch.nn.Module, vector: Tensor) -> None:
    """Fill a module of the peer with a vector, parameter by parameter."""
    sizes = [p.numel() for p in module.parameters()]
    for parameter, part in zip(module.parameters(), vector.split(sizes), strict=True):
        parameter.data = part.view_as(parameter).clone()


def one_step(nets, functions, weights, targets, given, due):
    adams = {
        n: Adam(torch.zeros_like(x), torch.zeros_like(x), torch.zeros((), dtype=x.dtype)) for n, x in weights.items()
    }
    return gradient_step(nets, functions, due)(weights, targets, adams, given)


def peer(loss: Tensor, module: torch.nn.Module, lr: float) -> Tensor:
    """The module's parameters after one step of torch's Adam."""
    optimizer = torch.optim.Adam(module.parameters(), lr)
    loss.backward()
    optimizer.step()
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def test_td3_against_stable_baselines3():
    from stable_baselines3.td3.policies import TD3Policy

    method = TD3(hidden=(8, 8), learning_rate=1e-3)
    nets, functions, weights, targets = made(method, BOX)
    given = batch(BOX, target=torch.randn(SIZE, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    theirs = TD3Policy(OBSERVATION, BOX, lambda _: 1e-3, net_arch=[8, 8]).double()
    copied(theirs.actor, weights["actor"])
    copied(theirs.actor_target, targets["actor"])
    copied(theirs.critic, weights["critic"])
    copied(theirs.critic_target, targets["critic"])
    obs, following, done = given["observation"], given["next_observation"], given["discount"] == 0
    with torch.no_grad():
        noise = (given["noise"]["target"] * 0.2).clamp(-0.5, 0.5)
        action = (theirs.actor_target(following) + noise).clamp(-1, 1)
        least = torch.cat(theirs.critic_target(following, action), 1).min(1).values
        target = given["reward"] + ~done * 0.99 * least
    loss = sum(torch.nn.functional.mse_loss(q.squeeze(1), target) for q in theirs.critic(obs, given["action"]))
    critic = peer(loss, theirs.critic, 1e-3)
    actor = peer(-theirs.critic.q1_forward(obs, theirs.actor(obs)).mean(), theirs.actor, 1e-3)
    now, _, metrics = one_step(nets, functions, weights, targets, given, ("critic", "actor"))
    assert float(metrics["critic_loss"]) == pytest.approx(float(loss), rel=1e-12)
    torch.testing.assert_close(now["critic"], critic, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(now["actor"], actor, rtol=1e-9, atol=1e-12)


def test_sac_against_stable_baselines3():
    from stable_baselines3.sac.policies import SACPolicy

    method = SAC(hidden=(8, 8), learning_rate=1e-3)
    nets, functions, weights, targets = made(method, BOX)
    weights["temperature"] = torch.tensor([-1.3], dtype=torch.float64)
    now_noise, next_noise = torch.randn(2, SIZE, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    given = batch(BOX, now=now_noise, next=next_noise)
    theirs = SACPolicy(OBSERVATION, BOX, lambda _: 1e-3, net_arch=[8, 8]).double()
    copied(theirs.critic, weights["critic"])
    copied(theirs.critic_target, targets["critic"])
    _fill_sac_actor(theirs.actor, functions["actor"].flat.unflatten(weights["actor"]))
    obs, following, done = given["observation"], given["next_observation"], given["discount"] == 0

    def act(x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std, _ = theirs.actor.get_action_dist_params(x)
        raw = mean + log_std.exp() * noise
        normal = torch.distributions.Normal(mean, log_std.exp())
        action = torch.tanh(raw)
        return action, normal.log_prob(raw).sum(1) - torch.log(1 - action**2).sum(1)

    alpha = weights["temperature"].exp()
    log_alpha = torch.nn.Parameter(weights["temperature"].clone())
    temperature_loss = -(log_alpha * (act(obs, now_noise)[1] - 2).detach()).mean()
    new_alpha = peer(temperature_loss, torch.nn.ParameterList([log_alpha]), 1e-3).exp()
    with torch.no_grad():
        action, log_prob = act(following, next_noise)
        least = torch.cat(theirs.critic_target(following, action), 1).min(1).values
        target = given["reward"] + ~done * 0.99 * (least - alpha * log_prob)
    loss = 0.5 * sum(torch.nn.functional.mse_loss(q.squeeze(1), target) for q in theirs.critic(obs, given["action"]))
    critic = peer(loss, theirs.critic, 1e-3)
    action, log_prob = act(obs, now_noise)
    value = torch.cat(theirs.critic(obs, action), 1).min(1).values
    actor_loss = (alpha * log_prob - value).mean()
    now, _, metrics = one_step(nets, functions, weights, targets, given, ("temperature", "critic", "actor"))
    assert float(metrics["temperature"]) == pytest.approx(float(alpha), rel=1e-12)
    assert float(metrics["critic_loss"]) == pytest.approx(float(loss), rel=1e-10)
    assert float(metrics["actor_loss"]) == pytest.approx(float(actor_loss), rel=1e-8)
    assert float(now["temperature"]) == pytest.approx(float(new_alpha.log()), rel=1e-10)
    torch.testing.assert_close(now["critic"], critic, rtol=1e-8, atol=1e-10)


def _fill_sac_actor(actor: torch.nn.Module, ours: dict[str, Tensor]) -> None:
    """Their mean and log deviation are two layers, ours one."""
    body = list(actor.latent_pi.parameters())
    for parameter, mine in zip(body, list(ours.values())[:4], strict=True):
        parameter.data = mine.clone()
    weight, bias = list(ours.values())[4:]
    for layer, w, b in zip((actor.mu, actor.log_std), weight.chunk(2), bias.chunk(2), strict=True):
        layer.weight.data, layer.bias.data = w.clone(), b.clone()


@pytest.mark.parametrize("double", [False, True])
def test_dqn_against_stable_baselines3(double):
    from stable_baselines3.dqn.policies import DQNPolicy

    method = DQN(hidden=(8, 8), learning_rate=1e-3, double=double)
    nets, functions, weights, targets = made(method, DISCRETE)
    given = batch(DISCRETE)
    theirs = DQNPolicy(OBSERVATION, DISCRETE, lambda _: 1e-3, net_arch=[8, 8]).double()
    copied(theirs.q_net, weights["critic"])
    copied(theirs.q_net_target, targets["critic"])
    with torch.no_grad():
        values = theirs.q_net_target(given["next_observation"])
        by = theirs.q_net(given["next_observation"]) if double else values
        best = values.gather(1, by.argmax(1, keepdim=True)).squeeze(1)
        target = given["reward"] + (given["discount"] > 0) * 0.99 * best
    current = theirs.q_net(given["observation"]).gather(1, given["action"].unsqueeze(1)).squeeze(1)
    loss = torch.nn.functional.smooth_l1_loss(current, target)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(theirs.q_net.parameters(), 10.0)
    optimizer = torch.optim.Adam(theirs.q_net.parameters(), 1e-3)
    optimizer.step()
    critic = torch.cat([p.detach().reshape(-1) for p in theirs.q_net.parameters()])
    now, _, metrics = one_step(nets, functions, weights, targets, given, ("critic",))
    assert float(metrics["critic_loss"]) == pytest.approx(float(loss), rel=1e-12)
    torch.testing.assert_close(now["critic"], critic, rtol=1e-9, atol=1e-12)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_targets_of_the_baselines():
    reward, discount = torch.tensor([1.0, 1.0]), torch.tensor([0.99, 0.0])
    value = bootstrap.lowest(torch.tensor([[10.0, 10.0], [8.0, 8.0]]))
    assert bootstrap.bootstrapped(reward, discount, value).tolist() == pytest.approx([8.92, 1.0])  # TD3
    assert float(bootstrap.bootstrapped(reward, discount, torch.full((2,), 8 + 0.2 * 1.5))[0]) == pytest.approx(
        9.217
    )  # SAC
    online, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 3.0]])
    assert bootstrap.greedy_value(target, online).tolist() == [3.0]  # double
    assert bootstrap.greedy_value(target, target).tolist() == [5.0]


def test_smoothing_is_clipped_twice():
    action, noise = torch.tensor([[0.5, 0.9, -0.2]]), torch.tensor([[1.0, 10.0, -10.0]])
    assert bootstrap.smoothed(action, noise, 0.2, 0.5).tolist() == [pytest.approx([0.7, 1.0, -0.7])]


def test_quantile_huber():
    quantiles, targets = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 3.0]])
    assert bootstrap.quantile_huber(quantiles, targets).tolist() == [0.625]
    assert bootstrap.quantile_huber(torch.tensor([[1.5]]), torch.tensor([[1.5]])).tolist() == [0.0]


def test_a_loss_moves_its_own_weights_alone():
    """The actor's step goes through the critic and leaves it as it is, and a target never moves by a gradient."""
    nets, functions, weights, targets = made(TD3(hidden=(8,)), BOX)
    given = batch(BOX, target=torch.zeros(SIZE, 2, dtype=torch.float64))
    now, _, _ = one_step(nets, functions, weights, targets, given, ("actor",))
    assert torch.equal(now["critic"], weights["critic"]) and not torch.equal(now["actor"], weights["actor"])


def test_networks_step_in_the_order_in_which_they_are_named():
    def toward(other: str):
        def loss(w: Weights, batch: dict) -> tuple[Tensor, dict]:
            mine = w("a") if other == "b" else w("b")
            return mine * w.fixed(other), {}

        return loss

    nets = {"a": Net(lambda: Scalar(0.0), toward("b"), 0.1), "b": Net(lambda: Scalar(0.0), toward("a"), 0.1)}
    functions = {n: Function(net) for n, net in nets.items()}
    weights = {n: torch.tensor([x], dtype=torch.float64) for n, x in (("a", 0.05), ("b", 1.0))}
    now, _, _ = one_step(nets, functions, weights, {}, {}, ("a", "b"))
    assert float(now["a"]) == pytest.approx(-0.05)
    assert float(now["b"]) == pytest.approx(1.1)  # by the new a, which is negative


def test_copies_are_independent():
    net = Net(lambda: torch.nn.Linear(2, 1), copies=3)
    function = Function(net)
    vector = torch.randn(function.size)
    x = torch.randn(5, 2)
    found = function(vector, x)
    for copy, part in enumerate(vector.view(3, -1)):
        torch.testing.assert_close(found[copy], function.flat(part, x))


def test_observations_are_normalised_by_all_that_were_seen():
    method = SAC(hidden=(8,), batch_size=8, learning_starts=20, log_every=40, num_envs=2, normalize_observations=True)
    run = make_learner(method, "Pendulum-v1", [0, 1], 1000)
    for _ in range(2):
        run.iterate()
    stored = np.asarray(run.replay.store["observation"])[1:41].reshape(40, 2, 2, 3)
    mean, inverse = run.scales()[""]
    np.testing.assert_allclose(mean[:, 0], stored.mean((0, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(1 / inverse[:, 0], stored.std((0, 2)), rtol=1e-4)


def test_metrics_are_means_over_the_steps_that_have_them():
    means = Means()
    for found in ({"a": 1.0, "b": 5.0}, {"a": 2.0}, {"a": 6.0, "b": 6.0}):
        means.add({name: torch.tensor([value]) for name, value in found.items()})
    assert {name: float(value) for name, value in means.values().items()} == {"a": 3.0, "b": 5.5}

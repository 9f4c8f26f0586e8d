"""DDPG: the card's exact checks, its special cases, and noise with a memory that a resumed run goes on with."""

from __future__ import annotations

import math
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Function, Net, Weights, gradient_step
from surefoot.methods.control.ddpg import DDPG
from surefoot.methods.control.td3 import TD3
from surefoot.models.actors import ActionValue

F64 = torch.float64
OBSERVATION = gym.spaces.Box(-1, 1, (3,), np.float32)
BOX = gym.spaces.Box(-2, 2, (2,), np.float32)


def small(**changes: Any) -> DDPG:
    sizes = {"hidden": (8, 8), "batch_size": 16, "learning_starts": 20, "log_every": 40, "buffer_size": 500}
    return DDPG(**{**sizes, **changes})


def a_batch(discount: float = 0.99) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    found = {k: torch.randn(16, 3, generator=g, dtype=F64) for k in ("observation", "next_observation")}
    rows = {"reward": torch.randn(16, generator=g, dtype=F64), "discount": torch.full((16,), discount, dtype=F64)}
    return {**found, **rows, "action": torch.rand(16, 2, generator=g, dtype=F64) * 2 - 1,
            "weight": torch.ones(16, dtype=F64), "noise": {}}  # fmt: skip


def made(method: DDPG | TD3) -> tuple[dict, dict, dict, dict]:
    """Networks, functions, weights and targets in float64."""
    nets = method.networks(OBSERVATION, BOX)
    functions = {name: Function(net) for name, net in nets.items()}
    g = torch.Generator().manual_seed(1)
    weights = {n: torch.randn(f.size, dtype=F64, generator=g) * 0.3 for n, f in functions.items()}
    return nets, functions, weights, {n: x + 0.1 for n, x in weights.items()}


def stepped(method: DDPG | TD3, given: dict[str, Any], due: tuple[str, ...] = ("critic", "actor")) -> tuple[Any, ...]:
    nets, functions, weights, targets = made(method)
    adams = {n: Adam(torch.zeros_like(x), torch.zeros_like(x), torch.zeros((), dtype=F64)) for n, x in weights.items()}
    now, _, metrics = gradient_step(nets, functions, due)(weights, targets, adams, given)
    return now, weights, metrics


# --- exploration -----------------------------------------------------------------------------------------------------


def noises(method: DDPG, drawn: np.ndarray, starts: list[bool]) -> np.ndarray:
    """What is added to the actions of one environment."""
    before, found, no_module = {"action": np.zeros((1, 1, 1), np.float32)}, [], cast(Any, None)
    for x, start in zip(drawn.astype(np.float32), starts, strict=True):
        before = method.remembered({"action": x.reshape(1, 1, 1)}, before, np.array([[start]]))
        added = {"action": torch.from_numpy(before["action"])[0, 0]}
        found.append(float(method.explore(no_module, torch.zeros(1), added, torch.zeros(()))))
    return np.array(found)


def test_the_noise_of_ornstein_and_uhlenbeck():
    """Card, exact check 1; in a new episode it starts from 0 again."""
    drawn = np.array([1, -0.5, 0.25])
    assert noises(DDPG(), drawn, [True, False, False]) == pytest.approx([0.2, 0.07, 0.1095])
    assert noises(DDPG(), drawn, [True, False, True]) == pytest.approx([0.2, 0.07, 0.05])
    assert noises(DDPG(reversion=1.0), drawn, [True, False, False]) == pytest.approx([0.2, -0.1, 0.05])
    response = noises(DDPG(), np.eye(1, 200)[0], [False] * 200)
    assert math.sqrt((response**2).sum()) == pytest.approx(0.379663, abs=1e-6)  # the stationary deviation


@given(st.lists(st.booleans(), min_size=2, max_size=12), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_what_came_before_an_episode_has_no_influence_on_it(starts, seed):
    drawn = np.random.default_rng(seed).normal(size=len(starts)) * 0.3
    cut = max((i for i, start in enumerate(starts) if start), default=0)
    starts[cut] = True
    assert noises(DDPG(), drawn, starts)[cut:].tolist() == noises(DDPG(), drawn[cut:], starts[cut:]).tolist()


def test_a_run_that_is_stopped_goes_on_with_its_noise(tmp_path):
    """Pendulum's episodes last 200 steps, so the run is stopped, and goes on, within one."""
    whole, again = (
        make_learner(small(num_envs=2), "Pendulum-v1", [7], 1000, log=tmp_path / name) for name in ("first", "again")
    )
    whole.iterate()
    (tmp_path / "again").write_bytes((tmp_path / "first").read_bytes() if whole.flush() else b"")
    again.load(whole.state(), 1, whole.steps // 2)
    assert whole.iterate() == again.iterate()
    assert all(torch.equal(whole.weights[name], again.weights[name]) for name in whole.weights)


# --- losses and steps ------------------------------------------------------------------------------------------------


def test_the_deterministic_policy_gradient():
    """Card, exact check 3: Q(s, a) = −(a − 2s)², μ(s) = w·s, s ∈ {1, 2}, w = ½."""
    functions: Any = {"critic": lambda v, s, a: -((a - 2 * s) ** 2) + 0 * v, "actor": lambda w, s: w * s}
    now = {"critic": torch.zeros((), dtype=F64), "actor": torch.tensor(0.5, dtype=F64)}
    given = {"observation": torch.tensor([1.0, 2.0], dtype=F64)}

    def loss(name: str) -> Any:
        return lambda x: DDPG().actor_loss(Weights(functions, {**now, name: x}, {}, now), given)[0]

    assert float(torch.func.grad(loss("actor"))(now["actor"])) == pytest.approx(-7.5)
    assert float(torch.func.grad(loss("critic"))(now["critic"])) == 0


def test_targets_move_slowly_or_not_at_all():
    """Card, exact checks 2 (at τ = 0.005 for 200 steps, as the baselines' card has it) and 4."""
    still: Any = {"learning_rate": 1e-30, "actor_learning_rate": 1e-30, "l2": 0.0}
    slow = make_learner(small(hidden=(2,), batch_size=2, tau=0.005, **still), "Pendulum-v1", [0], 100)
    slow.iterate()
    for name in slow.weights:
        slow.weights[name].fill_(1)
        slow.targets[name].zero_()
    for _ in range(200):
        slow.update()
    for target in slow.targets.values():
        torch.testing.assert_close(target, torch.full_like(target, 0.633042), rtol=1e-4, atol=0)
    at_once = make_learner(small(tau=1.0), "Pendulum-v1", [0], 100)
    at_once.iterate()
    assert all(torch.equal(at_once.targets[name], at_once.weights[name]) for name in at_once.targets)


@pytest.mark.parametrize("discount", [0.0, 0.5])
def test_a_termination_has_no_future(discount):
    """Card, exact checks 5 and 6: with a discount of 0 the critic is a regression of rewards, whatever the targets."""
    _, functions, weights, targets = made(small())
    given = a_batch(discount)
    losses = [
        float(small().critic_loss(Weights(functions, weights, each, weights), given)[0])
        for each in (targets, {n: 1e3 * x for n, x in targets.items()})
    ]
    values = functions["critic"](weights["critic"], given["observation"], given["action"])
    regression = float(((values - given["reward"]) ** 2).mean())
    assert (losses == [pytest.approx(regression, rel=1e-12)] * 2) == (discount == 0)


def test_the_actors_step_leaves_the_critic_alone():
    """Card, exact check 7."""
    both, start, _ = stepped(small(), a_batch())
    alone, _, _ = stepped(small(), a_batch(), ("critic",))
    assert torch.equal(both["critic"], alone["critic"]) and not torch.equal(both["critic"], start["critic"])
    assert torch.equal(alone["actor"], start["actor"]) and not torch.equal(both["actor"], start["actor"])


def test_it_is_td3_with_one_critic_no_delay_and_no_noise_in_the_target():
    """Card, exact check 8, to the bit: two iterations of acting and learning."""
    plain: Any = {"hidden": (8, 8), "batch_size": 16, "learning_starts": 20, "log_every": 40, "learning_rate": 1e-3,
                  "exploration_noise": 0.2, "tau": 0.01}  # fmt: skip
    ddpg = DDPG(**plain, actor_learning_rate=1e-3, l2=0.0, reversion=1.0, action_layer=1, output_bound=None)
    td3 = TD3(**plain, critics=1, policy_delay=1, target_noise=0.0)
    one, other = (make_learner(method, "Pendulum-v1", [3], 1000) for method in (ddpg, td3))
    for _ in range(2):
        assert one.iterate() == other.iterate()
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert all(torch.equal(one.targets[name], other.targets[name]) for name in one.targets)


def test_l2_is_that_of_torchs_adam():
    now, start, _ = stepped(small(l2=0.01), a_batch())
    parameter = nn.Parameter(start["critic"].clone())
    nets, functions, weights, targets = made(small())
    loss, _ = small().critic_loss(Weights(functions, {**weights, "critic": parameter}, targets, weights), a_batch())
    loss.backward()
    torch.optim.Adam([parameter], 1e-3, weight_decay=0.01).step()
    torch.testing.assert_close(now["critic"], parameter.detach(), rtol=1e-10, atol=1e-12)


def test_the_decoupled_decay_of_a_net_is_that_of_adamw():
    def loss(w: Weights, _: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return (w("a") ** 3).sum(), {}

    net, start = Net(lambda: nn.Linear(1, 1), loss, 0.1, decay=0.5), torch.tensor([0.7, -0.3], dtype=F64)
    functions: Any = {"a": lambda v: v}
    adams = {"a": Adam(torch.zeros(2, dtype=F64), torch.zeros(2, dtype=F64), torch.zeros((), dtype=F64))}
    now, _, _ = gradient_step({"a": net}, functions, ("a",))({"a": start}, {}, adams, {})
    parameter = nn.Parameter(start.clone())
    (parameter**3).sum().backward()
    torch.optim.AdamW([parameter], 0.1, weight_decay=0.5).step()
    torch.testing.assert_close(now["a"], parameter.detach(), rtol=1e-10, atol=1e-12)


# --- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("enters", [1, 2, 3])
def test_the_action_enters_at_its_layer(enters):
    critic = ActionValue(OBSERVATION, 2, (5, 4), "relu", "nature", enters).double()
    x, action = a_batch()["observation"], a_batch()["action"]
    linear = [m for m in critic.modules() if isinstance(m, nn.Linear)]
    assert [m.in_features for m in linear] == [[5, 5, 4], [3, 7, 4], [3, 5, 6]][enters - 1]
    value = x
    for number, layer in enumerate(linear, 1):
        value = layer(torch.cat([value, action], -1) if number == enters else value)
        value = value.relu() if number < 3 else value
    torch.testing.assert_close(critic(x, action), value.squeeze(-1), rtol=1e-12, atol=1e-12)


def test_last_layers_start_small():
    for net in small(hidden=(50, 50)).networks(OBSERVATION, BOX).values():
        *others, last = [m for m in net.make().modules() if isinstance(m, nn.Linear)]
        assert 2e-3 < max(float(p.abs().max()) for p in last.parameters()) <= 3e-3
        for layer in others:
            limit = layer.in_features**-0.5
            assert 0.7 * limit < float(layer.weight.abs().max()) <= limit


def test_presets_are_settings_and_mistakes_are_refused():
    retuned = DDPG(**DDPG.presets["retuned"])
    assert retuned.batch_size == 256 and DDPG(**DDPG.presets["pixels"]).hidden == (200, 200)
    with pytest.raises(UsageError, match="reversion=1.5 is not allowed"):
        DDPG(reversion=1.5)
    with pytest.raises(UsageError, match="action_layer=0"):
        DDPG(action_layer=0)
    with pytest.raises(UsageError, match="needs continuous actions"):
        sf.train("ddpg", "CartPole-v1", 100)

"""QRC-Huber: one whole step against a plain torch agent, its special cases, and its bounded updates."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from surefoot.claims.control import robust_value_losses as claims
from surefoot.errors import UsageError
from surefoot.loops.common.optimizer import Adam
from surefoot.loops.networks.nets import Function, Weights, gradient_step
from surefoot.methods.control.robust_value_losses import QRCHuber

F64 = torch.float64
SPACE, ACTIONS, SIZE, GAMMA = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(3), 24, 0.9


def a_batch(scale: float = 3.0) -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    found = {k: torch.randn(SIZE, 3, generator=g, dtype=F64) for k in ("observation", "next_observation")}
    rows = {"reward": scale * torch.randn(SIZE, generator=g, dtype=F64), "weight": torch.ones(SIZE, dtype=F64)}
    discount = GAMMA * (torch.rand(SIZE, generator=g, dtype=F64) > 0.3)
    return {**found, **rows, "discount": discount, "action": torch.randint(3, (SIZE,), generator=g), "noise": {}}


def made(method: QRCHuber) -> tuple[dict, dict, dict]:
    nets = method.networks(SPACE, ACTIONS)
    functions = {name: Function(net) for name, net in nets.items()}
    g = torch.Generator().manual_seed(1)
    return nets, functions, {n: torch.randn(f.size, dtype=F64, generator=g) * 0.8 for n, f in functions.items()}


def stepped(method: QRCHuber) -> dict[str, Tensor]:
    nets, functions, weights = made(method)
    adams = {n: Adam(torch.zeros_like(x), torch.zeros_like(x), torch.zeros((), dtype=F64)) for n, x in weights.items()}
    return gradient_step(nets, functions, tuple(nets))(weights, {}, adams, a_batch())[0]


class Template(nn.Module):
    """One trunk, a head for q, and one for u that sends no gradient into the trunk."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.trunk, self.q, self.u = nn.Linear(3, 6), nn.Linear(6, 3), nn.Linear(6, 3)
        for part, name in ((nn.ModuleList([self.trunk, self.q]), "critic"), (self.u, "dual")):
            nn.utils.vector_to_parameters(weights[name], part.double().parameters())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x).relu()
        return self.q(features), self.u(features.detach())


@pytest.mark.parametrize("threshold", [0.5, 1e9])
@pytest.mark.parametrize("update", ["correction", "saddle"])
def test_a_step_is_that_of_the_template(update, threshold):
    """One Adam over trunk and heads, and the decay of u's head taken off beside it; with no threshold and the
    correction it is the published QRC loss."""
    method = QRCHuber(hidden=(6,), update=update, threshold=threshold, epsilon=0.2, gamma=GAMMA)
    given, agent = a_batch(), Template(made(method)[2])
    optimizer = torch.optim.Adam(agent.parameters(), 1e-3)
    rows = torch.arange(SIZE)
    (q, u), (following, _) = agent(given["observation"]), agent(given["next_observation"])
    q, u = q[rows, given["action"]], u[rows, given["action"]]
    policy = torch.full_like(following, 0.2 / 3)
    policy[rows, following.argmax(1)] += 0.8
    value = (policy.detach() * following).sum(1)
    delta = given["reward"] + given["discount"] * value - q
    plain = 0.5 * ((delta + q).detach() - q) ** 2 + given["discount"] * u.detach() * value
    robust = u.detach().clamp(-threshold, threshold) * delta
    large = u.abs() > threshold
    losses = torch.where(large, robust, plain) if update == "correction" else robust
    (losses.mean() + (0.5 * (delta.detach() - u) ** 2).mean()).backward()
    before = {name: p.detach().clone() for name, p in agent.u.named_parameters()}
    optimizer.step()
    for name, parameter in agent.u.named_parameters():
        parameter.data -= 1e-3 * 1.0 * before[name]
    now = stepped(method)
    assert large.any() == (threshold < 1)
    trunk = nn.utils.parameters_to_vector(nn.ModuleList([agent.trunk, agent.q]).parameters())
    torch.testing.assert_close(now["critic"], trunk.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(now["dual"], nn.utils.parameters_to_vector(agent.u.parameters()), rtol=1e-9, atol=1e-12)


def slope(method: QRCHuber, given: dict[str, Any]) -> Tensor:
    _, functions, weights = made(method)

    def loss(x: Tensor) -> Tensor:
        return method.critic_loss(Weights(functions, {**weights, "critic": x}, {}, weights), given)[0]

    return torch.func.grad(loss)(weights["critic"])


def test_rewards_do_not_enter_a_saddle_update_but_through_u():
    """So a step is bounded whatever a reward is; the correction, as TDC, has rewards where u is small."""
    saddle, correction = (QRCHuber(hidden=(6,), update=update, threshold=0.5) for update in ("saddle", "correction"))
    torch.testing.assert_close(slope(saddle, a_batch(3.0)), slope(saddle, a_batch(3e6)))
    assert float(slope(correction, a_batch(3e6)).norm()) > 1e3 * float(slope(correction, a_batch(3.0)).norm())


def test_losses_without_a_threshold_are_the_same():
    wide = slope(QRCHuber(hidden=(6,), threshold=1e9), a_batch())
    torch.testing.assert_close(wide, slope(QRCHuber(hidden=(6,), loss="squared"), a_batch()))
    absolute = [slope(QRCHuber(hidden=(6,), loss="absolute", update=update), a_batch()) for update in
                ("saddle", "correction")]  # fmt: skip
    torch.testing.assert_close(*absolute)
    narrow = slope(QRCHuber(hidden=(6,), threshold=1e-6, update="saddle"), a_batch())
    torch.testing.assert_close(narrow / 1e-6, absolute[0])


def test_both_heads_begin_at_zero_and_there_is_no_target():
    nets = QRCHuber(hidden=(6,)).networks(SPACE, ACTIONS)
    x = torch.randn(5, 3)
    assert all(net.target_rate is None for net in nets.values())
    critic = nets["critic"].make()
    assert not critic(x).any() and critic(x, "features").any()  # type: ignore[operator]
    assert not nets["dual"].make()(torch.randn(5, 6)).any()


def test_the_closed_solutions_are_those_of_their_definitions():
    """Least squares by a solver of its own, and least absolute deviations by linear programming."""
    _, matrix, reward, _ = claims.ring(0)
    squares = torch.linalg.lstsq(matrix, reward.unsqueeze(-1)).solution.squeeze(-1)
    torch.testing.assert_close(claims.solution(claims.LOSSES["squared"], matrix, reward), squares)
    absolute = claims.solution(claims.LOSSES["absolute"], matrix, reward)
    for m, r, w in zip(matrix[:4].numpy(), reward[:4].numpy(), absolute.numpy(), strict=False):
        (states, features), eye = m.shape, np.eye(len(m))
        costs = np.r_[np.zeros(features), np.ones(2 * states)]
        bounds = [(None, None)] * features + [(0, None)] * 2 * states
        least = linprog(costs, A_eq=np.c_[m, eye, -eye], b_eq=r, bounds=bounds).fun
        assert least * (1 - 1e-9) <= np.abs(r - m @ w).sum() <= least * 1.001


def test_bairds_example_of_the_card():
    found = {arm: last for arm, (_, last) in claims.baird([0]).items()}
    assert found["TD"] == pytest.approx(9.2e6, rel=0.01) and found["clipped TD"] == pytest.approx(69.5, rel=0.01)
    assert found["Huber"] == pytest.approx(1.93, abs=0.01) and found["absolute"] == pytest.approx(1.82, abs=0.01)


def test_mistakes_are_refused():
    with pytest.raises(UsageError, match="'huber', 'absolute', 'squared'"):
        QRCHuber(loss="mse")
    with pytest.raises(UsageError, match="threshold=0"):
        QRCHuber(threshold=0)

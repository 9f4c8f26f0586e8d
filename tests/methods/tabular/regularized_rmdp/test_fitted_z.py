"""Fitted-Z iteration: exact on data with exact frequencies, its limits, and networks on continuous states."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surefoot.ambiguity import KL
from surefoot.envs.tabular import TabularMDP
from surefoot.loops.tabular.gradient import backup
from surefoot.methods.tabular.regularized_rmdp.fitted_z import Data, Network, entropic_means, fitted_z, linex
from surefoot.seeding import torch_stream

KERNEL = torch.tensor([[[0.7, 0.3], [0.2, 0.8]], [[0.5, 0.5], [0.9, 0.1]]], dtype=torch.float64)
REWARD = torch.tensor([[1, 0.4], [0, 0.6]], dtype=torch.float64)


def table(beta):
    def fit(data, value, iteration, last):
        means = entropic_means(value, data.state * 2 + data.action, 4, beta).view(2, 2)
        return lambda state: means[state]

    return fit


def exact_data() -> Data:
    """Ten transitions of each pair, in which every next state is as frequent as it is likely."""
    rows = [
        (s, a, t) for s in (0, 1) for a in (0, 1) for t in (0, 1) for _ in range(round(10 * float(KERNEL[s, a, t])))
    ]
    state, action, after = torch.tensor(rows).T
    return Data(state, action, after, torch.zeros(len(rows), dtype=torch.bool))


def fitted(beta, iterations=400, data=None):
    return fitted_z(data or exact_data(), lambda s: REWARD[s], table(beta), gamma=0.9, iterations=iterations)


# --- exact -----------------------------------------------------------------------------------------------------------


def test_it_reaches_the_optimum_of_the_card():
    found = fitted(2.0)
    np.testing.assert_allclose(
        found.q(torch.arange(2)), [[8.890945, 8.151236], [7.829768, 8.561767]], rtol=0, atol=6e-7
    )
    z = np.exp(-2 * found.ahead(torch.arange(2)).numpy())
    np.testing.assert_allclose(z, [[2.423586e-8, 3.305912e-8], [2.776516e-8, 2.070656e-8]], rtol=1e-6)
    assert found(np.array([0, 1, 0])).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("beta", "value"), [(0, 9.084746), (0.1, 9.075289), (1, 8.988830), (10, 8.114210), (100, 6.597345), (1e4, 6.405)]
)
def test_it_keeps_its_digits_at_every_temperature(beta, value):
    """At 100 Z is e^−660, which the least value taken out of the exponent keeps away from the end of the floats."""
    assert float(fitted(beta).q(torch.tensor([0])).max()) == pytest.approx(value, abs=6e-7 if beta < 1e3 else 0.01)


def test_the_plain_iteration_gives_the_same():
    """Z itself, by its own Bellman equation (T Z)(s, a) = E min_a' exp(−βr) Z(s', a')^γ."""
    z = torch.ones(2, 2, dtype=torch.float64)
    for _ in range(400):
        z = KERNEL @ (torch.exp(-2 * REWARD) * z**0.9).amin(-1)
    torch.testing.assert_close(fitted(2.0).q(torch.arange(2)), REWARD - 0.45 * z.log(), rtol=0, atol=1e-10)


def test_each_iteration_contracts_by_gamma():
    steps = torch.stack([fitted(2.0, k).q(torch.arange(2)) for k in range(12)])
    change = steps.diff(dim=0).abs().amax((1, 2))
    assert bool((change[1:] <= 0.9 * change[:-1] + 1e-12).all()) and float(change[-1]) > 0.01


def test_no_iteration_is_the_reward_and_one_looks_one_step_ahead():
    assert torch.equal(fitted(2.0, 0).q(torch.arange(2)), REWARD)
    q = backup(TabularMDP(KERNEL, REWARD, 0.9), REWARD.amax(-1), KL(penalty=0.5)).q
    torch.testing.assert_close(fitted(2.0, 1).q(torch.arange(2)), q)


def test_what_ends_has_no_value():
    data = exact_data()._replace(terminated=torch.ones(40, dtype=torch.bool))
    torch.testing.assert_close(fitted(2.0, data=data).q(torch.arange(2)), REWARD)


def test_a_pair_without_data_is_given_the_worst_next_value():
    data = exact_data()
    kept = Data(*(x[(data.state != 0) | (data.action != 1)] for x in data))
    q = fitted(2.0, data=kept).q(torch.arange(2))
    assert float(q[0, 1]) == pytest.approx(0.4 + 0.9 * float(q.amax(-1).min()), abs=1e-9)


def test_means_by_hand():
    value, pair = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64), torch.tensor([1, 1, 2])
    plain, soft = entropic_means(value, pair, 4, 0), entropic_means(value, pair, 4, 2.0)
    assert plain.tolist() == [0.0, 0.5, 5.0, 0.0]
    assert soft.tolist() == pytest.approx([0.0, -np.log((1 + np.exp(-2)) / 2) / 2, 5.0, 0.0])
    torch.testing.assert_close(entropic_means(value, pair, 4, 1e-6), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 4.0])
def test_the_loss_of_networks_is_least_at_the_robust_expectation(beta):
    value = torch.tensor([0.0, 0.3, 1.1], dtype=torch.float64)
    best = entropic_means(value, torch.zeros(3, dtype=torch.int64), 1, beta)
    guess = best.clone().requires_grad_()
    (slope,) = torch.autograd.grad(linex(guess - value, beta).mean(), guess)
    assert slope.item() == pytest.approx(0, abs=1e-12)
    losses = [linex(best + e - value, beta).mean().item() for e in (-0.01, 0.0, 0.01)]
    assert losses[1] == min(losses) < losses[0] and losses[1] < losses[2]


def test_the_loss_is_half_the_square_in_the_limit_and_a_line_far_up():
    error = torch.tensor([-0.7, 0.2, 3.0], dtype=torch.float64)
    torch.testing.assert_close(linex(error, 1e-4), error.square() / 2, rtol=1e-3, atol=0)
    far = linex(torch.tensor([5.0, 6.0, 7.0], dtype=torch.float64), 1.0)
    assert far.diff().tolist() == pytest.approx([np.exp(5) - 1] * 2) and float(far[0]) == pytest.approx(np.exp(5) - 6)


# --- networks on continuous states -----------------------------------------------------------------------------------


def walk(beta: float) -> np.ndarray:
    """Exact optimal Q `[101, 2]` of a walk on [0, 1] at the points 0, 0.01, …, 1, which it never leaves once there.

    A step is ∓0.1 plus noise of −0.1, 0 or 0.1 and stays inside; what is paid is how near the state is to 0.7.
    """
    x, q = np.linspace(0, 1, 101), np.zeros((101, 2))
    for _ in range(200):
        v = q.max(1)
        for a, move in enumerate((-10, 10)):
            after = np.stack([v[np.clip(np.arange(101) + move + n, 0, 100)] for n in (-10, 0, 10)])
            odds = np.array([0.25, 0.5, 0.25])
            mean = odds @ after if beta == 0 else -np.log(odds @ np.exp(-beta * after)) / beta
            q[:, a] = 1 - np.abs(x - 0.7) - 3 * (x - 0.8).clip(0) + 0.8 * mean
    return q


def near(state):
    x = (state + 3) / 6
    return (1 - (x - 0.7).abs() - 3 * (x - 0.8).clamp(min=0)).expand(-1, 2)


def test_a_network_finds_the_values_and_actions_of_a_continuous_walk():
    """States are seen as 6x − 3. The robust values found are the exact ones, not those of a walk without adversary."""
    g, n = torch_stream(0, "walk"), 2000
    x, a = torch.rand(n, 1, generator=g), torch.randint(2, (n,), generator=g)
    noise = torch.tensor([-0.1, 0.0, 0.0, 0.1])[torch.randint(4, (n,), generator=g)]
    after = (x + 0.2 * a[:, None] - 0.1 + noise[:, None]).clamp(0, 1)
    data = Data(6 * x - 3, a, 6 * after - 3, torch.zeros(n, dtype=torch.bool))
    network = Network(1, 2, 4.0, seed=0, hidden=(32, 32), learning_rate=1e-2, epochs=8, minibatch_size=500)
    found = fitted_z(data, near, network, gamma=0.8, iterations=24)
    points, exact, neutral = 6 * torch.linspace(0, 1, 101)[:, None] - 3, walk(4.0), walk(0)
    q = found.q(points).numpy()
    assert np.abs(q - exact).mean() < 0.16 < 0.5 * np.abs(q - neutral).mean()
    lost = exact.max(1) - exact[np.arange(101), found(points.numpy())]
    assert lost.mean() < 0.005


def test_the_same_seed_fits_the_same_network():
    x = torch.rand(64, 3, generator=torch_stream(1, "x"))
    data = Data(x, torch.arange(64) % 2, x.flip(0), torch.zeros(64, dtype=torch.bool))

    def q(seed):
        network = Network(3, 2, 1.0, seed=seed, hidden=(8,))
        return fitted_z(data, lambda s: s[:, :2], network, gamma=0.9, iterations=2).q(data.state)

    assert torch.equal(q(3), q(3)) and not torch.equal(q(3), q(4))

"""Advantages against worked numbers, double loops over the definitions, and another library's buffer."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer

from surefoot.errors import UsageError
from surefoot.objectives.advantages import (
    Advantage,
    discounted_sum,
    gae,
    group_mean,
    group_standardized,
    leave_one_out,
    monte_carlo,
    n_step,
    scaled,
    standardize,
    total,
)

F64 = torch.float64
REWARDS, VALUES, NEXT_VALUES = (
    torch.tensor(x, dtype=F64)[:, None] for x in ((1.0, 0.0, 2.0), (0.5, 0.4, 0.3), (0.4, 0.3, 0.2))
)
seeds = st.integers(0, 2**31 - 1)
fractions = st.floats(0, 1)


def column(advantage: Advantage, next_values: torch.Tensor = NEXT_VALUES, **flags: int) -> list[float]:
    """The advantages of the worked example, with an end at the step named by `terminated` or `truncated`."""
    ends = {name: torch.arange(3)[:, None] == step for name, step in flags.items()}
    return advantage(REWARDS, values=VALUES, next_values=next_values, **ends)[:, 0].tolist()


def rollout(seed: int, T: int = 9, B: int = 4) -> dict[str, torch.Tensor]:
    """Random steps with ends and padding; a critic that agrees with itself along every stretch of valid steps."""
    g = torch.Generator().manual_seed(seed)
    terminated = torch.rand(T, B, generator=g) < 0.15
    truncated = torch.rand(T, B, generator=g) < 0.15
    valid = torch.rand(T, B, generator=g) > 0.1
    values, next_values, rewards = (torch.randn(T, B, generator=g, dtype=F64) for _ in range(3))
    goes_on = ~(terminated | truncated)[:-1] & valid[:-1] & valid[1:]
    next_values[:-1] = torch.where(goes_on, values[1:], next_values[:-1])
    return {
        "rewards": rewards,
        "values": values,
        "next_values": next_values,
        "terminated": terminated,
        "truncated": truncated,
        "valid": valid,
    }


def stretch(data: dict[str, torch.Tensor], t: int, b: int) -> range:
    """Steps from t to the last one of its episode, segment or run of valid steps."""
    end = t
    while not (data["terminated"][end, b] or data["truncated"][end, b]):
        if end + 1 == len(data["rewards"]) or not data["valid"][end + 1, b]:
            break
        end += 1
    return range(t, end + 1)


def k_step(data: dict[str, torch.Tensor], steps: range, b: int, gamma: float) -> float:
    """Discounted rewards of the steps plus what the critic expects after them, minus what it expected before."""
    last = steps[-1]
    rewards = sum(gamma**i * float(data["rewards"][s, b]) for i, s in enumerate(steps))
    bootstrap = 0.0 if data["terminated"][last, b] else float(data["next_values"][last, b])
    return rewards + gamma ** len(steps) * bootstrap - float(data["values"][steps[0], b])


def by_definition(data: dict[str, torch.Tensor], one) -> torch.Tensor:
    out = torch.zeros_like(data["rewards"])
    for t in range(out.shape[0]):
        for b in range(out.shape[1]):
            if data["valid"][t, b]:
                out[t, b] = one(t, b)
    return out


def compute(advantage: Advantage, data: dict[str, torch.Tensor]) -> torch.Tensor:
    return advantage(data["rewards"], **{k: v for k, v in data.items() if k != "rewards"})


@pytest.mark.parametrize(
    ("lam", "expected"),
    [(0.0, (0.86, -0.13, 1.88)), (0.8, (1.740992, 1.2236, 1.88)), (1.0, (2.2658, 1.562, 1.88))],
)
def test_gae_worked_example(lam, expected):
    assert column(gae(gamma=0.9, lam=lam)) == pytest.approx(expected, abs=1e-12)


def test_gae_worked_example_with_ends():
    estimator = gae(gamma=0.9, lam=0.8)
    assert column(estimator, terminated=2) == pytest.approx((1.64768, 1.094, 1.7), abs=1e-12)
    assert column(estimator, terminated=1) == pytest.approx((0.572, -0.4, 1.88), abs=1e-12)
    final = NEXT_VALUES.clone()
    final[1] = 0.7
    assert column(estimator, final, truncated=1) == pytest.approx((1.0256, 0.23, 1.88), abs=1e-12)


def test_n_step_worked_example_and_its_mixture():
    one, two, three = (column(n_step(n=n, gamma=0.9))[0] for n in (1, 2, 3))
    assert (one, two, three) == pytest.approx((0.86, 0.743, 2.2658), abs=1e-12)
    assert 0.2 * (one + 0.8 * two) + 0.64 * three == pytest.approx(column(gae(gamma=0.9, lam=0.8))[0], abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, gamma=fractions, lam=fractions)
def test_gae_is_the_mixture_of_k_step_advantages(seed, gamma, lam):
    data = rollout(seed)

    def mixture(t: int, b: int) -> float:
        steps = stretch(data, t, b)
        ks = [k_step(data, steps[: k + 1], b, gamma) for k in range(len(steps))]
        return (1 - lam) * sum(lam**k * a for k, a in enumerate(ks[:-1])) + lam ** (len(ks) - 1) * ks[-1]

    torch.testing.assert_close(compute(gae(gamma, lam), data), by_definition(data, mixture), rtol=0, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, gamma=fractions, lam=fractions)
def test_gae_is_the_discounted_sum_of_td_errors_for_any_critic(seed, gamma, lam):
    data = rollout(seed)
    data["next_values"] = torch.randn_like(data["next_values"], dtype=F64)

    def td_sum(t: int, b: int) -> float:
        return sum(
            (gamma * lam) ** i * k_step(data, range(s, s + 1), b, gamma) for i, s in enumerate(stretch(data, t, b))
        )

    torch.testing.assert_close(compute(gae(gamma, lam), data), by_definition(data, td_sum), rtol=0, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, gamma=fractions, n=st.integers(1, 12))
def test_n_step_by_definition(seed, gamma, n):
    data = rollout(seed)
    expected = by_definition(data, lambda t, b: k_step(data, stretch(data, t, b)[:n], b, gamma))
    torch.testing.assert_close(compute(n_step(n, gamma), data), expected, rtol=0, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, gamma=fractions)
def test_monte_carlo_by_definition(seed, gamma):
    data = rollout(seed)
    rewards = data["rewards"]
    expected = by_definition(
        data, lambda t, b: sum(gamma**i * float(rewards[s, b]) for i, s in enumerate(stretch(data, t, b)))
    )
    torch.testing.assert_close(compute(monte_carlo(gamma), data), expected, rtol=0, atol=1e-10)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, gamma=fractions)
def test_gae_ends_of_the_mixture(seed, gamma):
    data = rollout(seed)
    torch.testing.assert_close(compute(gae(gamma, 0.0), data), compute(n_step(1, gamma), data))
    torch.testing.assert_close(compute(gae(gamma, 1.0), data), compute(n_step(9, gamma), data))


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_gae_equals_stable_baselines3_without_truncation(lam):
    T, B, gamma = 32, 5, 0.97
    rng = np.random.default_rng(3)
    box = gymnasium.spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(T, box, box, device="cpu", gamma=gamma, gae_lambda=lam, n_envs=B)
    terminated = rng.random((T, B)) < 0.1
    buffer.rewards = rng.normal(size=(T, B)).astype(np.float32)
    buffer.values = rng.normal(size=(T, B)).astype(np.float32)
    buffer.episode_starts = np.concatenate([np.ones((1, B)), terminated[:-1]]).astype(np.float32)
    last_values = torch.as_tensor(rng.normal(size=B).astype(np.float32))
    buffer.compute_returns_and_advantage(last_values, terminated[-1])
    values = torch.as_tensor(buffer.values)
    ours = gae(gamma, lam)(
        torch.as_tensor(buffer.rewards),
        values=values,
        next_values=torch.cat([values[1:], last_values[None]]),
        terminated=torch.as_tensor(terminated),
        truncated=torch.zeros(T, B, dtype=torch.bool),
    )
    assert terminated.sum() > 5
    torch.testing.assert_close(ours, torch.as_tensor(buffer.advantages), rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, shift=st.floats(-10, 10), lam=fractions)
def test_gae_undiscounted_and_endless_ignores_a_shift_of_the_critic(seed, shift, lam):
    data = rollout(seed)
    rewards, values, next_values = data["rewards"], data["values"], data["next_values"]
    plain = gae(1.0, lam)(rewards, values=values, next_values=next_values)
    moved = gae(1.0, lam)(rewards, values=values + shift, next_values=next_values + shift)
    torch.testing.assert_close(plain, moved, rtol=0, atol=1e-9)


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_gae_of_a_perfect_critic_is_zero(lam):
    gamma, rewards = 0.9, torch.tensor([[1.0], [-2.0], [0.5], [3.0]], dtype=F64)
    terminated = torch.tensor([[False], [False], [False], [True]])
    values = monte_carlo(gamma)(rewards, terminated=terminated)
    next_values = torch.cat([values[1:], torch.full((1, 1), 7.0, dtype=F64)])
    advantage = gae(gamma, lam)(rewards, values=values, next_values=next_values, terminated=terminated)
    torch.testing.assert_close(advantage, torch.zeros_like(advantage), rtol=0, atol=1e-12)


def test_discounted_sum_gradient():
    g = torch.Generator().manual_seed(0)
    x, decay = (torch.rand(4, 2, generator=g, dtype=F64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(discounted_sum, (x, decay))
    torch.testing.assert_close(discounted_sum(x, decay)[1], x[1] + decay[1] * (x[2] + decay[2] * x[3]))


@pytest.mark.parametrize("estimator", [gae(), n_step()])
def test_missing_signals_are_named(estimator):
    with pytest.raises(UsageError, match=rf"{type(estimator).__name__} needs next_values"):
        estimator(REWARDS, values=VALUES)
    with pytest.raises(UsageError, match="needs values, next_values"):
        estimator(REWARDS)


def test_group_baselines_worked_example():
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=F64)
    sign = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=F64)
    torch.testing.assert_close(group_standardized()(rewards), sign, rtol=0, atol=3e-8)
    torch.testing.assert_close(group_mean()(rewards), 0.5 * sign)
    torch.testing.assert_close(leave_one_out()(rewards), sign * 2 / 3)


def random_groups(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(5, 6, generator=g, dtype=F64), torch.rand(5, 6, generator=g) > 0.3


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_group_baselines_by_loop(seed):
    rewards, valid = random_groups(seed)
    results = {part: part(rewards, valid=valid) for part in (group_mean(), group_standardized(), leave_one_out())}
    for i, (row, keep) in enumerate(zip(rewards.numpy(), valid.numpy())):
        kept = row[keep]
        others = [r - np.delete(kept, j).mean() if len(kept) > 1 else 0.0 for j, r in enumerate(kept)]
        expected = {
            group_mean(): kept - kept.mean() if len(kept) else kept,
            group_standardized(): (kept - kept.mean()) / (kept.std() + 1e-8) if len(kept) else kept,
            leave_one_out(): np.array(others),
        }
        for part, result in results.items():
            np.testing.assert_allclose(result[i][valid[i]].numpy(), expected[part], rtol=0, atol=1e-12)
            assert (result[i][~valid[i]] == 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=seeds, with_padding=st.booleans())
def test_group_sums_vanish_and_leave_one_out_is_a_multiple(seed, with_padding):
    rewards, mask = random_groups(seed)
    valid = mask if with_padding else None
    mean, others = group_mean()(rewards, valid=valid), leave_one_out()(rewards, valid=valid)
    torch.testing.assert_close(mean.sum(-1), torch.zeros(5, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(others.sum(-1), torch.zeros(5, dtype=F64), rtol=0, atol=1e-12)
    size = (mask.sum(-1) if with_padding else torch.full((5,), 6)).to(F64)[:, None]
    factor = torch.where(size > 1, size / (size - 1), 0.0)
    torch.testing.assert_close(others, factor * mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 31])
@pytest.mark.parametrize("reward", [0.1, -3.3, 1e6 + 0.1])
def test_equal_rewards_give_exactly_zero_in_float32(size, reward):
    rewards = torch.full((2, size), reward)
    for part in (group_mean(), group_standardized(), leave_one_out()):
        assert (part(rewards) == 0).all()
    assert (standardize(rewards) == 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=seeds, scale=st.floats(0.1, 100), shift=st.floats(-100, 100))
def test_standardize(seed, scale, shift):
    x, valid = random_groups(seed)
    x = torch.where(valid, x, torch.nan)
    z = standardize(x, valid)
    assert (z[~valid] == 0).all()
    kept = x[valid].numpy()
    np.testing.assert_allclose(z[valid].numpy(), (kept - kept.mean()) / kept.std(), rtol=0, atol=1e-6)
    torch.testing.assert_close(z, standardize(scale * x + shift, valid), rtol=0, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_sums_and_scalings_are_linear(seed, a, b):
    data = rollout(seed)
    one, two, three = gae(0.9, 0.5), monte_carlo(0.8), n_step(2)
    mixed = compute(a * one + two * b - three, data)
    expected = a * compute(one, data) + b * compute(two, data) - compute(three, data)
    torch.testing.assert_close(mixed, expected, rtol=1e-10, atol=1e-10)


def test_composition_is_data_and_a_formula():
    mixed = 0.5 * (gae(0.9, 0.8) + monte_carlo(1.0))
    assert mixed == scaled(total((gae(0.9, 0.8), monte_carlo(1.0))), 0.5)
    assert str(mixed) == "0.5·(GAE(γ=0.9, λ=0.8) + G(γ=1))"
    assert str(leave_one_out()) == "R − mean_{others}(R)"


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e30, 1e37])
def test_rewards_of_any_size_are_compared(scale):
    rewards = scale * torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    torch.testing.assert_close(group_standardized(1e-20)(rewards), torch.tensor([[-1.0, 1.0, -1.0, 1.0]]))
    torch.testing.assert_close(group_mean()(rewards), scale * torch.tensor([[-0.5, 0.5, -0.5, 0.5]]))
    torch.testing.assert_close(leave_one_out()(rewards), scale * torch.tensor([[-2 / 3, 2 / 3, -2 / 3, 2 / 3]]))

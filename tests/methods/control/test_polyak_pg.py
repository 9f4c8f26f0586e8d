"""Polyak policy gradient: the gradient against enumeration, the invariances of a whole run, and learning."""

from __future__ import annotations

import itertools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.methods.control.polyak_pg import PolyakPG
from surefoot.objectives.advantages import monte_carlo
from surefoot.objectives.gpomdp import age, gpomdp, trajectory_returns

F64 = torch.float64
SMALL = {"num_envs": 8, "num_steps": 16, "hidden": (8,)}


class Walk(gymnasium.Env):
    """Three steps on a line; going right pays 1, and every step pays `shift` more; everything is times `scale`."""

    observation_space = spaces.Box(-4.0, 4.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, scale: float = 1.0, shift: float = 0.0):
        self.scale, self.shift, self.place, self.time = scale, shift, 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.time = 0
        return self.observe(), {}

    def observe(self):
        return np.array([self.place, self.time], np.float32)

    def step(self, action):
        self.place, self.time = self.place + 2 * int(action) - 1, self.time + 1
        return self.observe(), self.scale * (int(action) + self.shift), self.time == 3, False, {}


def learner(env="surefoot/ContextualAction-v0", seeds=(0,), **settings):
    return make_learner(PolyakPG(**SMALL | settings), env, list(seeds), 10**6)


def path(env, iterations=8, **settings):
    """Weights of both policies after every iteration, and its metrics."""
    run, weights, rows = learner(env, **settings), [], []
    for _ in range(iterations):
        rows += run.iterate()
        weights.append(torch.cat([run.vector, *run.extra.values()][: 2 if "twin" in run.extra else 1]))
    run.collector.close()
    return torch.stack(weights), rows


# --- the gradient and the value --------------------------------------------------------------------------------------


def naive(rewards, ends, log_probs, gamma, baseline=True):
    """(1/n) Σ_i Σ_k log π · γ^k (G_k − B_k) trajectory by trajectory, and the trajectories' returns."""
    pieces = []
    for column in range(rewards.shape[1]):
        start = 0
        for t in range(len(rewards)):
            if ends[t, column] or t == len(rewards) - 1:
                pieces.append((rewards[start : t + 1, column], log_probs[start : t + 1, column]))
                start = t + 1
    to_go = [[sum(gamma ** (t - k) * r[t] for t in range(k, len(r))) for k in range(len(r))] for r, _ in pieces]
    total = torch.zeros((), dtype=F64)
    for (_, logs), returns in zip(pieces, to_go, strict=True):
        for k, g in enumerate(returns):
            alive = [other[k] for other in to_go if len(other) > k]
            mean = sum(alive) / len(alive) if baseline and len(alive) > 1 else 0.0
            total = total + logs[k] * gamma**k * (g - mean)
    return total / len(pieces), torch.stack([g[0] for g in to_go])


@pytest.mark.parametrize("seed", range(4))
def test_gradient_and_value_are_those_of_single_trajectories(seed):
    g = torch.Generator().manual_seed(seed)
    rewards, logs = torch.randn(2, 9, 4, generator=g, dtype=F64)
    ends = torch.rand(9, 4, generator=g) < 0.3
    expected, returns = naive(rewards, ends, logs, 0.9)
    got = (gpomdp(0.9)(rewards, terminated=ends) * logs).mean()
    torch.testing.assert_close(got, expected)
    mean, highest = trajectory_returns(rewards, 0.9, terminated=ends)
    torch.testing.assert_close(mean, returns.mean())
    torch.testing.assert_close(highest, returns.max())


def test_resets_belong_to_no_trajectory():
    """Column 0 ends after two steps and resets itself in the third; its values there must not count."""
    rewards = torch.tensor([[1.0, 4.0], [2.0, 4.0], [99.0, 4.0], [3.0, 4.0]], dtype=F64)
    valid = torch.tensor([[True, True], [True, True], [False, True], [True, True]])
    ends = torch.tensor([[False, False], [True, False], [False, False], [False, False]])
    signals = {"truncated": ends, "valid": valid}
    assert age(rewards, **signals)[valid].tolist() == [0, 0, 1, 1, 2, 0, 3]
    mean, highest = trajectory_returns(rewards, 0.5, **signals)
    assert (mean.item(), highest.item()) == ((2 + 3 + 7.5) / 3, 7.5)
    baseline = {0: (2 + 3 + 7.5) / 3, 1: (2 + 7) / 2, 2: 0, 3: 0}
    length = 7 / 3
    expected = [[2 - baseline[0], 7.5 - baseline[0]], [(2 - baseline[1]) / 2, (7 - baseline[1]) / 2]]
    expected += [[0, 6 / 4], [3 - baseline[0], 4 / 8]]
    torch.testing.assert_close(gpomdp(0.5)(rewards, **signals), length * torch.tensor(expected, dtype=F64))


def test_seeds_have_baselines_of_their_own():
    rewards = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    alone = torch.stack([gpomdp(0.9)(rewards[:, s]) for s in range(3)], 1)
    torch.testing.assert_close(gpomdp(0.9)(rewards), alone, rtol=0, atol=1e-12)


def test_staying_alive_is_rewarded():
    """Reward 1 a step: with the mean reward of those alive as a baseline, long and short lives would look the same."""
    ends = torch.tensor([[True, False], [False, False], [False, True]])
    valid = torch.tensor([[True, True], [False, True], [False, True]])
    advantage = gpomdp(1.0)(torch.ones(3, 2, dtype=F64), terminated=ends, valid=valid)
    assert advantage[0].tolist() == [2 * (1 - 2), 2 * (3 - 2)]


def test_expectation_is_the_exact_gradient_of_the_discounted_value():
    """Two steps, two actions, reward a₀ + 3·a₁·a₀, no baseline (one trajectory): all four paths enumerated."""
    theta = torch.tensor([0.3, -0.4], dtype=F64, requires_grad=True)
    p, gamma = theta.sigmoid(), 0.7
    value, surrogate = torch.zeros((), dtype=F64), torch.zeros((), dtype=F64)
    for first, second in itertools.product((0, 1), repeat=2):
        steps = torch.stack([p[0] if first else 1 - p[0], p[1] if second else 1 - p[1]])
        rewards = torch.tensor([[float(first)], [3.0 * first * second]], dtype=F64)
        value = value + steps.prod() * monte_carlo(gamma)(rewards)[0, 0]
        weights = gpomdp(gamma)(rewards)[:, 0] / 2
        surrogate = surrogate + steps.prod().detach() * (weights * steps.log()).sum()
    (exact,) = torch.autograd.grad(value, theta, retain_graph=True)
    (got,) = torch.autograd.grad(surrogate, theta)
    torch.testing.assert_close(got, exact)


def test_value_and_gradient_are_of_the_same_objective_and_batch():
    """∇F is that of Σ γ^k(G_k − B_k) log π / n + τ·mean H on the very steps whose mean return is V; no critic in it."""
    run, kept = learner(Walk, entropy=0.3, vstar="best"), {}
    collect, estimate = run.collect, run.estimate
    run.collect = lambda *args: kept.setdefault("rollout", collect(*args))
    run.estimate = lambda rollout: kept.setdefault("batch", estimate(rollout))
    point, about = run.method.look(run, run.vector, 16)
    batch, rollout = {k: x[0] for k, x in kept["batch"].items()}, kept["rollout"]
    starts = rollout.starts[:16, 0]
    assert about["value"].item() == pytest.approx(
        monte_carlo(0.99)(rollout.reward, terminated=rollout.terminated)[:, 0][starts].mean().item(), rel=1e-5
    )
    vector = run.vector[0].clone().requires_grad_()
    logits = run.model.evaluate(vector, batch)[0]
    policy = torch.distributions.Categorical(logits=logits[batch["valid"]])
    terms = policy.log_prob(batch["action"][batch["valid"]]) * batch["advantage"][batch["valid"]]
    entropy = policy.entropy().mean()
    (expected,) = torch.autograd.grad(terms.mean() + 0.3 * entropy, vector)
    torch.testing.assert_close(point.gradient[0], expected, rtol=1e-4, atol=1e-6)
    assert point.value.item() == pytest.approx(about["value"].item() + 0.3 * entropy.item(), rel=1e-5)
    critic = ~run.model.policy_mask
    assert critic.any() and not point.gradient[0, critic].any()


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"vstar": "twin"}, {"vstar": "best"}, {"vstar": "known", "optimum": 3.0}])
def test_scaling_rewards_scales_steps_and_leaves_the_path(settings):
    """The factor is a power of two, so that floating point scales exactly: the paths are equal to the bit."""
    factor = 64.0
    plain, rows = path(Walk, cap=1.0, entropy=0.01, **settings)
    if "optimum" in settings:
        settings = settings | {"optimum": factor * settings["optimum"]}
    scaled, scaled_rows = path(lambda: Walk(scale=factor), cap=1.0 / factor, entropy=0.01 * factor, **settings)
    assert torch.equal(plain, scaled)
    assert not torch.equal(plain[0], plain[-1])
    for row, other in zip(rows, scaled_rows, strict=True):
        assert other["step_size"] == row["step_size"] / factor and other["gap"] == row["gap"] * factor


@pytest.mark.parametrize("settings", [{"vstar": "twin"}, {"vstar": "known", "optimum": 2.9701}])
def test_a_constant_added_to_rewards_leaves_the_path(settings):
    """Whole episodes of one length (12 steps a policy: 3 episodes and their resets), so that V* and V shift alike."""
    shift, steps = 0.5, 12 if settings["vstar"] == "known" else 24
    plain, rows = path(Walk, num_steps=steps, **settings)
    if "optimum" in settings:
        settings = settings | {"optimum": settings["optimum"] + shift * (1 + 0.99 + 0.99**2)}
    shifted, others = path(lambda: Walk(shift=shift), num_steps=steps, **settings)
    torch.testing.assert_close(plain, shifted, rtol=0, atol=1e-4)
    assert not torch.equal(plain[0], plain[-1])
    assert [r["value"] + shift * 2.9701 for r in rows] == pytest.approx([r["value"] for r in others], rel=1e-4)


def test_a_small_active_cap_is_plain_gradient_ascent():
    run = learner(Walk, vstar="known", optimum=100.0, cap=1e-3)
    twin = learner(Walk, vstar="known", optimum=100.0, cap=1e-3)
    point, _ = twin.method.look(twin, twin.vector, 16)
    (row,) = run.iterate()
    assert row["step_size"] == pytest.approx(1e-3)
    torch.testing.assert_close(run.vector, point.weights + 1e-3 * point.gradient)


def test_a_value_that_is_reached_ends_the_steps():
    weights, rows = path(Walk, vstar="known", optimum=0.5)
    assert all(row["step_size"] == 0 for row in rows) and torch.equal(weights[0], weights[-1])


def test_the_highest_return_never_falls():
    run = learner(Walk, vstar="best")
    seen = []
    for _ in range(6):
        run.iterate()
        seen.append(run.extra["best"].item())
    assert seen == sorted(seen) and 0 < seen[-1] <= 1 + 0.99 + 0.99**2 + 1e-6


def test_the_better_twin_stands_and_the_worse_one_moves():
    run = learner(seeds=(0, 1), num_steps=32)
    run.iterate()
    for _ in range(5):
        first, second = run.vector.clone(), run.extra["twin"].clone()
        assert not torch.equal(first, second)
        for seed, row in enumerate(run.iterate()):
            better, worse = (second, first) if row["swapped"] else (first, second)
            assert torch.equal(run.vector[seed], better[seed])
            moved = (run.extra["twin"][seed] - worse[seed]).norm().item()
            assert moved == pytest.approx(row["step_size"] * row["grad_norm"], rel=1e-3, abs=1e-6)
    assert run.steps == 6 * 8 * 32  # those of both policies


def test_twins_that_start_alike_do_not_act_alike():
    """Every episode of the walk begins in the same place: only noise of their own tells two equal policies apart."""
    run = learner(Walk)
    run.iterate()
    run.extra["twin"] = run.vector.clone()
    (row,) = run.iterate()
    assert run.iteration == 2 and row["gap"] > 0.01


def test_learns_and_is_reproducible_alone_or_beside_another_seed():
    settings = {"num_steps": 32, "hidden": (16,), "cap": 10.0}
    together = learner(seeds=(3, 4), **settings)
    alone = learner(seeds=(3,), **settings)
    again = learner(seeds=(3,), **settings)
    for _ in range(2):
        for run in (together, alone, again):
            run.iterate()
    assert torch.equal(alone.vector, again.vector) and torch.equal(alone.extra["twin"], again.extra["twin"])
    torch.testing.assert_close(together.vector[0], alone.vector[0], rtol=1e-4, atol=1e-5)
    for _ in range(28):
        rows = together.iterate()
    assert min(row["return_mean"] for row in rows) > 0.8


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("surefoot/MemoryCue-v0", {"core": "gru"}),
        ("surefoot/MaskedAction-v0", {}),
        ("surefoot/ContinuousTarget-v0", {}),
    ],
)
def test_recurrent_masked_and_continuous(env, settings):
    run = learner(env, num_steps=8, **settings)
    before = run.vector.clone()
    rows = [row for _ in range(3) for row in run.iterate()]
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert not torch.equal(before, run.vector) or not torch.equal(before, run.extra["twin"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 31}, "num_steps=31 .* even"),
        ({"vstar": "known"}, "optimum=None"),
        ({"optimum": 1.0}, "optimum=1.0"),
        ({"vstar": "third"}, "vstar='third'"),
        ({"standardize": True}, "standardize=True"),
        ({"max_grad_norm": 0.5}, "max_grad_norm=0.5"),
        ({"normalize_rewards": True}, "normalize_rewards=True"),
        ({"c": 0.0}, "c=0.0"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(UsageError, match=message):
        PolyakPG(**settings)

"""BC, TD3+BC and IQL: their losses by hand, their limits, and what the settings of a user may be."""

from __future__ import annotations

import dataclasses
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from micro_data import target_data, walk_data

import surefoot as sf
from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Weights
from surefoot.methods.control.sac import SAC
from surefoot.methods.control.td3 import TD3
from surefoot.methods.offline.baselines import BC, IQL, TD3BC
from surefoot.methods.offline.sac_n import SACN
from surefoot.models.distributions import BoundedGaussian
from surefoot.objectives.bootstrap import advantage_weights, scale_free
from surefoot.objectives.values import expectile

SIZES = {"batch_size": 16, "log_every": 20, "hidden": (16,)}


def learner(method, data=None, seeds=(0,), steps: int = 1000):
    return make_learner(method, "", list(seeds), steps, data=walk_data() if data is None else data)


def weights(run) -> Weights:
    """All weights of the first seed."""
    now = {name: x[0] for name, x in run.weights.items()}
    return Weights(run.functions, now, {name: x[0] for name, x in run.targets.items()}, now)


def batch(run) -> dict:
    """A batch of the first seed."""
    run.draw()
    found = run.batch()
    return {k: {n: y[0] for n, y in x.items()} if isinstance(x, dict) else x[0] for k, x in found.items()}


# --- numbers by hand -------------------------------------------------------------------------------------------------


def test_the_scaled_value_of_td3_bc():
    """Q = (2, −4, 6), α = 2.5: λ = 2.5/4 = .625, and −λ·mean Q = −.8333…"""
    values = torch.tensor([2.0, -4.0, 6.0], requires_grad=True)
    loss = -scale_free(values, 2.5)
    assert loss.item() == pytest.approx(-0.8333333)
    (gradient,) = torch.autograd.grad(loss, values)
    np.testing.assert_allclose(gradient, [-0.625 / 3] * 3, rtol=1e-6)  # none flows through mean |Q|
    again = values.detach().mul(7).requires_grad_()
    (scaled,) = torch.autograd.grad(-scale_free(again, 2.5), again)
    np.testing.assert_allclose(7 * scaled, gradient, rtol=1e-6)  # the gradient in the action is the same at any scale


def test_the_expectile_loss_and_its_half():
    target, value = torch.tensor([-1.0, 0.5, 2.0]), torch.zeros(3, requires_grad=True)
    loss = expectile(0.7)(value, target, value)
    assert loss.detach().tolist() == pytest.approx([0.3, 0.175, 2.8]) and loss.mean().item() == pytest.approx(1.091667)
    half = expectile(0.5)(value, target, value)
    np.testing.assert_allclose(half.detach(), 0.5 * target**2, rtol=1e-6)
    exact = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: expectile(0.8)(v, torch.arange(5.0).double(), v), (exact,))


def test_the_expectile_is_where_the_loss_is_least():
    """Of 0 with chance .8 and 1 with .2: τ·.2·(1 − v) = (1 − τ)·.8·v, so v = .2τ/(.2τ + .8(1 − τ))."""
    target = torch.tensor([0.0] * 8 + [1.0] * 2, dtype=torch.float64)
    for level in (0.5, 0.7, 0.9):
        value = torch.zeros((), dtype=torch.float64, requires_grad=True)
        for _ in range(400):
            (slope,) = torch.autograd.grad(expectile(level)(value.expand(10), target, target).mean(), value)
            value = (value - 0.5 * slope).detach().requires_grad_()
        assert value.item() == pytest.approx(0.2 * level / (0.2 * level + 0.8 * (1 - level)), abs=1e-6)


def test_the_weights_of_iql():
    advantage = torch.tensor([-1.0, 0.0, 1.0, 2.0], requires_grad=True)
    found = advantage_weights(advantage, 3.0, 100.0)
    assert found.tolist() == pytest.approx([0.049787, 1, 20.085537, 100], rel=1e-5) and not found.requires_grad


# --- losses of a learner against formulas ----------------------------------------------------------------------------


def test_the_losses_of_iql_are_their_formulas():
    run = learner(IQL(**SIZES, critics=3))
    run.iterate()  # so that targets differ from networks
    w, one = weights(run), batch(run)
    s, a, after = one["observation"], one["action"], one["next_observation"]
    with torch.no_grad():
        least, v = w.target("critic", s, a).min(0).values, w("value", s)
        u = least - v
        assert w.target("critic", s, a).shape == (3, 16)
        asymmetric = torch.where(u < 0, 0.3, 0.7) * u**2
        assert run.method.value_loss(w, one)[0] == pytest.approx(asymmetric.mean().item(), rel=1e-5)
        y = one["reward"] + one["discount"] * w("value", after)
        errors = (w("critic", s, a) - y) ** 2
        assert run.method.critic_loss(w, one)[0] == pytest.approx(errors.mean(1).mean().item(), rel=1e-5)
        params = w("actor", s)
        mean, log_std = params.chunk(2, -1)
        density = (-0.5 * ((a - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
        weight = (3 * u).exp().clamp(max=100)
        assert run.method.actor_loss(w, one)[0] == pytest.approx(-(weight * density).mean().item(), rel=1e-5)
    assert set(one["discount"].tolist()) == {0.0, np.float32(0.99).item()}


def test_the_point_policy_of_iql_is_pulled_by_the_square_summed_over_dimensions():
    run = learner(IQL(**SIZES, policy="deterministic"))
    w, one = weights(run), batch(run)
    with torch.no_grad():
        u = w.target("critic", one["observation"], one["action"]).min(0).values - w("value", one["observation"])
        apart = ((w("actor", one["observation"]) - one["action"]) ** 2).sum(-1)
        assert run.method.actor_loss(w, one)[0] == pytest.approx(((3 * u).exp() * apart).mean().item(), rel=1e-5)


def test_the_losses_of_td3_bc_are_those_of_td3_and_the_distance():
    run = learner(TD3BC(**SIZES))
    run.iterate()
    w, one = weights(run), batch(run)
    with torch.no_grad():
        p = w("actor", one["observation"])
        q = w("critic", one["observation"], p)[0]
        wanted = -2.5 * q.mean() / q.abs().mean() + ((p - one["action"]) ** 2).mean()
        assert run.method.actor_loss(w, one)[0] == pytest.approx(wanted.item(), rel=1e-5)
        of_td3 = TD3(hidden=(16,)).critic_loss(w, one)[0]
        assert run.method.critic_loss(w, one)[0] == of_td3
    assert run.nets["actor"].every == 2 and run.nets["critic"].target_every == run.nets["actor"].target_every == 2


def test_the_losses_of_sac_n_are_those_of_sac_and_its_target_the_minimum_of_all():
    run = learner(SACN(**SIZES, critics=5))
    run.iterate()
    w, one = weights(run), batch(run)
    assert [*run.nets] == ["temperature", "actor", "critic"] and w("critic", one["observation"], one["action"]).shape[
        0
    ] == 5
    with torch.no_grad():
        of_sac = SAC(hidden=(16,))
        for name in ("critic", "actor"):
            assert run.nets[name].loss(w, one)[0] == getattr(of_sac, f"{name}_loss")(w, one)[0]
        following, log_prob = of_sac.act(w, one["next_observation"], one["noise"]["next"])
        least = w.target("critic", one["next_observation"], following).min(0).values
        y = one["reward"] + one["discount"] * (least - w("temperature").exp() * log_prob)
        wanted = ((w("critic", one["observation"], one["action"]) - y) ** 2).mean(1).sum() / 2
        assert run.nets["critic"].loss(w, one)[0] == pytest.approx(wanted.item(), rel=1e-5)


def test_without_value_td3_bc_clones_as_bc_does():
    """α = 0: the same loss in the same weights on the same batch."""
    run, plain = learner(TD3BC(**SIZES, alpha=0.0)), learner(BC(**SIZES))
    run.weights["actor"], one = plain.weights["actor"], batch(plain)
    assert torch.equal(run.method.actor_loss(weights(run), one)[0], plain.method.actor_loss(weights(plain), one)[0])


def test_without_temperature_iql_clones():
    """β = 0: all weights are 1."""
    run = learner(IQL(**SIZES, inverse_temperature=0.0))
    assert run.method.actor_loss(weights(run), batch(run))[1]["advantage_weight"] == 1


# --- what is learned -------------------------------------------------------------------------------------------------


def test_bc_learns_the_mean_action_and_of_the_best_episodes_the_best():
    """The actions of good episodes are near +½, those of bad ones near −½."""
    rng, rows = np.random.default_rng(0), 400
    good = np.arange(rows) % 2 == 0
    action = (np.where(good, 0.5, -0.5) + 0.05 * rng.normal(size=rows)).astype(np.float32)[:, None]
    data = dataclasses.replace(target_data(rows), action=action, reward=good.astype(np.float32))
    for share, wanted in ((1.0, 0.0), (0.5, 0.5)):
        run = learner(BC(hidden=(16,), learning_rate=3e-3, log_every=400, share=share), data)
        run.iterate()
        assert len(run.data) == share * rows
        acted = run.agent().predict(data.observation, deterministic=True)[0]
        assert acted.mean() == pytest.approx(wanted, abs=0.05)


def test_iql_knows_the_best_of_the_data_without_asking_for_more():
    """Two actions in one state pay 0 and 1: V rises from their mean to the best as τ does."""
    action = np.array([[-0.5], [0.5]] * 100, np.float32)
    data = dataclasses.replace(target_data(200), action=action, reward=(action[:, 0] > 0).astype(np.float32))
    data = dataclasses.replace(data, observation=np.zeros((200, 1)), next_observation=np.zeros((200, 1)))
    for level, low, high in ((0.5, 0.4, 0.6), (0.95, 0.88, 1.0)):
        run = learner(IQL(hidden=(32,), learning_rate=3e-3, tau=0.05, expectile=level, log_every=500), data)
        run.iterate()
        w = weights(run)
        assert low < w("value", torch.zeros(1, 1)).item() < high
        acted = run.agent().predict(np.zeros((1, 1), np.float32), deterministic=True)[0]
        assert acted > 0.3


def test_a_termination_stops_the_bootstrap_and_a_cut_does_not():
    """Reward 1 a step forever, γ = .9: worth 10 where episodes are only cut, 1 where each step ends one."""
    data = target_data(200)
    ones = dataclasses.replace(data, reward=np.ones(200), observation=0 * data.observation)
    ones = dataclasses.replace(ones, next_observation=ones.observation)
    for cut, worth in ((True, 10.0), (False, 1.0)):
        ends = np.ones(200, bool)
        given = dataclasses.replace(ones, terminated=ends & (not cut), truncated=ends & cut)
        run = learner(IQL(hidden=(16,), learning_rate=1e-2, tau=0.2, gamma=0.9, log_every=1000), given)
        run.iterate()
        assert weights(run)("value", torch.zeros(1, 1)).item() == pytest.approx(worth, rel=0.1)


def test_the_bounded_gaussian_keeps_to_its_box_and_counts_its_ends():
    box = BoundedGaussian(dim=2, low=(-2.0, 0.0), high=(2.0, 1.0))
    params = torch.tensor([0.9, -0.9, 0.0, 0.0], dtype=torch.float64)
    noise = torch.randn(500, 2, generator=torch.manual_seed(0)).double()
    acted = box.to_env(box.sample(params, noise))
    assert acted[:, 0].max() == 2 and acted[:, 1].min() == 0 and acted[:, 0].min() >= -2 and acted[:, 1].max() <= 1
    assert torch.isfinite(box.log_prob(params, torch.ones(2, dtype=torch.float64)))
    assert box.mode(params).tolist() == [0.9, -0.9]


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        (TD3BC, {"num_envs": 4}, "TD3BC: num_envs=4 has no effect in this method; leave it out"),
        (TD3BC, {"exploration_noise": 0.2}, "exploration_noise=0.2 has no effect"),
        (BC, {"gamma": 0.9}, "gamma=0.9 has no effect"),
        (BC, {"share": 0.0}, r"share=0.0 is not allowed; it must be a number in \(0, 1\]"),
        (IQL, {"expectile": 1.0}, r"expectile=1.0 is not allowed; it must be a number in \(0, 1\)"),
        (IQL, {"policy": "point"}, "one of 'gaussian', 'deterministic'"),
        (IQL, {"inverse_temperature": -1.0}, "inverse_temperature=-1.0 is not allowed"),
    ],
)
def test_settings_without_sense_are_refused(method, values, said):
    with pytest.raises(UsageError, match=said):
        method(**values)


def test_a_dictionary_of_observations_is_refused():
    class Goals(gym.Env):
        observation_space = gym.spaces.Dict({"x": gym.spaces.Box(-1, 1, (2,))})
        action_space = gym.spaces.Box(-1, 1, (2,))

    with pytest.raises(UsageError, match=r"observations of the shape \(2,\), but those of the environment are Dict"):
        sf.train("bc", data=walk_data(), env=Goals, steps=1)

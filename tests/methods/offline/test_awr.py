"""AWR: its returns by recursion, its weights by hand, its limits, and the mean that it must find in a bandit."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from micro_data import target_data, walk_data

from surefoot.errors import UsageError
from surefoot.loops.common.run import make_learner
from surefoot.loops.networks.nets import Weights
from surefoot.methods.offline.awr import AWR, lambda_returns
from surefoot.methods.offline.baselines import IQL
from surefoot.objectives.advantages import gae
from surefoot.objectives.bootstrap import advantage_weights

SIZES = {"batch_size": 16, "log_every": 20, "refresh": 20, "hidden": (16,)}


def learner(method, data=None, seeds=(0,), steps: int = 1000):
    return make_learner(method, "", list(seeds), steps, data=walk_data() if data is None else data)


def looked_up(run) -> dict:
    """A batch with what is looked up before a step, `[seeds, size, ...]`."""
    run.draw()
    batch = run.batch()
    return batch | run._before(batch, run.due())


def episodes(rows: int = 60, seed: int = 0):
    """Rewards, discounts and values of episodes that are cut or terminated, in double precision."""
    rng = np.random.default_rng(seed)
    ended = rng.random(rows) < 0.15
    ended[-1] = True
    terminated = ended & (rng.random(rows) < 0.5)
    reward, value = (torch.from_numpy(rng.normal(size=rows)) for _ in range(2))
    discount = torch.from_numpy(np.where(terminated, 0.0, 0.9))
    return reward, discount, value, torch.from_numpy(ended)


# --- returns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_the_returns_are_those_of_the_recursion(lam):
    reward, discount, following, last = episodes()
    wanted = torch.zeros_like(reward)
    for t in reversed(range(len(reward))):
        later = following[t] if last[t] else (1 - lam) * following[t] + lam * wanted[t + 1]
        wanted[t] = reward[t] + discount[t] * later
    found = lambda_returns(reward, discount, following, last, lam)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    two = lambda_returns(reward, discount, torch.stack([0 * following, following]), last, lam)
    assert torch.equal(two[1], found)


def test_the_returns_by_hand():
    """Rewards 1, 2, 4, γ = ½, V(s') = 8: the last row gets 4 + 4 when cut and 4 when terminated. With λ = ½ the row
    before gets 2 + ½·(½·8 + ½·8) = 6 or 2 + ½·(½·8 + ½·4) = 5."""
    reward, value, last = torch.tensor([1.0, 2.0, 4.0]), torch.full((3,), 8.0), torch.tensor([False, False, True])
    cut = lambda_returns(reward, torch.full((3,), 0.5), value, last, 0.5)
    assert cut.tolist() == [1 + 0.5 * (4 + 3), 6, 8]
    ended = lambda_returns(reward, torch.tensor([0.5, 0.5, 0.0]), value, last, 0.5)
    assert ended.tolist() == [1 + 0.5 * (4 + 2.5), 5, 4]


def test_at_the_ends_of_lambda_they_are_one_step_and_the_recorded_return():
    reward, discount, following, last = episodes()
    one = lambda_returns(reward, discount, following, last, 0.0)
    assert torch.equal(one, reward + discount * following)
    whole = lambda_returns(reward, (~last).double(), following, last, 1.0)
    first = 0
    for past in (torch.where(last)[0] + 1).tolist():
        assert whole[first].item() == pytest.approx(reward[first:past].sum().item(), abs=1e-12)
        first = past


def test_less_the_value_they_are_generalized_advantages():
    reward, discount, following, last = episodes()
    value = torch.randn(len(reward), generator=torch.manual_seed(0)).double()
    value[1:] = torch.where(last[:-1], value[1:], following[:-1])  # V(s') is V of the next row
    found = lambda_returns(reward, discount, following, last, 0.7) - value
    signals = {"values": value, "next_values": following, "terminated": discount == 0, "truncated": last}
    np.testing.assert_allclose(found, gae(gamma=0.9, lam=0.7)(reward, **signals), atol=1e-12)


def test_their_gradient_is_that_of_differences():
    reward, discount, following, last = episodes(12)
    exact = reward.requires_grad_(), following.requires_grad_()
    assert torch.autograd.gradcheck(lambda r, v: lambda_returns(r, discount, v, last, 0.8), exact)


# --- what is looked up, and the losses -------------------------------------------------------------------------------


def test_what_is_looked_up_is_what_v_says_of_the_whole_data():
    """Also where a next observation is not that of the next row, as in data that are partly wrong."""
    data = walk_data()
    moved = data.next_observation.copy()
    moved[5:9] += 3
    run = learner(AWR(**SIZES, lam=0.8), dataclasses.replace(data, next_observation=moved), seeds=(0, 1))
    run.iterate()
    batch = looked_up(run)
    mean, inverse = (x[0] for x in run.scales()[""])
    for seed in range(2):

        def value(x, seed=seed):
            seen = ((torch.from_numpy(x) - mean) * inverse).clamp(-10, 10)
            with torch.no_grad():
                return run.functions["value"](run.weights["value"][seed], seen)

        now, following = value(run.data.observation), value(run.data.next_observation)
        ends = torch.from_numpy(run.data.ended)
        returns = lambda_returns(torch.from_numpy(run.data.reward), run.columns["discount"], following, ends, 0.8)
        index = batch["index"][seed]
        np.testing.assert_allclose(batch["return"][seed], returns[index], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(batch["advantage"][seed], (returns - now)[index], rtol=1e-4, atol=1e-5)


def test_returns_stay_until_the_next_refresh():
    run = learner(AWR(**{**SIZES, "refresh": 10}))
    run.draw()
    found, batch = [], run.batch()
    for _ in range(21):
        found.append(run._before(batch, run.due())["return"])
        run.update()
    assert all(torch.equal(found[0], x) for x in found[1:10]) and torch.equal(found[10], found[19])
    assert not torch.equal(found[9], found[10]) and not torch.equal(found[19], found[20])


def test_the_weights():
    """β = .05: A = −.05, 0, .1, .2 give e⁻¹, 1, e² and not e⁴ but the limit, 20."""
    advantage = torch.tensor([-0.05, 0.0, 0.1, 0.2])
    found = advantage_weights(advantage, 1 / AWR().temperature, AWR().largest_weight)
    assert found.tolist() == pytest.approx([math.exp(-1), 1, math.exp(2), 20], rel=1e-5)


def test_the_losses_are_their_formulas():
    run = learner(AWR(**SIZES, temperature=0.5))
    run.iterate()
    w = Weights(run.functions, {name: x[0] for name, x in run.weights.items()}, {}, {})
    batch = {k: x[0] for k, x in looked_up(run).items() if k != "noise"}
    with torch.no_grad():
        v = w("value", batch["observation"])
        assert run.method.value_loss(w, batch)[0] == pytest.approx(((batch["return"] - v) ** 2).mean().item(), rel=1e-6)
        mean, log_std = w("actor", batch["observation"]).chunk(2, -1)
        apart = 0.5 * ((batch["action"] - mean) / log_std.exp()) ** 2 + log_std + 0.5 * math.log(2 * math.pi)
        wanted = ((2 * batch["advantage"]).exp().clamp(max=20) * apart.sum(-1)).mean()
        assert run.method.actor_loss(w, batch)[0] == pytest.approx(wanted.item(), rel=1e-5)


def test_released_advantages_are_standardised_over_the_data():
    advantage = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    found = AWR(**AWR.presets["released"]).scaled(advantage)
    one = math.sqrt(1.5)
    np.testing.assert_allclose(found, [[-one, 0, one], [-one, 0, one]], rtol=1e-4)
    assert torch.equal(AWR().scaled(advantage), advantage)


# --- limits and what is learned --------------------------------------------------------------------------------------


def bandit():
    """One state and the actions −½ and ½, which pay 0 and 1."""
    action = np.array([[-0.5], [0.5]] * 100, np.float32)
    still = np.zeros((200, 1), np.float32)
    reward = (action[:, 0] > 0).astype(np.float32)
    return dataclasses.replace(
        target_data(200), action=action, reward=reward, observation=still, next_observation=still
    )


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_in_a_bandit_the_mean_is_the_tilted_one(beta):
    """V = ½ and A = ±½, so the best mean is ½·(e^½β − e^−½β)/(e^½β + e^−½β) = ½·tanh(1/2β)."""
    data = bandit()
    alone = dataclasses.replace(data, terminated=np.ones(200, bool), truncated=np.zeros(200, bool))
    method = AWR(temperature=beta, hidden=(16,), learning_rate=3e-3, log_every=800, refresh=50)
    run = learner(method, alone)
    run.iterate()
    run.iterate()
    assert run.output("value", torch.zeros(1, 1, 1)).item() == pytest.approx(0.5, abs=0.05)
    acted = run.agent().predict(np.zeros((1, 1), np.float32), deterministic=True)[0]
    assert acted.item() == pytest.approx(0.5 * math.tanh(0.5 / beta), abs=0.04)


def test_when_it_is_hot_it_clones_as_iql_without_temperature_does():
    """β → ∞ and IQL's β = 0: the same loss of the policy in the same weights on the same batch."""
    sizes = {"batch_size": 16, "log_every": 20, "hidden": (16,)}
    runs = learner(AWR(**SIZES, temperature=1e9)), learner(IQL(**sizes, inverse_temperature=0.0))
    assert torch.equal(runs[0].weights["actor"], runs[1].weights["actor"])
    for run in runs:
        run.draw()
    hot, plain = (run.update()["actor_loss"].item() for run in runs)
    assert hot == pytest.approx(plain, rel=1e-6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"refresh": 300}, "refresh=300 is not allowed with log_every=1000.*Give a refresh that divides it"),
        ({"temperature": 0.0}, "temperature=0.0 is not allowed"),
        ({"lam": 1.5}, "lam=1.5 is not allowed"),
        ({"tau": 0.1}, "tau=0.1 has no effect"),
    ],
)
def test_settings_without_sense_are_refused(values, said):
    with pytest.raises(UsageError, match=said):
        AWR(**values)
